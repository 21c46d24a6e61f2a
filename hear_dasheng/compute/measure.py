"""Measurements on any device: time of a call, rate of matrix products, cost, peak memory, errors."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from hear_dasheng.compute.precision import fp32_arithmetic

PEAK_SECONDS = 0.5
LARGEST_FACTOR = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Rows and columns of the largest matrices whose product is timed."""


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Compute as training does in `precision`: full fp32, TF32 products, or autocast to bfloat16."""
    is_bf16 = precision == "bf16"
    with (
        fp32_arithmetic(allow_tf32=precision == "tf32"),
        torch.autocast(device.type, torch.bfloat16, enabled=is_bf16),
    ):
        yield


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_per_call(work: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """Return the median duration of a call, after one that is not counted.

    Args:
        work: what is called, three times at least in all.
        device: waited for after each call.
        budget_s: no call begins after so many seconds, but for the first three.
    """
    durations: list[float] = []
    start = time.perf_counter()
    while len(durations) < 3 or time.perf_counter() - start < budget_s:
        before = time.perf_counter()
        work()
        synchronize(device)
        durations.append(time.perf_counter() - before)
    return statistics.median(durations[1:])


def matrix_peak_flops(device: torch.device, precision: str) -> float:
    """Return the best rate of one large matrix product, in operations per second.

    The matrices grow until a product takes a tenth of a second, because a CPU without units for bfloat16
    would need minutes for large ones. On a CPU, torch's default
    or oneDNN's packed layout counts, whichever is faster.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best, n = 0.0, 256
    with torch.inference_mode(), fp32_arithmetic(allow_tf32=precision == "tf32"):
        while True:
            a, b = torch.randn(2, n, n, device=device).to(dtype)
            shortest = min(_shortest_call(product, device) for product in _products(a, b))
            best = max(best, 2 * n**3 / shortest)
            if n >= LARGEST_FACTOR.get(device.type, 4096) or 8 * shortest > PEAK_SECONDS:
                return best
            n *= 2


def _shortest_call(product: Callable[[], Tensor], device: torch.device) -> float:
    durations: list[float] = []
    while len(durations) < 3 or (sum(durations) < PEAK_SECONDS / 2 and len(durations) < 50):
        before = time.perf_counter()
        product()
        synchronize(device)
        durations.append(time.perf_counter() - before)
    return min(durations[1:])


def _products(a: Tensor, b: Tensor) -> list[Callable[[], Tensor]]:
    products = [lambda: a @ b]
    if a.device.type == "cpu" and torch.backends.mkldnn.is_available():
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(b, len(a))
            torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "")
        except (AttributeError, RuntimeError, NotImplementedError):
            return products  # this build of torch or this CPU lacks oneDNN's layout; torch's default remains
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""))
    return products


def cost(model: nn.Module, work: Callable[[Callable[..., Tensor]], object]) -> tuple[int, int]:
    """Count what a computation costs, without memory for it and without doing it.

    Args:
        model: on the meta device.
        work: called with a function that applies the model; it makes the inputs itself, and may go backward.

    Returns:
        Floating-point operations of the matrix products, and bytes of the tensors kept for gradients, weights
        not counted.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with FakeTensorMode():
        state = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad)
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        }
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            work(lambda *inputs: functional_call(model, state, inputs))
        for tensor in state.values():
            kept.pop(tensor.untyped_storage()._cdata, None)
    return counter.get_total_flops(), sum(kept.values())


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the most memory, in bytes, that was in use since the block began.

    On a CUDA device it counts tensors; on a CPU the resident memory of the process. It returns None where the
    system has no such number.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
    elif device.type == "cpu" and _has_reset_resident_peak():
        yield _resident_peak_bytes
    else:
        yield lambda: None


def _has_reset_resident_peak() -> bool:
    """Begin the resident peak afresh, which Linux alone offers (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident_peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def free_bytes(device: torch.device) -> int:
    """Return how much memory measurements on the device may use: nine tenths of what is free."""
    if device.type == "cuda":
        return int(0.9 * torch.cuda.mem_get_info(device)[0])
    return int(0.9 * available_memory_bytes())


def available_memory_bytes() -> int:
    """Return the memory that this process can still get, a container's limit included."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        return pages * os.sysconf("SC_PAGE_SIZE") // 2 if pages else 4 << 30
    free = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
    limit = container_limit("memory.max")
    used = container_limit("memory.current")
    return free if limit is None else min(free, limit - (used or 0))


def container_limit(name: str) -> int | None:
    """Return a number of this process's control group (cgroup v2); None if there is none or it is "max"."""
    try:
        text = Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def relative_to_largest(values: Iterable[Tensor], references: Iterable[Tensor]) -> float:
    """Return the largest difference of tensors, in units of the largest reference value."""
    ours, theirs = (
        torch.cat([t.detach().cpu().double().flatten() for t in part]) for part in (values, references)
    )
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def relative_to_norm(values: Iterable[Tensor], references: Iterable[Tensor]) -> float:
    """Return the norm of the difference of tensors, in units of the norm of the references."""
    ours, theirs = (
        torch.cat([t.detach().cpu().double().flatten() for t in part]) for part in (values, references)
    )
    return ((ours - theirs).norm() / theirs.norm()).item()
