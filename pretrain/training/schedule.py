"""The learning rate of each iteration: linear warm-up, then a cosine.

Source: the published trainer, which chains ignite's `CosineAnnealingScheduler` behind
`create_lr_scheduler_with_warmup`. The very first iteration has rate 0, the
warm-up's last is also the cosine's first, and the cosine is as long as the whole run,
so that it is cut off by the warm-up's length before it ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pretrain.training.config import RunConfig
from pretrain.training.read_config import ConfigError


@dataclass(frozen=True)
class Schedule:
    """A learning rate for every optimizer step, whatever the number of processes.

    Attributes:
        peak: the rate after the warm-up.
        iterations: length of the run, and of the cosine.
        warmup_iterations: length of the warm-up; 0 for none.
        decay_frac: the cosine ends at `decay_frac * peak`.
        is_constant: always `peak`, without warm-up.
    """

    peak: float
    iterations: int
    warmup_iterations: int = 0
    decay_frac: float = 0.01
    is_constant: bool = False

    def __post_init__(self) -> None:
        if self.warmup_iterations == 1:
            raise ValueError(
                "a warm-up of 1 iteration would be a learning rate of 0 alone; choose 0, or 2 or more"
            )
        if self.warmup_iterations > self.iterations and not self.is_constant:
            raise ValueError(
                f"the warm-up of {self.warmup_iterations} iterations is longer than the run's "
                f"{self.iterations}; shorten it with warmup_iters or warmup_epochs"
            )

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0.

        >>> [round(Schedule(1.0, 20, 5, 0.1).rate(i), 3) for i in (0, 1, 4, 5, 19)]
        [0.0, 0.25, 1.0, 0.994, 0.232]
        """
        if self.is_constant:
            return self.peak
        if iteration < self.warmup_iterations:
            return self.peak * iteration / (self.warmup_iterations - 1)
        since_peak = iteration - max(self.warmup_iterations - 1, 0)
        part = min(since_peak / self.iterations, 1.0)
        lowest = self.peak * self.decay_frac
        return lowest + (self.peak - lowest) * (1 + math.cos(math.pi * part)) / 2


def new_schedule(config: RunConfig, iterations: int) -> Schedule:
    """The schedule of a run of so many iterations.

    Raises:
        ConfigError: the warm-up does not fit.
    """
    warmup = config.warmup_iters
    if warmup is None:
        warmup = int((config.warmup_epochs or 0) * iterations / config.epochs)
    try:
        return Schedule(
            config.optimizer_args["lr"], iterations, warmup, config.decay_frac, not config.use_scheduler
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
