"""Run the checks that the installed packages register, and collect their rows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points

from hear_dasheng.compute.checks import FAIL, SKIPPED, Check, Parity, Request, Skip, Throughput
from hear_dasheng.compute.measure import matrix_peak_flops

logger = logging.getLogger(__name__)

ENTRY_POINTS = "hear_dasheng.doctor"

EXTRAS = {"embedding": None, "training": "pretraining", "scoring": "evaluation"}
"""The entry points of this project, and the extra that brings what each needs."""


@dataclass
class Examination:
    """What was found.

    Attributes:
        parity: rows of all checks.
        throughput: rows of all checks.
        peak_flops: the best rate of one matrix product, by precision.
        operators: which of the packages' own fast operators for CPUs work here.
        unavailable: checks that cannot be made here, and why.
    """

    parity: list[Parity] = field(default_factory=list)
    throughput: list[Throughput] = field(default_factory=list)
    peak_flops: dict[str, float] = field(default_factory=dict)
    operators: dict[str, bool] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    @property
    def has_passed(self) -> bool:
        """Whether no row failed, and at least one was compared."""
        statuses = [row.status for row in (*self.parity, *self.throughput)]
        return FAIL not in statuses and any(row.error is not None for row in self.parity)


def load_checks() -> tuple[list[Callable[[Request], Check]], dict[str, str]]:
    """Import the registered checks.

    Returns:
        The checks, and for each one that is missing or whose packages are, the reason with the remedy.
    """
    registered = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    checks, unavailable = [], {}
    for name in [*EXTRAS, *sorted(set(registered) - set(EXTRAS))]:
        extra = EXTRAS.get(name)
        remedy = "in the checkout: pip install " + ("." if extra is None else f"'.[{extra}]'")
        if name not in registered:
            unavailable[name] = f"no installed package registers it ({remedy})"
            continue
        try:
            checks.append(registered[name].load())
        except ModuleNotFoundError as error:
            unavailable[name] = f"needs the package {error.name} ({remedy})"
    return checks, unavailable


class Examiner:
    """Runs checks, one step at a time.

    Args:
        checks: classes of the form `Check`.
        request: the user's choices.
        refused: precisions that do not work on the device, and why.
        measures_speed: False leaves out throughput.
    """

    def __init__(
        self,
        checks: list[Callable[[Request], Check]],
        request: Request,
        refused: dict[str, str],
        measures_speed: bool,
    ) -> None:
        self._checks = [check(request) for check in checks]
        self._request, self._refused, self._measures_speed = request, refused, measures_speed
        self.found = Examination()
        for check in self._checks:
            self.found.operators |= check.operators()

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        """Return everything that is to be done: a description, and a function that adds rows to `found`."""
        request, steps = self._request, []
        for check in self._checks:
            for precision in request.precisions:
                steps.append((f"{check.name}, {precision}", lambda c=check, p=precision: self._compare(c, p)))
        if not self._measures_speed:
            return steps
        for precision in (p for p in request.precisions if p not in self._refused):
            steps.append((f"matrix products, {precision}", lambda p=precision: self._measure_peak(p)))
        for check in (check for check in self._checks if check.measures_speed):
            for size in request.sizes:
                for precision in request.precisions:
                    steps.append(
                        (
                            f"speed of {check.name}, {size}, {precision}",
                            lambda c=check, s=size, p=precision: self._measure(c, s, p),
                        )
                    )
        return steps

    def _compare(self, check: Check, precision: str) -> None:
        try:
            if precision in self._refused:
                raise Skip(self._refused[precision])
            rows = check.parity(precision)
        except Skip as skip:
            rows = [Parity(check.name, "all", precision, SKIPPED, reason=str(skip))]
        except Exception as error:  # a device that cannot do it is a finding, and the other checks go on
            logger.debug("%s in %s failed", check.name, precision, exc_info=True)
            rows = [Parity(check.name, "all", precision, FAIL, reason=_in_a_line(error))]
        self.found.parity += rows

    def _measure_peak(self, precision: str) -> None:
        try:
            self.found.peak_flops[precision] = matrix_peak_flops(self._request.device, precision)
        except RuntimeError as error:
            self._refused[precision] = f"matrix products failed: {_in_a_line(error)}"

    def _measure(self, check: Check, size: str, precision: str) -> None:
        try:
            if precision in self._refused:
                raise Skip(self._refused[precision])
            row = check.throughput(size, precision, self.found.peak_flops[precision])
        except Skip as skip:
            row = Throughput(check.name, size, precision, SKIPPED, reason=str(skip))
        except Exception as error:  # as above
            logger.debug("the speed of %s in %s failed", check.name, precision, exc_info=True)
            is_too_large = any(text in str(error).lower() for text in ("out of memory", "allocate memory"))
            row = Throughput(
                check.name, size, precision, SKIPPED if is_too_large else FAIL, reason=_in_a_line(error)
            )
        self.found.throughput.append(row)


def _in_a_line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
