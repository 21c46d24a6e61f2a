"""What a user chooses of the nearest-neighbour classifier.

The command's options come from here, so that `--help` imports none of the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from eval_recipes.datasets.clips import ALL, TEST, TRAIN, ClipList

METRICS = ("cosine", "euclidean")
WEIGHTS = ("uniform", "softmax")
TEMPERATURE = 0.07
"""Temperature of the softmax: from Wu et al. 2018 (arXiv 1805.01978, section 3.4), also used by DINO."""


@dataclass(frozen=True)
class Choices:
    """What can be chosen of the classifier.

    Attributes:
        k: neighbours that vote.
        weights: `uniform` or `softmax`.
        temperature: of the softmax.
        metric: `cosine` or `euclidean`.
    """

    k: int = 10
    weights: str = "uniform"
    temperature: float = TEMPERATURE
    metric: str = "cosine"

    @property
    def name(self) -> str:
        """For file names: `k10-uniform-cosine`, `k10-softmax0.07-cosine`."""
        weights = f"softmax{self.temperature:g}" if self.weights == "softmax" else self.weights
        return f"k{self.k}-{weights}-{self.metric}"

    def identity(self) -> dict[str, object]:
        """All that changes a score."""
        softened = {"temperature": self.temperature} if self.weights == "softmax" else {}
        return {"k": self.k, "weights": self.weights, **softened, "metric": self.metric}


def protocol_of(dataset: ClipList) -> str:
    """Return a description of which clips are queries and which are references."""
    if dataset.parts == [ALL]:
        return "leave one out"
    if set(dataset.parts) == {TRAIN, TEST}:
        return "train/test"
    return f"{len(dataset.parts)} folds"
