"""NSynth: single notes, labelled with families of instruments."""

from __future__ import annotations

import json
from pathlib import Path

from eval_recipes.datasets.clips import TEST, TRAIN, Clip, DatasetProblem
from eval_recipes.datasets.files import root_with


def nsynth_instrument(data: Path) -> tuple[Path, list[Clip]]:
    """NSynth: `nsynth-train` and `nsynth-test` (the archives with JSON and WAV) side by side.

    Instruments of the test split are not among those of the training split; the label is their family.
    """
    root = root_with(data, "nsynth-test/examples.json", "NSynth's archives")
    clips = []
    for part in (TRAIN, TEST):
        path = root / f"nsynth-{part}/examples.json"
        try:
            notes = json.loads(path.read_bytes())
            families = {note: its["instrument_family_str"] for note, its in notes.items()}
        except FileNotFoundError as error:
            raise DatasetProblem(f"{path} is not there; the archive nsynth-{part} brings it") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetProblem(
                f"{path} does not list notes with their instrument_family_str ({error!r})"
            ) from error
        clips += [Clip(f"nsynth-{part}/audio/{note}.wav", family, part) for note, family in families.items()]
    return root, clips
