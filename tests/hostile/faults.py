"""One command in a process of its own, with a fault: a full disk, a read-only folder, an output that is gone.

Processes are forked from a server that has imported everything already, so that a case takes as long as the
command itself. Disks are real: a small tmpfs, or a read-only bind mount, in mounts of the process's own.
Where the kernel does not let us mount, a limit on the size of files stands for the full disk, and the
attribute `immutable` for the read-only folder; a case is never skipped.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PRELOADED = [
    "eval_recipes.baselines.log_mel",
    "eval_recipes.embed",
    "eval_recipes.embedding.task",
    "eval_recipes.knn",
    "eval_recipes.report",
    "eval_recipes.score",
    "eval_recipes.tasks",
    "eval_recipes.task_fetch",
    "hear_dasheng.checkpoint",
    "hear_dasheng.commands",
    "hear_dasheng.tag",
    "hear_dasheng.tag_record",
    "librosa.filters",
    "matplotlib.figure",
    "safetensors.torch",
    "soundfile",
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)
PATIENCE_S, PAGE_BYTES = 300.0, 4096

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Fault:
    """What is wrong around a command.

    Attributes:
        full: the disk under the output folder has room for so many bytes more than it holds; None: enough.
        is_read_only: the output folder cannot be written.
        stdout: "file", "closed pipe" or "/dev/full".
    """

    full: int | None = None
    is_read_only: bool = False
    stdout: str = "file"


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (negative: the signal), and what it printed."""

    code: int
    out: str
    err: str


def run(
    arguments: list[str], cwd: Path, out: Path, fault: Fault | None = None, kill_after_s: float | None = None
):
    """Run `hear-dasheng` with a fault.

    Args:
        arguments: of the command.
        cwd: its working directory; stdout and stderr are kept beside it.
        out: the folder that the fault concerns; it must exist for a fault of the disk.
        fault: what is wrong; None: nothing.
        kill_after_s: send SIGKILL after so many seconds.
    """
    said = [cwd.with_name(f"{cwd.name}.{name}") for name in ("stdout", "stderr")]
    child = CONTEXT.Process(target=_in_child, args=(arguments, cwd, out, fault or Fault(), said))
    child.start()
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        child.kill()
    child.join(PATIENCE_S)
    if child.is_alive():
        child.kill()
        raise TimeoutError(f"{arguments} did not end within {PATIENCE_S} s")
    return Outcome(child.exitcode, *(path.read_text("utf-8", "backslashreplace") for path in said))


def _in_child(arguments: list[str], cwd: Path, out: Path, fault: Fault, said: list[Path]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    _redirect(1, said[0], fault.stdout)
    _redirect(2, said[1], "file")
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))
    if fault.full is not None:
        _fill(out, fault.full)
    if fault.is_read_only:
        _forbid_writing(out)
    sys.argv = ["hear-dasheng", *arguments]
    import torch

    from hear_dasheng.cli import main

    torch.set_num_threads(1)
    main(arguments, prog_name="hear-dasheng")


def _redirect(descriptor: int, path: Path, kind: str) -> None:
    path.write_bytes(b"")
    if kind == "closed pipe":
        reader, target = os.pipe()
        os.close(reader)
    else:
        target = os.open("/dev/full" if kind == "/dev/full" else path, os.O_WRONLY | os.O_APPEND)
    os.dup2(target, descriptor)
    stream = open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    setattr(sys, "stdout" if descriptor == 1 else "stderr", stream)


def _fill(folder: Path, room_bytes: int) -> None:
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pages = room_bytes // PAGE_BYTES + sum(-(-len(content) // PAGE_BYTES) for content in contents.values())
    if not (_own_mounts() and _mount("tmpfs", folder, "tmpfs", 0, f"size={pages * PAGE_BYTES}")):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, room_bytes))
        return
    for path, content in contents.items():  # which the mount hides
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _forbid_writing(folder: Path) -> None:
    is_mounted = _own_mounts() and _mount(str(folder), folder, None, MS_BIND, None)
    if not (is_mounted and _mount(None, folder, None, MS_BIND | MS_REMOUNT | MS_RDONLY, None)):
        folder.chmod(0o555)
        if os.geteuid() == 0:  # whom permissions do not stop
            subprocess.run(["chattr", "+i", str(folder)], check=True)


def _own_mounts() -> bool:
    """Give this process mounts of its own, which vanish with it."""
    if LIBC.unshare(CLONE_NEWNS) and LIBC.unshare(CLONE_NEWNS | CLONE_NEWUSER):
        return False
    return _mount(None, Path("/"), None, MS_REC | MS_PRIVATE, None)


def _mount(source: str | None, target: Path, kind: str | None, flags: int, options: str | None) -> bool:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    return LIBC.mount(*texts, ctypes.c_ulong(flags), options and options.encode()) == 0
