"""`hear-dasheng score`: embeddings in heareval's layout -> `test.predicted-scores.json`, fast.

The same protocol, file and names as `hear-dasheng heareval predictions`, which stays the referee.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from eval_recipes import provenance
from eval_recipes.embedding.layout import EMBEDDINGS_DONE
from eval_recipes.redo_journal import RedoJournal
from eval_recipes.results import EMBED_TASKS, PREDICTIONS_DONE, PREDICTIONS_RECORD, SCORES, task_folders
from eval_recipes.scored_task import summary
from eval_recipes.scoring.grid import OFFICIAL_SEED
from eval_recipes.scoring.score_file import SCORER, combine
from eval_recipes.task_checks import TaskProblem, check_embeddings
from eval_recipes.task_lists import read_metadata
from eval_recipes.task_loop import for_each_task
from hear_dasheng.files.failures import Command
from hear_dasheng.files.number_options import WholeRange
from process_memory import keep_freed_memory


@click.command(cls=Command)
@click.argument("embedding_dirs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=WholeRange(1, 1000),
    help=f"Runs, from seed {OFFICIAL_SEED} on.",
)
@click.option(
    "--grid", default="default", show_default=True, type=click.Choice(["default", "fast", "faster"])
)
@click.option("--grid-points", default=8, show_default=True, type=WholeRange(), help="Points drawn.")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "bf16"]),
    help="Of the products in training.",
)
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda, cuda:1.")
@click.option(
    "--redo",
    is_flag=True,
    help="Score again what is scored already; if stopped, the same command resumes.",
)
def score(embedding_dirs: tuple[str, ...], redo: bool, **flags: Any) -> None:
    """Train and score heareval's probes on EMBEDDING_DIRS (task folders, or folders of them), fast."""
    folders = [folder for given in embedding_dirs for folder in task_folders(Path(given), remedy=EMBED_TASKS)]
    _check_device(flags["device"])
    keep_freed_memory()
    workers = len(os.sched_getaffinity(0)) if flags["device"] == "cpu" else 1
    journal = RedoJournal(folders[0].parent, {"scorer": SCORER, **flags}, folders) if redo else None
    with ThreadPoolExecutor(workers) as pool:
        for_each_task(folders, lambda folder: _score_task(folder, flags, journal, pool))


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise click.BadParameter(f"--device {device!r} cannot be used here: {reason}") from error


def _score_task(
    folder: Path, flags: dict[str, Any], journal: RedoJournal | None, pool: ThreadPoolExecutor
) -> None:
    """Score a task; with a journal, also one that is scored, unless this `--redo` has scored it already."""
    if not (folder / EMBEDDINGS_DONE).exists():
        raise TaskProblem(f"{folder} holds no finished embeddings; embed the task first")
    identity = {"scorer": SCORER, **flags, "embeddings": embeddings_hash(folder)}
    record = folder / PREDICTIONS_RECORD
    changed = provenance.difference(record, identity)
    if (folder / SCORES).exists() and journal is None:
        if changed:
            raise TaskProblem(f"{folder} was scored in another way ({changed}); --redo scores it anew")
        click.echo("  already scored")
        return
    if (folder / SCORES).exists() and journal and journal.has(folder) and not changed:
        click.echo(f"  {journal.skipped()}")
        return
    start = time.monotonic()
    try:
        content = score_folder(folder, flags, pool)
    except ValueError as error:  # of this task's data or settings; the other tasks go on
        raise TaskProblem(str(error)) from error
    _write(folder, content, identity, time.monotonic() - start)
    if journal:
        journal.add(folder)
    click.echo(f"  {summary(folder)} in {time.monotonic() - start:.0f} s")


def _write(folder: Path, content: dict[str, Any], identity: dict[str, Any], seconds: float) -> None:
    """Write the scores and the record of what they were made from.

    A kill between the two must leave no scores that a later run cannot recognise, and no record beside the
    scores of something else. So the record comes first where there are no scores yet. Scores that are
    replaced lose their record before, and get the new one afterwards.
    """
    record, replaces = folder / PREDICTIONS_RECORD, (folder / SCORES).exists()
    (folder / PREDICTIONS_DONE).unlink(missing_ok=True)
    if replaces:
        record.unlink(missing_ok=True)
    else:
        provenance.record(record, identity, seconds)
    provenance.write_json(folder / SCORES, content)
    if replaces:
        provenance.record(record, identity, seconds)


def score_folder(folder: Path, flags: dict[str, Any], pool: ThreadPoolExecutor) -> dict[str, Any]:
    """Run the protocol on one task folder, all seeds side by side.

    Args:
        folder: with embeddings.
        flags: `seeds`, `grid`, `grid_points`, `precision`, `device`.
        pool: where trainings run.

    Returns:
        The content of its score file.

    Raises:
        TaskProblem: a file is missing, broken or does not fit the others.
    """
    from eval_recipes.scoring.protocol import Protocol, Settings, scoring_arithmetic
    from eval_recipes.scoring.task_data import TaskData

    settings = Settings(**{name: value for name, value in flags.items() if name != "seeds"})
    task, stop = TaskData(folder), threading.Event()
    task.splits(tuple(task.metadata["splits"]))
    check_embeddings(folder)
    seeds = range(OFFICIAL_SEED, OFFICIAL_SEED + flags["seeds"])
    total = flags["seeds"] * (flags["grid_points"] + len(task.folds) - 1)
    with scoring_arithmetic(), tqdm(total=total, desc="  probes", leave=False, disable=None) as bar:
        protocol = Protocol(task, settings, pool, on_trained=bar.update, stop=stop)
        with ThreadPoolExecutor(len(seeds)) as runs:
            try:
                return combine(list(runs.map(protocol.run, seeds)))
            except BaseException:
                stop.set()  # or leaving this block would wait for all trainings
                raise


def embeddings_hash(folder: Path) -> str:
    """Hash of all files that scores are made from: vectors, labels, times, metadata."""
    names = ("*.embeddings.npy", "*.target-labels.pkl", "*.filename-timestamps.json", "labelvocabulary.csv")
    splits = read_metadata(folder)["splits"]
    files = [file for name in (*names, "task_metadata.json") for file in folder.glob(name)]
    files += [folder / f"{split}.json" for split in splits]
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        digest.update(f"{file.name} {provenance.sha256_of(file)}\n".encode())
    return digest.hexdigest()
