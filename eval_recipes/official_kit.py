"""heareval as commands: `heareval embeddings` and `heareval predictions`.

The kit runs unmodified, one task a process. Around it stand the checks that keep
a user out of its traps: embeddings left from another checkpoint, a run that was
interrupted but marked done, values that are not finite, one bad task that stops
all others, logs strewn about the working directory.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from eval_recipes import provenance
from eval_recipes.embedding.layout import EMBEDDINGS_DONE, EMBEDDINGS_RECORD, embedding_folder
from eval_recipes.embedding.output_folder import locked
from eval_recipes.model_arguments import model_option, parse_options
from eval_recipes.official import describe_module, require_tools, run_tool
from eval_recipes.results import (
    EMBED_TASKS,
    PREDICTIONS_DONE,
    PREDICTIONS_RECORD,
    SCORES,
    scores_that_are_nan,
    task_folders,
)
from eval_recipes.scored_task import summary
from eval_recipes.task_checks import TaskProblem, check_embeddings, check_task_audio
from eval_recipes.task_loop import for_each_task
from hear_dasheng.files.failures import Group
from hear_dasheng.files.number_options import WholeRange

LOG_TAIL_LINES = 25


def _fail_with_log(what: str, code: int, log: Path | None) -> TaskProblem:
    if log is None:
        return TaskProblem(f"{what} ended with exit code {code}; its output is above")
    tail = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return TaskProblem(f"{what} ended with exit code {code}; the end of {log}:\n    " + "\n    ".join(tail))


@click.group(cls=Group)
def heareval() -> None:
    """Run HEAR's official evaluation kit, heareval."""


@heareval.command()
@click.argument("module")
@model_option
@click.option(
    "--tasks-dir", default="tasks", show_default=True, type=click.Path(exists=True, file_okay=False)
)
@click.option("--task", default="all", show_default=True, help="One task; without its version, all versions.")
@click.option("--embeddings-dir", default="embeddings", show_default=True)
@click.option("--model-options", default="{}", help="JSON options for load_model.")
@click.option("--redo", is_flag=True, help="Replace embeddings that are there already.")
@click.option("--quiet", is_flag=True, help="Write the tool's output to a log instead of the screen.")
def embeddings(
    module: str,
    model: str | None,
    tasks_dir: str,
    task: str,
    embeddings_dir: str,
    model_options: str,
    redo: bool,
    quiet: bool,
) -> None:
    """Embed HEAR tasks with MODULE; finished tasks are kept, unfinished ones begun anew."""
    require_tools()
    options = parse_options(model_options)
    into = embedding_folder(Path(embeddings_dir), module, options)
    if (Path(tasks_dir) / "task_metadata.json").is_file():
        above, name = Path(tasks_dir).resolve().parent, Path(tasks_dir).resolve().name
        raise click.ClickException(
            f"{tasks_dir} is one task; heareval wants the folder above it: --tasks-dir {above} --task {name}"
        )
    folders = task_folders(Path(tasks_dir), task)
    described = describe_module(module, model, options)
    if described["is_training"]:
        raise click.ClickException(
            f"{module}.load_model returns a model in training mode and heareval never calls eval(): "
            "its embeddings would be random; call .eval() in load_model"
        )
    model_identity = provenance.model_identity(module, model, options, described["checkpoint_path"])
    if provenance.are_unidentified(model_identity):
        click.echo(f"{module} has {provenance.UNIDENTIFIED}", err=True)

    def embed(task_dir: Path) -> None:
        out = into / task_dir.name
        with locked(out):
            embed_into(out, task_dir)

    def embed_into(out: Path, task_dir: Path) -> None:
        identity = model_identity | {"task": provenance.task_identity(task_dir)}
        if (out / EMBEDDINGS_DONE).exists() and not redo:
            if changed := provenance.difference(out / EMBEDDINGS_RECORD, identity):
                raise TaskProblem(
                    f"{out} holds embeddings of something else ({changed}); "
                    "--redo replaces them, another --embeddings-dir keeps both"
                )
            click.echo("  already embedded")
            return
        check_task_audio(task_dir, described["sample_rate"])
        (out / EMBEDDINGS_DONE).unlink(missing_ok=True)  # the tool itself replaces what is not marked done
        log = None
        if quiet:
            out.parent.mkdir(parents=True, exist_ok=True)
            log = out.parent / f"{task_dir.name}.embeddings.log"
            log.unlink(missing_ok=True)
        start = time.monotonic()
        is_path = bool(model) and os.path.exists(model)
        arguments = ["embeddings", "" if is_path else model or "", module]
        arguments += ["--tasks-dir", tasks_dir, "--task", task_dir.name]
        arguments += ["--embeddings-dir", embeddings_dir, "--model-options", json.dumps(options)]
        code = run_tool(arguments + (["--model", model] if is_path else []), log=log)
        if code:
            raise _fail_with_log("heareval.embeddings.runner", code, log)
        try:
            check_embeddings(out)
        except TaskProblem:
            (out / EMBEDDINGS_DONE).unlink(missing_ok=True)
            raise
        provenance.record(out / EMBEDDINGS_RECORD, identity, time.monotonic() - start)
        click.echo(f"  embedded in {time.monotonic() - start:.0f} s: {out}")

    for_each_task(folders, embed, redo=redo)


@heareval.command()
@click.argument("embedding_dirs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option(
    "--grid-points", default=8, show_default=True, type=WholeRange(), help="Points of the random search."
)
@click.option("--gpus", help='GPUs as a JSON list; the tool takes "[0]" where there is one.')
@click.option("--in-memory", default=True, show_default=True, type=bool)
@click.option("--deterministic", default=True, show_default=True, type=bool)
@click.option(
    "--grid", default="default", show_default=True, type=click.Choice(["default", "fast", "faster"])
)
@click.option(
    "--shuffle", default=False, show_default=True, type=bool, help="Shuffle the order of the tasks."
)
@click.option("--redo", is_flag=True, help="Score anew what is scored already.")
@click.option("--quiet", is_flag=True, help="Write the tool's output to a log instead of the screen.")
@click.option(
    "--logs-dir", type=click.Path(file_okay=False), help="Keep Lightning's logs (100 MB a task) here."
)
def predictions(
    embedding_dirs: tuple[str, ...], redo: bool, quiet: bool, logs_dir: str | None, **flags: Any
) -> None:
    """Train and score heareval's probes on EMBEDDING_DIRS (task folders, or folders of them)."""
    require_tools()
    folders = [folder for given in embedding_dirs for folder in task_folders(Path(given), remedy=EMBED_TASKS)]
    if flags.pop("shuffle"):
        random.shuffle(folders)

    def score(task_dir: Path) -> None:
        scores = task_dir / SCORES
        if (task_dir / PREDICTIONS_DONE).exists() and not redo:
            if changed := provenance.difference(task_dir / PREDICTIONS_RECORD, flags):
                raise TaskProblem(f"{task_dir} was scored in another way ({changed}); --redo scores it anew")
            click.echo("  already scored")
            return
        if not (task_dir / EMBEDDINGS_DONE).exists():
            raise TaskProblem(f"{task_dir} holds no finished embeddings; run `hear-dasheng embed` first")
        check_embeddings(task_dir)
        log = task_dir / "hear-dasheng.predictions.log" if quiet else None
        if log:
            log.unlink(missing_ok=True)
        start = time.monotonic()
        arguments = [
            f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value is not None
        ]
        with _old_scores_back_on_failure(task_dir):
            code = _run_in_scratch(task_dir, arguments, log, logs_dir)
            if code or not scores.exists():
                raise _fail_with_log("heareval.predictions.runner", code, log)
        if undefined := scores_that_are_nan(task_dir):
            click.echo(
                f"  warning: not a number, and not strict JSON in {scores}: {', '.join(undefined)}", err=True
            )
        provenance.record(task_dir / PREDICTIONS_RECORD, flags, time.monotonic() - start)
        click.echo(f"  {summary(task_dir)} in {time.monotonic() - start:.0f} s")

    for_each_task(folders, score, redo=redo)


@contextmanager
def _old_scores_back_on_failure(task_dir: Path) -> Iterator[None]:
    """Set earlier scores aside while new ones are made; unless that succeeds they come back."""
    files = [task_dir / name for name in (PREDICTIONS_DONE, SCORES, PREDICTIONS_RECORD)]
    aside = [file.with_name(f".{file.name}.before") for file in files]
    for file, kept in zip(files, aside, strict=True):
        if file.exists():
            file.replace(kept)
    try:
        yield
    except BaseException:
        for file, kept in zip(files, aside, strict=True):
            file.unlink(missing_ok=True)
            if kept.exists():
                kept.replace(file)
        raise
    for kept in aside:
        kept.unlink(missing_ok=True)


def _run_in_scratch(task_dir: Path, arguments: list[str], log: Path | None, logs_dir: str | None) -> int:
    """Run the prediction runner where its logs bother nobody.

    It writes `logs/<task path>` into its working directory, and into the task itself
    if that path is absolute; so it gets a temporary directory and a relative path.
    """
    task_dir = task_dir.resolve()
    with tempfile.TemporaryDirectory(prefix="heareval-") as scratch:
        link = Path(scratch, "embeddings")
        link.symlink_to(task_dir.parent.parent)
        relative = Path("embeddings", task_dir.parent.name, task_dir.name)
        code = run_tool(
            ["predictions", *arguments, str(relative)], cwd=Path(scratch), log=log and log.resolve()
        )
        if logs_dir and Path(scratch, "logs").exists():
            shutil.copytree(Path(scratch, "logs"), logs_dir, dirs_exist_ok=True)
        return code
