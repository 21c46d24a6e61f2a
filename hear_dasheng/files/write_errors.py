"""The failed system call behind an error of a library that was writing a file.

A full disk reaches us as an exception of `torch.save` or safetensors that does not name it.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

TORCH_WRITER = re.compile("unexpected pos|inline_container|PytorchStreamWriter")
"""Messages of torch's writer of zip files, given a path, when a write fails."""


def system_error(error: BaseException) -> OSError | None:
    """Return the failed system call behind an exception, or None if there is none.

    Libraries written in Rust, such as safetensors, raise exceptions of their own whose text holds the number.
    `torch.save` to a path does not say what failed; that is nearly always a full disk, so ENOSPC is returned.

    >>> system_error(ValueError("I/O error: No space left on device (os error 28)"))
    OSError(28, 'No space left on device')
    >>> system_error(RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"))
    OSError(28, 'No space left on device, or a limit on file sizes')
    """
    if isinstance(error, BrokenPipeError):  # concerns the reader of our output, never the file being written
        return None
    if isinstance(error, OSError):
        return error if error.errno is not None else None
    if not isinstance(error, Exception):
        return None
    if number := re.search(r"(?:os error|code:) (\d+)", str(error)):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    if isinstance(error, RuntimeError) and TORCH_WRITER.search(str(error)):
        return OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, or a limit on file sizes")
    return None


@contextmanager
def remembering_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new binary file; if writing to it fails, raise that error, not what a library made of it."""
    raw = _RememberingFile(path, "xb")
    try:
        with io.BufferedWriter(raw) as file:
            yield file
    except Exception as error:
        if raw.failure is None or raw.failure is error:
            raise
        raise raw.failure from error


class _RememberingFile(io.FileIO):
    """A file that keeps its write error, because some writers (`torch.save`) raise a vague one instead.

    Attributes:
        failure: the error of the write that failed, if one did.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write and remember an error."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise
