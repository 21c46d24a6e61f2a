"""One-line error messages for failures of the system: a full disk, a read-only folder, no memory left.

Commands are built with `Command` or `Group`, which report these failures with the file, the reason and a
remedy, and exit with code 1. All other exceptions keep their traceback: they are programming errors.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

PERMISSIONS = "check its permissions, or choose another place"
REMEDIES = {
    errno.ENOSPC: "free some space there, or choose another place, and repeat the command",
    errno.EDQUOT: "free some of your quota there, or choose another place, and repeat the command",
    errno.EFBIG: "raise the limit (ulimit -f), or choose another file system, and repeat the command",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: PERMISSIONS,
    errno.EPERM: PERMISSIONS,
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has no file handles left",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.EISDIR: "name a file",
    errno.EEXIST: "choose another name",
    errno.ELOOP: "check the path: its links form a circle",
    errno.EIO: "check the disk, and repeat the command",
    errno.ESTALE: "mount the network file system again, and repeat the command",
}
"""What a user can do about an error number."""

MEMORY_REMEDY = "use smaller batches or a smaller model, or a machine with more memory"
ALLOCATOR_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
"""How PyTorch's allocators report that there is no memory left, in a `RuntimeError`."""


class Command(click.Command):
    """A command that reports failures of the system in one line."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command; see `click.Command.main`."""
        with reported_failures(standalone_mode):
            return super().main(*args, standalone_mode=standalone_mode, **extra)


class Group(click.Group):
    """A group of commands that reports failures of the system in one line."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command that is named; see `click.Group.main`."""
        with reported_failures(standalone_mode):
            return super().main(*args, standalone_mode=standalone_mode, **extra)


@contextmanager
def reported_failures(is_active: bool = True) -> Iterator[None]:
    """Print a failure of the system as one line and exit with code 1; let other exceptions pass.

    Args:
        is_active: False inside another program, which handles exceptions itself.
    """
    if not is_active:
        yield
        return
    _escape_what_the_console_cannot_show()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, because the interpreter would only warn when it ends
    except Exception as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output, such as `head`, wants no more
            _discard_output()
            sys.exit(1)
        message = _message_about_output(error) or message_of(error)
        if message is None:
            raise
        _print_error(message)
        sys.exit(1)


def message_of(error: BaseException) -> str | None:
    """Return one line about a failure of the system, or None for any other exception.

    >>> message_of(OSError(28, "No space left on device", "runs/a"))
    'runs/a: No space left on device; free some space there, or choose another place, and repeat the command'
    >>> message_of(KeyError("a"))
    """
    if isinstance(error, MemoryError) or _is_of_an_allocator(error):
        detail = " ".join(str(error).split("\n", 1)[0].split())
        return f"out of memory{f' ({detail})' if detail else ''}; {MEMORY_REMEDY}"
    if not isinstance(error, OSError):
        return None
    if error.errno is None:
        return shown(str(error)) or type(error).__name__
    name = f"{shown(error.filename)}: " if error.filename is not None else ""
    reason = error.strerror or os.strerror(error.errno)
    return f"{name}{reason}; {REMEDIES.get(error.errno, 'mend this, and repeat the command')}"


def shown(path: str | bytes | os.PathLike[str] | int) -> str:
    r"""Return a path as text that can be printed and stored: bytes that are not UTF-8 are escaped.

    Python represents such bytes as surrogates (PEP 383), which neither UTF-8 nor strict JSON can hold.

    >>> shown(b"caf\xe9.wav".decode("utf-8", "surrogateescape"))
    'caf\\xe9.wav'
    """
    if isinstance(path, int):
        return f"file descriptor {path}"
    name = os.fspath(path)
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace")
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte, which JSON files can hold
        return name.encode("utf-8", "backslashreplace").decode()


def _is_of_an_allocator(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATOR_WORDS)


def _message_about_output(error: BaseException) -> str | None:
    """Return a message if the standard output is what cannot be written, which the error does not name."""
    if not isinstance(error, OSError) or error.filename is not None:
        return None
    try:
        sys.stdout.write("\n")  # unbuffered streams forget what they could not write
        sys.stdout.flush()
    except OSError as again:
        _discard_output()
        return f"the output cannot be written: {again.strerror}; redirect it to another place"
    return None


def _discard_output() -> None:
    """Let the interpreter flush what is left in the buffer to nowhere when it ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # a stream of a test, which has no descriptor
        return


def _print_error(message: str) -> None:
    try:
        click.ClickException(" ".join(message.splitlines())).show()
    except OSError:  # the standard error is what cannot be written; the exit code is all that is left
        return


def _escape_what_the_console_cannot_show() -> None:
    """Print names of files that are not UTF-8, and letters that the terminal lacks, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
