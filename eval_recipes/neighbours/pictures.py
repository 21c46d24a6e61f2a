"""A confusion matrix as a picture."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Int

MOST_NAMES = 60
"""Classes beyond which names would not be legible."""

NAME_CHARACTERS = 24
DOTS_PER_INCH = 130


def confusion_png(confusion: Int[np.ndarray, "classes classes"], classes: list[str], heading: str) -> bytes:
    """Rows are true classes, in percent of their clips; a class without clips is blank."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    counts = confusion.sum(1, keepdims=True)
    shares = np.full(confusion.shape, np.nan)
    np.divide(100.0 * confusion, counts, out=shares, where=counts > 0)
    is_named = len(classes) <= MOST_NAMES
    inches = 2.5 + (0.19 * len(classes) if is_named else 7.0)
    with rc_context({"text.parse_math": False, "text.usetex": False}):
        figure = Figure(figsize=(inches + 1.0, inches), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, vmin=0, vmax=100, cmap="Blues", interpolation="nearest")
        axes.set_title(heading, fontsize=9)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        if is_named:
            names = [
                name if len(name) <= NAME_CHARACTERS else f"{name[:NAME_CHARACTERS]}…" for name in classes
            ]
            axes.set_xticks(range(len(classes)), labels=names, rotation=90, fontsize=7)
            axes.set_yticks(range(len(classes)), labels=names, fontsize=7)
        figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
        written = io.BytesIO()
        figure.savefig(written, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return written.getvalue()
