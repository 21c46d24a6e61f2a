"""Why a file could not be written, also where a library hides a full disk behind another error."""

from __future__ import annotations

import os
import re

FULL = "No space left on device, or a limit on file sizes"
"""What torch's writer of zip files meets when it fails without the error of the operating system."""


def write_error(error: BaseException) -> str | None:
    """Return the reason why a file could not be written; None if `error` is of another kind.

    torch.save raises a RuntimeError (`unexpected pos 64 vs 0`, `inline_container`) and safetensors an error
    with the code of the operating system when the disk is full.

    Args:
        error: what a function that writes has raised.

    >>> write_error(OSError(28, "No space left on device"))
    'No space left on device'
    >>> write_error(RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"))
    'No space left on device, or a limit on file sizes'
    >>> write_error(ValueError("no such layout"))
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    if type(error).__name__ == "SafetensorError":
        code = re.search(r"(?:code: |os error )(\d+)", text)
        return os.strerror(int(code.group(1))) if code else text
    if isinstance(error, RuntimeError) and re.search(
        "unexpected pos|inline_container|PytorchStreamWriter", text
    ):
        before = error.__cause__ or error.__context__  # with a Python file, torch fails after the OSError
        return before.strerror if isinstance(before, OSError) and before.strerror else FULL
    return None
