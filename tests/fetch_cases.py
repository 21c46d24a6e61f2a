"""Two tasks on a local stand-in for Zenodo, and the command that fetches them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner, Result
from file_server import FileServer, running_server
from task_archives import tar_of, task_files

from eval_recipes.tasks import tasks as command

GUNSHOT, OPERA = "gunshot_triangulation-v1.0-full", "beijing_opera-v1.0-hear2021-full"
SHORT = {GUNSHOT: "gunshot_triangulation", OPERA: "beijing_opera"}


def archive_name(task: str) -> str:
    return f"hear2021-{task}-48000.tar.gz"


@contextmanager
def served_tasks() -> Iterator[FileServer]:
    """A server with the archives of both tasks."""
    with running_server() as server:
        server.files = {archive_name(task): tar_of(task_files(), task) for task in SHORT}
        yield server


def fetch_from(server: FileServer, *arguments: str) -> Result:
    """Run `tasks fetch` in this process and working directory."""
    return CliRunner().invoke(command, ["fetch", *arguments, "--zenodo", server.url, "--workers", "2"])


def start(server: FileServer, folder: Path, *arguments: str) -> subprocess.Popen:
    """Begin to fetch a task in a process of its own."""
    words = ["tasks", "fetch", SHORT[GUNSHOT], "--zenodo", server.url, "--workers", "2", *arguments]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "hear_dasheng.cli", *words], cwd=folder, **output)


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all files, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
