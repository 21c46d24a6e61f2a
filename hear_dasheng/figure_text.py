"""Text in figures: names of files and classes are shown as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_text() -> Iterator[None]:
    """Draw and write matplotlib figures whose text is no mathematics: `a_$_b_$` is a name, not a formula.

    Labels of ticks are made when a figure is written, so that this belongs inside the block too.
    """
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False, "text.usetex": False}):
        yield
