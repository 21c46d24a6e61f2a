"""A run's classes: named in a file, or found in the shards; agreed by all processes, kept for `--resume`."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from hear_dasheng.audioset import audioset_names
from pretrain.reading.clip_labels import ClipLabels, LabelColumn, balancing_repeats, some
from pretrain.reading.count_labels import CLIPS, count_labels
from pretrain.training.data import configured_sources
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.processes import Processes
from pretrain.training.read_config import ConfigError
from pretrain.training.run_folder import CLASSES_FILE, latest_state, written

logger = logging.getLogger(__name__)

AUDIOSET = "audioset"


def agreed_labels(config: FinetuneConfig, run_dir: Path, processes: Processes) -> ClipLabels:
    """What clips can be, the same on all processes; all must call this.

    Without a file of classes, or with `balanced`, all labels in train_data are counted first, and those in
    cv_data checked; of shards that can seek no audio is read. What a resumed run began with stays.

    Raises:
        ConfigError: a file of classes that is none; other classes than the run began with.
        UnusableLabels: a clip has no label, or one of no class.
    """
    path = run_dir / CLASSES_FILE
    named = None if config.classes is None else named_classes(config.classes)
    column = _label_column(config, named or ())
    asked = {
        "task": config.task,
        "label_column": column.name,
        "label_separator": column.separator,
        "balanced": config.balanced,
    }
    if latest_state(run_dir) is not None and path.exists():
        kept = _read_classes(path)
        _check_unchanged(kept, asked, named, path)
    else:
        kept = asked | _found_classes(config, column, named, processes)
        if processes.rank == 0:
            with written(path) as partial:
                partial.write_text(json.dumps(kept, indent=1) + "\n")
    repeats = balancing_repeats(kept["clips_of_class"], kept["clips"]) if config.balanced else None
    return ClipLabels(column, tuple(kept["classes"]), repeats, config.balanced_max_repeats)


def _read_classes(path: Path) -> dict[str, Any]:
    """Read the classes of a run that is resumed."""
    try:
        kept = json.loads(path.read_text())
        if not all(isinstance(name, str) for name in kept["classes"]):
            raise ValueError("a class is not named by a string")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot resume: {path}, the classes of the run, is damaged ({error!r}); restore it, or choose "
            "another run_dir"
        ) from error
    return kept


def _label_column(config: FinetuneConfig, named: tuple[str, ...]) -> LabelColumn:
    """Where labels stand; unless a class is named so, a separator in a single label is a mistake."""
    separator = config.label_separator
    if config.is_multi_label:
        return LabelColumn(config.label_column, separator)
    is_in_a_name = any(separator in name for name in named)
    return LabelColumn(config.label_column, None, refused=None if is_in_a_name else separator)


def named_classes(source: str) -> tuple[str, ...]:
    """The classes that a file names, one a line, or those of AudioSet.

    Raises:
        ConfigError: it cannot be read, is empty, or names a class twice.
    """
    if source == AUDIOSET:
        return audioset_names()
    try:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"classes {source}: {error}; give a text file with a class a line, or {AUDIOSET!r}"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice:
        raise ConfigError(
            f"classes {source} " + (f"names {some(twice)} twice" if twice else "names no class")
        )
    return names


def in_order(labels: list[str]) -> list[str]:
    """Labels found in shards: by value if all are whole numbers, else by letters.

    >>> in_order(["10", "9"]), in_order(["b", "a", "10"])
    (['9', '10'], ['10', 'a', 'b'])
    """
    is_numbers = all(label.isdecimal() for label in labels)
    return sorted(labels, key=int) if is_numbers else sorted(labels)


def _found_classes(
    config: FinetuneConfig, column: LabelColumn, named: tuple[str, ...] | None, processes: Processes
) -> dict[str, Any]:
    """The classes' names, and if they were counted, the clips of each and in all."""
    if named is not None and not config.balanced:
        return {"classes": list(named)}
    known = None if named is None else ClipLabels(column, named)
    counts = _counts(config, "train_data", column, known, processes)
    clips = counts.pop(CLIPS, 0)
    names = list(named) if named is not None else in_order(list(counts))
    if not names or not counts:
        raise ConfigError(f"train_data {config.train_data} holds no labels in column {column.name!r}")
    known = known or ClipLabels(column, tuple(names))
    numbers = known.numbers_of(counts, "train_data")
    clips_of_class = [0] * len(names)
    for label, count in counts.items():
        clips_of_class[numbers[label]] += count
    # Checked now; else a wrong label would end the first epoch.
    _counts(config, "cv_data", column, known, processes)
    logger.info(
        "%d clips of %d classes, from %d of each to %d", clips, len(names), *_extremes(clips_of_class)
    )
    return {"classes": names, "clips_of_class": clips_of_class, "clips": clips}


def _counts(
    config: FinetuneConfig, key: str, column: LabelColumn, known: ClipLabels | None, processes: Processes
) -> Counter[str]:
    """Clips of each label, counted by all processes together; the error of one is raised on all."""
    urls = list(dict.fromkeys(url for source in configured_sources(config, key) for url in source.urls))
    own = urls[processes.rank :: processes.count]
    return processes.merged(
        processes.agreed(
            lambda: count_labels(
                own,
                column,
                known=known,
                max_member_bytes=config.max_member_mib << 20,
                shows_progress=processes.rank == 0,
            )
        )
    )


def _extremes(counts: list[int]) -> tuple[int, int]:
    return min(counts), max(counts)


def _check_unchanged(
    kept: dict[str, Any], asked: dict[str, Any], named: tuple[str, ...] | None, path: Path
) -> None:
    """Refuse to go on with other classes: what the head has learned would mean something else."""
    different = [
        f"{key} {kept.get(key)!r}, here {value!r}" for key, value in asked.items() if kept.get(key) != value
    ]
    if named is not None and list(named) != kept["classes"]:
        theirs, ours = set(kept["classes"]), set(named)
        gone, new = some(sorted(theirs - ours)), some(sorted(ours - theirs))
        different.append(f"other classes (gone: {gone or 'none'}; new: {new or 'none'}), or another order")
    if different:
        raise ConfigError(
            f"the run began with {'; '.join(different)} ({path}). Restore these settings, or choose another "
            "run_dir"
        )
