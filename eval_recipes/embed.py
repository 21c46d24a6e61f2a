"""HEAR tasks -> embeddings on disk in heareval's layout: the command `embed`, for one process or many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eval_recipes import provenance
from eval_recipes.embedding.layout import embedding_folder
from eval_recipes.model_arguments import model_option, parse_options
from eval_recipes.official import sigterm_interrupts
from eval_recipes.redo_journal import RedoJournal
from eval_recipes.results import task_folders
from eval_recipes.task_checks import TaskProblem
from eval_recipes.task_loop import for_each_task
from hear_dasheng.files.failures import Command
from hear_dasheng.files.number_options import FiniteRange

if TYPE_CHECKING:
    from eval_recipes.embedding.processes import Processes
    from eval_recipes.embedding.task import TaskEmbedder


@click.command(cls=Command)
@click.argument("module")
@model_option
@click.option(
    "--tasks-dir", default="tasks", show_default=True, type=click.Path(exists=True, file_okay=False)
)
@click.option("--task", default="all", show_default=True, help="One task; without its version, all versions.")
@click.option(
    "--out", default="embeddings", show_default=True, type=click.Path(file_okay=False, path_type=Path)
)
@click.option("--model-options", default="{}", help="JSON options for load_model.")
@click.option(
    "--batch-seconds",
    type=FiniteRange(0, 1e6, min_open=True),
    help="Audio embedded together, padding included [default: 120 on a CPU, 640 on a GPU].",
)
@click.option(
    "--redo",
    is_flag=True,
    help="Replace embeddings; if stopped, the same command resumes.",
)
def embed(
    module: str,
    model: str | None,
    tasks_dir: str,
    task: str,
    out: Path,
    model_options: str,
    batch_seconds: float | None,
    redo: bool,
) -> None:
    """Embed HEAR tasks with MODULE, any HEAR module, fast; goes on where it was stopped.

    Several GPUs or nodes: `accelerate launch -m eval_recipes.embed MODULE ...` with the same arguments;
    all processes must see the same file system.
    """
    from eval_recipes.embedding.module import ModuleProblem, load_module
    from eval_recipes.embedding.processes import Processes
    from eval_recipes.embedding.task import TaskEmbedder

    options = parse_options(model_options)
    into = embedding_folder(out, module, options)
    folders = task_folders(Path(tasks_dir), task)
    with Processes() as processes:
        try:
            loaded = load_module(module, model, options, processes.device)
        except ModuleProblem as problem:
            raise click.ClickException(str(problem)) from problem
        identity = provenance.model_identity(module, model, options, loaded.checkpoint_path)
        if provenance.are_unidentified(identity) and processes.is_first:
            click.echo(f"{module} has {provenance.UNIDENTIFIED}", err=True)
        embedder = TaskEmbedder(loaded, processes, identity, batch_seconds)

        journal = RedoJournal(into, identity, folders) if redo else None

        def embed_task(folder: Path) -> None:
            said = _redone(embedder, processes, journal, folder, into / folder.name)
            said = said or embedder.embed(folder, into / folder.name, redo)
            if processes.is_first:
                click.echo(f"  {said}")
                if journal:
                    journal.add(folder)

        with sigterm_interrupts():
            for_each_task(folders, embed_task, aloud=processes.is_first)


def _redone(
    embedder: TaskEmbedder, processes: Processes, journal: RedoJournal | None, task: Path, out: Path
) -> str:
    """Return why a task is not embedded again, though all are to be; empty if it is."""

    def look() -> str:
        is_done = journal is not None and journal.has(task) and embedder.is_finished(task, out)
        return journal.skipped() if is_done else ""

    return processes.first_does(look, TaskProblem)


if __name__ == "__main__":
    embed()
