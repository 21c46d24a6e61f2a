"""Long work on many tasks, one after the other: a problem of one is not the others'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from eval_recipes.task_checks import TaskProblem
from hear_dasheng.files.failures import message_of


def for_each_task(
    tasks: list[Path], work: Callable[[Path], None], aloud: bool = True, redo: bool = False
) -> None:
    """Do `work` on each task; a problem stops that task alone and the exit code says so.

    Args:
        tasks: their folders.
        work: raises `TaskProblem` or `OSError` for a task that cannot be done.
        aloud: say which task it is; of several processes one should.
        redo: whether finished tasks are done again, which is to be known by who stops the work.
    """
    failed: dict[str, str] = {}
    for number, task in enumerate(tasks, 1):
        if aloud:
            click.echo(f"[{number}/{len(tasks)}] {task.name}")
        try:
            work(task)
        except KeyboardInterrupt:
            if aloud:
                click.echo(f"  {_what_is_next(tasks[: number - 1] if redo else [])}", err=True)
            raise
        except BrokenPipeError:  # nobody reads the output any more
            raise
        except (TaskProblem, OSError) as problem:
            failed[task.name] = message_of(problem) or str(problem)
            if aloud:
                click.echo(f"  not done: {failed[task.name]}", err=True)
    if failed:
        names = ", ".join(failed)
        raise click.ClickException(
            f"{len(failed)} of {len(tasks)} tasks are not done: {names} (reasons above)"
        )


def _what_is_next(done_again: list[Path]) -> str:
    """What to say to who stopped the work."""
    said = "stopped; nothing is marked done, and the same command goes on from here"
    if done_again:
        names = ", ".join(task.name for task in done_again)
        said += f", but its --redo first does again what this one has finished ({names})"
    return said
