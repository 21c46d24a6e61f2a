"""The rows of `hear-dasheng doctor`, and the form of the checks that packages contribute to it.

A package registers a class of the form `Check` as an entry point of the group `hear_dasheng.doctor`
(`setup.py`). The command creates it once and calls it for each precision and size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

BOUNDS = {"fp32": 1e-4, "tf32": 4e-3, "bf16": 3.2e-2}
"""The largest accepted relative error of each precision.

fp32 is the tolerance that the README states for embeddings. A bfloat16 product rounds its factors to 2**-9.
Measured on 6 and 12 blocks that becomes 5e-3 to 1.1e-2 in embeddings and gradients; the bound is three times
that, because the error grows with depth. TF32 keeps three bits more, so its bound is an eighth: emulated on a
CPU it had 6e-4 to 1.1e-3. Each bound lies below the error of the next coarser precision, so that a device
which computes in a coarser precision than it was asked for fails.
"""

PASS, FAIL, SKIPPED = "PASS", "FAIL", "SKIPPED"


class Skip(Exception):
    """A check that cannot run here; the message is the reason."""


@dataclass(frozen=True)
class Request:
    """The user's choices.

    Attributes:
        device: the device under test.
        sizes: model sizes to measure, smallest first; parity is computed with the first.
        precisions: of fp32, tf32 and bf16.
        seconds: the time of one measurement, roughly.
        free_bytes: memory of the device that measurements may use.
    """

    device: torch.device
    sizes: tuple[str, ...]
    precisions: tuple[str, ...]
    seconds: float
    free_bytes: int


@dataclass(frozen=True)
class Parity:
    """A computation on the device, compared with plain fp32 torch on the CPU.

    Attributes:
        check: the name of the check.
        quantity: what was compared.
        precision: in which the device computed it.
        status: PASS, FAIL or SKIPPED.
        error: the difference, in `unit`; None if there is none, or if it is not finite.
        bound: the largest difference that passes.
        unit: dB, or what the error is relative to.
        reason: why the row failed without an error or was skipped, or which parameter the error is of.
    """

    check: str
    quantity: str
    precision: str
    status: str
    error: float | None = None
    bound: float | None = None
    unit: str = ""
    reason: str = ""

    @classmethod
    def of(
        cls,
        check: str,
        quantity: str,
        precision: str,
        error: float,
        bound: float,
        unit: str,
        reason: str = "",
    ) -> Parity:
        """Compare an error with its bound; an error that is not finite fails."""
        if not torch.isfinite(torch.tensor(error)):
            return cls(
                check, quantity, precision, FAIL, None, bound, unit, f"the result is not finite ({error})"
            )
        return cls(check, quantity, precision, PASS if error <= bound else FAIL, error, bound, unit, reason)


@dataclass(frozen=True)
class Throughput:
    """The speed of one size in one precision.

    Attributes:
        check: the name of the check.
        size: of the model.
        precision: of the computation.
        status: PASS (measured), SKIPPED, or FAIL if the computation raised an error.
        rate: `unit` per second.
        unit: "hours of audio" or "clips".
        clips: clips of 10 s in a call.
        seconds: of a call, the median.
        flop: floating-point operations of a call's matrix products.
        share_of_peak: flop / seconds, relative to the best rate of one large product in the same precision.
        peak_memory_bytes: on a GPU the most memory that tensors took, on a CPU the most that the process had;
            None where the system does not tell.
        reason: why the row failed or was skipped.
    """

    check: str
    size: str
    precision: str
    status: str
    rate: float | None = None
    unit: str = ""
    clips: int | None = None
    seconds: float | None = None
    flop: int | None = None
    share_of_peak: float | None = None
    peak_memory_bytes: int | None = None
    reason: str = ""


@runtime_checkable
class Check(Protocol):
    """What an entry point provides; it is created with a `Request`.

    Attributes:
        name: what is checked, e.g. "embedding".
        measures_speed: whether `throughput` may be called.
    """

    name: str
    measures_speed: bool

    def operators(self) -> dict[str, bool]:
        """Return which of the package's own fast operators for CPUs work here, as its code has tried them."""

    def parity(self, precision: str) -> list[Parity]:
        """Compute on the device in this precision, and compare with the CPU.

        Raises:
            Skip: the check has no such precision.
        """

    def throughput(self, size: str, precision: str, peak_flops: float) -> Throughput:
        """Measure one size.

        Args:
            size: a name of the table of sizes.
            precision: of the computation.
            peak_flops: the measured rate of one large product, in 1/s.

        Raises:
            Skip: it does not fit the memory, or takes too long.
        """


def plan_clips(
    request: Request,
    *,
    fixed_bytes: int,
    bytes_per_clip: int,
    flop_per_clip: int,
    peak_flops: float,
    most: int,
) -> int:
    """Return how many clips a measured call takes: the largest power of two that fits memory and time.

    A call is assumed to reach half of the peak; a measurement needs three calls or so.

    Raises:
        Skip: even one clip takes too much of either; the message has the estimate.
    """
    needed = fixed_bytes + bytes_per_clip
    if needed > request.free_bytes:
        raise Skip(f"needs about {needed / 2**30:.1f} GiB; {request.free_bytes / 2**30:.1f} GiB are free")
    call_s = flop_per_clip / (0.5 * peak_flops)
    if call_s > request.seconds:
        raise Skip(f"a clip takes about {call_s:.2g} s; --seconds {math.ceil(call_s)} measures it")
    clips = 1
    while (
        clips < most
        and 2 * clips * call_s <= request.seconds / 2
        and fixed_bytes + 2 * clips * bytes_per_clip <= request.free_bytes
    ):
        clips *= 2
    return clips
