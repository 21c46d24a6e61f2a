"""VoxCeleb1 (who speaks) and RAVDESS-Speech (in which mood)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from eval_recipes.datasets.clips import TEST, TRAIN, Clip, DatasetProblem
from eval_recipes.datasets.files import read_lines, root_with

VOXCELEB_PARTS = {"1": TRAIN, "2": None, "3": TEST}
"""The parts in iden_split.txt; the second is for development, and not used."""

VOXCELEB_FOLDERS = ("wav", "dev/wav", "test/wav", "vox1_dev_wav/wav", "vox1_test_wav/wav")
"""Where speakers' folders are: both archives unpack to `wav`, but some keep them apart."""

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""In the order of their numbers in RAVDESS's file names."""

ACTORS, ACTORS_A_FOLD = 24, 6


def voxceleb1(data: Path) -> tuple[Path, list[Clip]]:
    """VoxCeleb1 identification: `iden_split.txt` beside the folders `wav/id10001` to `wav/id11251`.

    Speakers are the same in training and test, their videos differ.
    """
    root = root_with(data, "iden_split.txt", "VoxCeleb1 (with the publisher's iden_split.txt in it)")
    places: dict[str, str] = {}
    clips = []
    for number, line in enumerate(read_lines(root / "iden_split.txt"), 1):
        part, _, path = line.partition(" ")
        if part not in VOXCELEB_PARTS or path.count("/") != 2:
            raise DatasetProblem(
                f"{root / 'iden_split.txt'}, line {number}: {line!r} is not `part id/video/file`"
            )
        speaker = path.partition("/")[0]
        if speaker not in places:
            there = [folder for folder in VOXCELEB_FOLDERS if (root / folder / speaker).is_dir()]
            places[speaker] = there[0] if there else VOXCELEB_FOLDERS[0]
        if its_part := VOXCELEB_PARTS[part]:
            clips.append(Clip(f"{places[speaker]}/{path}", speaker, its_part))
    return root, clips


def ravdess_speech(data: Path) -> tuple[Path, list[Clip]]:
    """RAVDESS-Speech: `Actor_01` to `Actor_24`, audio only.

    There is no official split. Here are 4 folds of 6 actors each (1 to 6, 7 to 12, ...), three women
    and three men, so that no actor is asked for among takes of the same actor.
    """
    root = root_with(data, "Actor_01", "RAVDESS's Audio_Speech_Actors_01-24.zip")
    return root, list(_ravdess_clips())


def _ravdess_clips() -> Iterator[Clip]:
    """All 1440, which their names determine: two statements, twice each, strong moods too but for neutral."""
    for actor, emotion, intensity, statement, take in product(
        range(1, ACTORS + 1), range(len(EMOTIONS)), (1, 2), (1, 2), (1, 2)
    ):
        if EMOTIONS[emotion] == "neutral" and intensity == 2:
            continue
        name = f"03-01-{emotion + 1:02}-{intensity:02}-{statement:02}-{take:02}-{actor:02}.wav"
        fold = str(1 + (actor - 1) // ACTORS_A_FOLD)
        yield Clip(f"Actor_{actor:02}/{name}", EMOTIONS[emotion], fold)
