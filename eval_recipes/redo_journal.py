"""Which tasks a `--redo` of many has finished, so that the same command continues where it was stopped.

Without it, finished tasks look alike whether this `--redo` or the run before it has finished them, and the
same command does all of them again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from eval_recipes import provenance
from hear_dasheng.files.strict_json import JsonProblem, read_json_object


class RedoJournal:
    """A file that lists finished tasks; it appears with the first of several and vanishes with the last.

    A command with another module, checkpoint, option, package version or choice of tasks is another `--redo`:
    it has a file of its own and does all of its tasks. So does the same command once all tasks are done.
    Tasks that failed are not done: the same command tries them again, and skips the others.

    Args:
        folder: where the file is kept.
        made_by: what results are made from, beside the task.
        tasks: the folders of all tasks that are to be done again.

    Attributes:
        path: the file.
        finished: names of the tasks that are done.
    """

    def __init__(self, folder: Path, made_by: dict[str, Any], tasks: Sequence[Path]) -> None:
        self.tasks = {str(task.absolute()) for task in tasks}
        told = json.dumps([made_by, provenance.versions(), sorted(self.tasks)], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        self.path = folder / f".hear-dasheng.redo-{digest}.json"
        self.began, self.finished = time.strftime("%Y-%m-%d %H:%M"), frozenset[str]()
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        try:
            content = read_json_object(self.path)
            began, finished = content["began"], content["finished"]
            if not isinstance(began, str) or not isinstance(finished, list):
                raise JsonProblem(f"{self.path} is not a list of finished tasks")
        except (OSError, JsonProblem, KeyError) as error:
            click.echo(f"  all tasks are done again: {self.path} cannot be read ({error})", err=True)
            return
        self.began, self.finished = began, frozenset(map(str, finished)) & self.tasks

    def has(self, task: Path) -> bool:
        """Return whether this `--redo` has finished a task."""
        return str(task.absolute()) in self.finished

    def skipped(self) -> str:
        """Return the message for a task that is skipped."""
        return f"done by this --redo, begun {self.began} and not finished yet; {self.path} lists what is done"

    def add(self, task: Path) -> None:
        """Record a task as finished; with the last one, remove the file."""
        self.finished |= {str(task.absolute())}
        try:
            if self.finished >= self.tasks:
                self.path.unlink(missing_ok=True)
            else:
                provenance.write_json(self.path, {"began": self.began, "finished": sorted(self.finished)})
        except OSError as error:
            reason = f"{self.path}: {error.strerror or error}"
            click.echo(f"  if stopped, this --redo does {task.name} again: {reason}", err=True)
