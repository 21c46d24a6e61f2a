"""The best of many scores for each query, kept while the scores come in blocks.

Most scores are far from the best: a group of references is looked into only where its highest score
would enter, and what was found is sorted once there is enough of it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

GROUP = 16
"""References whose highest score is looked at first."""

SORTED_AT_ONCE = 512
"""Scores of a query that wait to be sorted."""


class Candidates:
    """The `count` highest scores of each query so far, and their references.

    Of equal scores at the end of the list any may stay.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._best: tuple[Tensor, Tensor] | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, scores: Float[Tensor, "references queries"], first: int) -> None:
        """Take a block of scores.

        Args:
            scores: of neighbouring references.
            first: number of the first of these.
        """
        whole = len(scores) // GROUP * GROUP
        if not whole or self._best is None or self._best[0].shape[1] < self._count:
            self._sort_all(scores, first)
        else:
            self._look_into_groups(scores[:whole].unflatten(0, (-1, GROUP)), first)
            if whole < len(scores):
                self._sort_all(scores[whole:], first + whole)
        if self._best is None or sum(values.shape[1] for values, _ in self._waiting) >= SORTED_AT_ONCE:
            self._sort_waiting()

    def best(self) -> tuple[Float[Tensor, "queries count"], Int[Tensor, "queries count"]]:
        """Scores and references, best first.

        Raises:
            ValueError: there were no scores.
        """
        self._sort_waiting()
        if self._best is None:
            raise ValueError("there are no references to search")
        return self._best

    def _look_into_groups(self, scores: Float[Tensor, "groups members queries"], first: int) -> None:
        peaks = scores.amax(1).T.contiguous()
        n_groups = int((peaks > self._best[0][:, -1:]).sum(1).max())
        if 2 * n_groups > len(scores):
            self._sort_all(scores.flatten(0, 1), first)
            return
        groups = peaks.topk(n_groups, sorted=False).indices[:, :, None]
        found = scores.permute(2, 0, 1).gather(1, groups.expand(-1, -1, GROUP))
        members = torch.arange(GROUP, dtype=torch.int32, device=scores.device)
        self._waiting.append((found.flatten(1), (first + groups.int() * GROUP + members).flatten(1)))

    def _sort_all(self, scores: Float[Tensor, "references queries"], first: int) -> None:
        values, order = scores.T.topk(min(self._count, len(scores)))
        self._waiting.append((values, first + order.int()))

    def _sort_waiting(self) -> None:
        if not self._waiting:
            return
        parts = [*([self._best] if self._best else []), *self._waiting]
        values, places = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        values, order = values.topk(min(self._count, values.shape[1]))
        self._best, self._waiting = (values, places.gather(1, order)), []
