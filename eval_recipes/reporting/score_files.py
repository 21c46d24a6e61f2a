"""Folders of embeddings -> scores with their origin: who was scored, how, on which files."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from eval_recipes.embedding.layout import EMBEDDINGS_RECORD
from eval_recipes.results import EMBED_TASKS, PREDICTIONS_RECORD, SCORES, primary_score, task_folders
from hear_dasheng.files import strict_json
from hear_dasheng.files.json_shape import Shape, check_shape
from hear_dasheng.files.strict_json import JsonProblem

NOT_PROTOCOL = ("gpus", "in_memory", "device", "embeddings")
"""What a record of scoring holds besides the protocol: where it was computed, and from which files."""

NO_RECORD = "no record"
METADATA = "task_metadata.json"

RECORD_SHAPE = {"identity?": dict, "versions?": {str: str}, "command?": str, "seconds?": float}
"""Shape of the records that this package writes beside its results."""
IDENTITY_SHAPE = {"module?": str, "checkpoint?": str, "options?": dict, "task?": str}
EMBEDDED_SHAPE = RECORD_SHAPE | {"identity?": IDENTITY_SHAPE}
METADATA_SHAPE = {"evaluation": [str]}
SCORES_SHAPE = {
    "aggregated_scores?": {str: (float, None)},
    "test?": dict,
    "spread_over_seeds?": {"aggregated_scores?": {str: (float, None)}, "test?": {str: (float, None)}},
    "seeds?": [int],
}
"""What is read of a score file; the primary score itself is looked up by the metric's name."""


@dataclass(frozen=True)
class Spread:
    """Sample standard deviation of a score.

    Attributes:
        over: "folds" or "seeds".
        std: in the score's unit.
        count: how many folds or seeds.
    """

    over: str
    std: float
    count: int


@dataclass(frozen=True)
class Origin:
    """What must be equal for two scores to stand in one column.

    Attributes:
        folder: the folder that holds the task folders.
        module: HEAR module, or `NO_RECORD`.
        checkpoint: SHA-256 of the weights, or their name; empty for a module's own default.
        options: the model's options, as sorted JSON.
        protocol: scorer, grid, seeds, as words.
    """

    folder: Path
    module: str
    checkpoint: str
    options: str
    protocol: str


@dataclass(frozen=True)
class TaskResult:
    """One task's primary score.

    Attributes:
        task: folder name, which ends in the task's version.
        metric: the first metric of the task's metadata.
        score: mean over folds and seeds; NaN where the scorer could not tell.
        spreads: over folds, over seeds, or neither.
        task_files: hash of the task's metadata, vocabulary and split lists; empty if not recorded.
        origin: whose score it is.
        records: what was recorded of embedding and scoring (versions, command, seconds).
    """

    task: str
    metric: str
    score: float
    spreads: tuple[Spread, ...]
    task_files: str
    origin: Origin
    records: dict[str, dict[str, Any]]


def read_embedding_folder(folder: Path) -> tuple[list[TaskResult], list[Path]]:
    """Read all scores below a folder of tasks (or of one task).

    Returns:
        The results, and the task folders that are not scored yet.

    Raises:
        click.ClickException: there are no tasks, or a score file is damaged.
    """
    folders = task_folders(folder, remedy=EMBED_TASKS)
    scored = [task for task in folders if (task / SCORES).is_file()]
    return [read_task(task) for task in scored], [task for task in folders if task not in scored]


def read_task(task_dir: Path) -> TaskResult:
    """Read one scored task.

    Raises:
        click.ClickException: naming the file that is damaged, and the remedy.
    """
    scores = read_json(task_dir / SCORES, SCORES_SHAPE)
    read_json(task_dir / METADATA, METADATA_SHAPE)
    try:
        primary = primary_score(task_dir)
        spreads = tuple(read_spreads(scores, primary.metric, primary.std))
        mean = math.nan if primary.mean is None else float(primary.mean)
    except (KeyError, IndexError, JsonProblem) as error:
        raise click.ClickException(
            f"{task_dir / SCORES} lacks the task's primary score ({type(error).__name__}: {error}); "
            "score the task again with --redo"
        ) from error
    embedded = read_json(task_dir / EMBEDDINGS_RECORD, EMBEDDED_SHAPE)
    predicted = read_json(task_dir / PREDICTIONS_RECORD, RECORD_SHAPE)
    identity = embedded.get("identity", {})
    origin = Origin(
        folder=task_dir.resolve().parent,
        module=identity.get("module", NO_RECORD),
        checkpoint=identity.get("checkpoint", ""),
        options=json.dumps(identity.get("options", {}), sort_keys=True),
        protocol=protocol_of(predicted),
    )
    task_files = identity.get("task", "")
    records = {"embeddings": embedded, "scores": predicted}
    return TaskResult(task_dir.name, primary.metric, mean, spreads, task_files, origin, records)


def read_json(path: Path, shape: Shape) -> dict[str, Any]:
    """Return the JSON object of a shape that a file holds, or an empty one if there is no file.

    Raises:
        click.ClickException: naming the file, what is wrong with it, and the remedy.
    """
    if not path.is_file():
        return {}
    try:
        content = strict_json.read_json_object(path, allow_nan=True)  # heareval writes NaN
        check_shape(content, shape, str(path))
    except JsonProblem as error:
        raise click.ClickException(f"{error}; score the task again with --redo") from error
    return content


def read_spreads(scores: dict[str, Any], metric: str, folds_std: float | None) -> list[Spread]:
    """What a score file tells about spread.

    heareval gives one over the folds. A scorer that repeats its training adds `seeds`, the list of
    them, and `spread_over_seeds`, with a deviation wherever heareval has a number.
    """
    key = f"test_{metric}"
    spreads = []
    if folds_std is not None:
        n_folds = sum(isinstance(value, dict) and key in value for value in scores.values())
        spreads.append(Spread("folds", float(folds_std), n_folds))
    over_seeds = scores.get("spread_over_seeds", {})
    if "aggregated_scores" in scores:
        seeds_std = over_seeds.get("aggregated_scores", {}).get(f"{key}_mean")
    else:
        seeds_std = over_seeds.get("test", {}).get(key)
    if seeds_std is not None:
        spreads.append(Spread("seeds", float(seeds_std), len(scores["seeds"])))
    return [spread for spread in spreads if math.isfinite(spread.std)]


def protocol_of(record: dict[str, Any]) -> str:
    """A record of scoring, as words; everything in it that can change a score is among them."""
    if "identity" not in record:
        return f"{NO_RECORD} of the scoring"
    flags = {name: value for name, value in record["identity"].items() if name not in NOT_PROTOCOL}
    scorer = flags.pop("scorer", f"heareval {record.get('versions', {}).get('heareval', '')}".strip())
    words = [f"{_readable(name)} {_readable(value)}" for name, value in flags.items() if value is not None]
    return ", ".join([str(scorer), *words])


def _readable(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("_", " ")
