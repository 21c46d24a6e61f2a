"""Keep freed memory in the process: a step's matrices would else be mapped anew at each step.

glibc hands blocks of megabytes back to the system as soon as they are freed, and every page of the next
one is a fault: a fifth of a step's time on a virtual machine.
"""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Names of glibc's options in malloc.h."""

KEPT_BYTES = 1 << 30
LARGEST_BLOCK_BYTES = 1 << 25
"""The most that glibc takes for a block which is not mapped on its own."""


def keep_freed_memory() -> bool:
    """Tell this process's allocator; to be called before threads are started.

    Returns:
        Whether there was such an allocator to tell.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena, since those of threads are too small to keep a step's memory.
    options = {TRIM_THRESHOLD: KEPT_BYTES, MMAP_THRESHOLD: LARGEST_BLOCK_BYTES, ARENA_MAX: 1}
    return all([mallopt(option, value) for option, value in options.items()])
