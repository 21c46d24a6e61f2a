"""Devices: which there are, the one under test, and the precisions that work on it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hear_dasheng.compute import measure
from hear_dasheng.compute.precision import fp32_arithmetic

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
LARGEST_ERRORS = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2, "fp16": 2e-3}
"""Largest error of a product of two 256 x 256 matrices and of its gradient, relative to the largest value;
several times what rounding to 24, 11, 8 and 11 bits gives."""

NVIDIA_SMI_TIMEOUT_S = 30


class DeviceError(ValueError):
    """A device that is unknown or cannot be used; the message is one line and has the remedy."""


@dataclass(frozen=True)
class PrecisionTrial:
    """A product and its gradient in one precision, compared with float64 on the CPU.

    Attributes:
        precision: fp32, tf32, bf16 or fp16.
        works: the error is as small as this precision allows.
        error: the larger of the two; None if it was not computed or is not finite.
        reason: why it does not work, or what is remarkable.
    """

    precision: str
    works: bool
    error: float | None = None
    reason: str = ""


def choose_device(name: str) -> torch.device:
    """Return the device of this name, on which a tensor could be made.

    Args:
        name: as torch writes it (cpu, cuda, cuda:1, mps); "auto" is the first GPU, or else the CPU.

    Raises:
        DeviceError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"--device {name!r} is unknown; choose auto, cpu, cuda, cuda:1 or mps")
    if device.type == "cuda":
        _check_cuda(name, device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(
            "--device 'mps' needs a Mac with Apple silicon and a torch built for it; choose cpu"
        )
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"--device {name!r} cannot be used here ({reason}); choose cpu") from error
    return device


def _check_cuda(name: str, device: torch.device) -> None:
    if torch.version.cuda is None and torch.version.hip is None:
        raise DeviceError(
            f"--device {name!r}: torch {torch.__version__} is built without CUDA; install a CUDA build "
            "(https://pytorch.org/get-started/locally), or choose --device cpu"
        )
    if not torch.cuda.is_available():
        seen = nvidia_smi()
        remedy = (
            f"nvidia-smi shows {', '.join(seen)}: this torch wants a driver for CUDA {torch.version.cuda} "
            "or newer, and CUDA_VISIBLE_DEVICES must not hide the GPU"
            if seen
            else "no NVIDIA driver answers; install it"
        )
        raise DeviceError(f"--device {name!r}: CUDA is not available; {remedy}, or choose --device cpu")
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        there = ", ".join(f"cuda:{index}" for index in range(count))
        raise DeviceError(f"--device {name!r}: there is no such GPU; choose one of {there}")


def nvidia_smi() -> list[str]:
    """Return name, driver and memory of each GPU that the driver's own tool shows; nothing without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return [f"a driver that does not answer within {NVIDIA_SMI_TIMEOUT_S} s"]
    return result.stdout.strip().splitlines() if result.returncode == 0 else []


def devices() -> list[dict[str, Any]]:
    """Return each device that torch can use, with its memory in bytes; the CPU comes first."""
    found: list[dict[str, Any]] = [{"device": "cpu", "name": "the processor above"}]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "multiprocessors": properties.multi_processor_count,
                "memory_bytes": total,
                "free_memory_bytes": free,
            }
        )
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return found


def cuda() -> dict[str, Any]:
    """Return what torch is built for and what the driver shows."""
    return {
        "torch_built_for_cuda": torch.version.cuda,
        "torch_built_for_rocm": torch.version.hip,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "architectures": torch.cuda.get_arch_list(),
        "is_available": torch.cuda.is_available(),
        "nvidia_smi": nvidia_smi(),
    }


def try_precisions(device: torch.device, precisions: Sequence[str] = tuple(DTYPES)) -> list[PrecisionTrial]:
    """Try each precision on the device."""
    return [_tried(device, precision) for precision in precisions]


def _tried(device: torch.device, precision: str) -> PrecisionTrial:
    if precision == "tf32" and device.type != "cuda":
        return PrecisionTrial(precision, False, None, "NVIDIA GPUs alone have it")
    try:
        error = _error_of_product(device, precision)
        exact = _error_of_product(device, "fp32") if precision == "tf32" else 0.0
    except (RuntimeError, TypeError, NotImplementedError) as failure:
        return PrecisionTrial(precision, False, None, str(failure).splitlines()[0])
    if not error <= LARGEST_ERRORS[precision]:
        found = None if error != error or error == float("inf") else error
        return PrecisionTrial(precision, False, found, f"more than {LARGEST_ERRORS[precision]:.0e}")
    is_full = precision == "tf32" and error < 10 * exact
    return PrecisionTrial(precision, True, error, "this GPU computes it in full fp32" if is_full else "")


def _error_of_product(device: torch.device, precision: str) -> float:
    generator = torch.Generator().manual_seed(0)
    x, weight, towards = (torch.randn(256, 256, generator=generator) for _ in range(3))
    results = []
    for place, dtype in ((device, DTYPES[precision]), (torch.device("cpu"), torch.float64)):
        factor, matrix = x.to(place, dtype), weight.to(place, dtype).detach().requires_grad_()
        with fp32_arithmetic(allow_tf32=precision == "tf32"):
            product = factor @ matrix
            product.backward(towards.to(place, dtype))
        results.append((product, matrix.grad))
    return max(measure.relative_to_largest([ours], [exact]) for ours, exact in zip(*results, strict=True))
