"""HEAR tasks -> embeddings on disk in heareval's layout: the command `embed`, for one process or many."""

from __future__ import annotations

from pathlib import Path

import click

from eval_recipes import provenance
from eval_recipes.embedding.layout import embedding_folder
from eval_recipes.model_arguments import model_option, parse_options
from eval_recipes.official import sigterm_interrupts
from eval_recipes.results import task_folders
from eval_recipes.task_loop import for_each_task


@click.command()
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
    type=click.FloatRange(0, min_open=True),
    help="Audio embedded together, padding included [default: 120 on a CPU, 640 on a GPU].",
)
@click.option("--redo", is_flag=True, help="Replace embeddings that are there already.")
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
    folders = task_folders(Path(tasks_dir), task)
    with Processes() as processes:
        try:
            loaded = load_module(module, model, options, processes.device)
        except ModuleProblem as problem:
            raise click.ClickException(str(problem)) from problem
        if loaded.has_weights and not model and processes.is_first:
            click.echo(f"{module} has {provenance.UNIDENTIFIED}", err=True)
        identity = provenance.model_identity(module, model, options)
        embedder = TaskEmbedder(loaded, processes, identity, batch_seconds)
        into = embedding_folder(out, module, options)

        def embed_task(folder: Path) -> None:
            said = embedder.embed(folder, into / folder.name, redo)
            if processes.is_first:
                click.echo(f"  {said}")

        with sigterm_interrupts():
            for_each_task(folders, embed_task, aloud=processes.is_first, redo=redo)


if __name__ == "__main__":
    embed()
