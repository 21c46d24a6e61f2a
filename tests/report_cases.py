"""Scored folders as heareval and this package leave them, for the tests of the report."""

from __future__ import annotations

import hashlib
import json
import random
import statistics
from pathlib import Path

from eval_recipes.reporting.published import estimates, shown_tasks

REFEREE = {"grid_points": 8, "gpus": None, "in_memory": True, "deterministic": True, "grid": "default"}
N_FOLDS = {
    "beijing_opera": 5,
    "esc50": 5,
    "gunshot": 7,
    "libricount": 5,
    "maestro": 5,
    "mridangam": 5,
    "tfds_crema": 5,
    "tfds_gtzan": 10,
    "vocal": 3,
    "vox": 5,
}
VERSIONS = {"python": "3.11.7", "heareval": "2021.1.3", "torch": "2.14.1"}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def scored_task(
    folder: Path,
    metric: str,
    folds: list[float],
    *,
    seeds_std: float | None = None,
    checkpoint: str | None = "a" * 64,
    module: str = "hear_dasheng",
    options: dict | None = None,
    files: str = "",
    protocol: dict | None = REFEREE,
) -> Path:
    """A task folder with scores; one fold means a test split, no checkpoint or protocol means no record."""
    folder.mkdir(parents=True)
    write_json(folder / "task_metadata.json", {"evaluation": [metric, "d_prime"]})
    key = f"test_{metric}"
    if len(folds) == 1:
        content, name = {"test": {"test_d_prime": 1.5, key: folds[0]}}, key
    else:
        content = {f"fold{number:02d}": {key: fold} for number, fold in enumerate(folds)}
        content["aggregated_scores"] = {
            f"{key}_mean": statistics.fmean(folds),
            f"{key}_std": statistics.stdev(folds),
        }
        name = f"{key}_mean"
    if seeds_std is not None:
        group = "test" if len(folds) == 1 else "aggregated_scores"
        content["seeds"], content["spread_over_seeds"] = [42, 43, 44], {group: {name: seeds_std}}
    write_json(folder / "test.predicted-scores.json", content)
    if checkpoint is not None:
        task = files or hashlib.sha256(folder.name.encode()).hexdigest()
        identity = {"module": module, "checkpoint": checkpoint, "options": options or {}, "task": task}
        record(folder / "hear-dasheng.embeddings.json", identity, "hear-dasheng heareval embeddings")
    if protocol is not None:
        record(folder / "hear-dasheng.predictions.json", protocol, "hear-dasheng heareval predictions")
    return folder


def record(path: Path, identity: dict, command: str) -> None:
    write_json(path, {"identity": identity, "command": command, "versions": VERSIONS, "seconds": 12.3})


def scored_benchmark(
    folder: Path, seed: int, level: float = 1.0, without: tuple[str, ...] = (), **options
) -> Path:
    """All 20 folders of HEAR with plausible scores: the published estimates times `level`, with noise."""
    chance = random.Random(seed)
    plausible = {name: found.score for name, found in estimates().items()}
    for task in shown_tasks().values():
        if task.folder in without:
            continue
        n_folds = next((n for name, n in N_FOLDS.items() if task.folder.startswith(name)), 1)
        score = plausible.get(task.folder, 0.6) * level
        folds = [min(1.0, max(0.0, chance.gauss(score, 0.02))) for _ in range(n_folds)]
        scored_task(folder / task.folder, task.metric, folds, **options)
    return folder
