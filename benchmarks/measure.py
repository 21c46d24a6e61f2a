"""What the benchmarks share: a bounded machine, alternating runs, ratios, the hardware's name."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch


def use_cores(cores: int) -> None:
    """Bind this process and its threads to the first cores."""
    os.sched_setaffinity(0, range(cores))
    torch.set_num_threads(cores)


def machine() -> str:
    """Processor, cores in use and versions, in one line."""
    flags = Path("/proc/cpuinfo").read_text()
    cpu = next(
        (line.split(":")[1].strip() for line in flags.splitlines() if line.startswith("model name")), "?"
    )
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "dasheng"))
    cores = len(os.sched_getaffinity(0))
    return f"{cpu} ({', '.join(units)}), {cores} cores, Python {platform.python_version()}, {versions}"


def matrix_peak_gflops(dtype: torch.dtype) -> float:
    """The best rate of one large matrix product, in oneDNN's layout where there is one."""
    from hear_dasheng import cpu_linear
    from hear_dasheng.blocks import Linear

    linear = Linear(3072, 3072, dtype=dtype).requires_grad_(False)
    product = cpu_linear.PackedLinear(linear) if cpu_linear.is_supported(dtype) else linear
    x = torch.randn(2048, 3072, dtype=dtype)
    seconds = []
    with torch.inference_mode():
        for _ in range(8):
            start = time.perf_counter()
            product(x)
            seconds.append(time.perf_counter() - start)
    return 2 * 2048 * 3072 * 3072 / min(seconds) / 1e9


def alternate(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant, in turn, after one uncounted round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(rounds + 1):
        for name, work in contestants.items():
            start = time.perf_counter()
            work()
            if index:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(seconds: dict[str, list[float]], reference: str, gflop: float | None = None) -> None:
    """Median, spread, and the median of the ratios pair by pair."""
    for name, values in seconds.items():
        ratio = statistics.median(r / v for r, v in zip(seconds[reference], values, strict=True))
        rate = "" if gflop is None else f"  {gflop / statistics.median(values):6.0f} GFLOP/s"
        print(
            f"{name:<34} median {statistics.median(values):8.3f} s  (min {min(values):.3f}, "
            f"max {max(values):.3f})  {ratio:5.2f} x {reference}{rate}"
        )


def peak_memory_mib() -> float:
    """Most resident memory of this process so far.

    From /proc: getrusage's maximum would include the parent's before exec.
    """
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def in_fresh_process(script: str, *arguments: str) -> str:
    """Run a benchmark script again with other arguments, for figures that need their own process."""
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def random_base_checkpoint():
    """A published-form base checkpoint with random weights."""
    from dasheng.pretrained.pretrained import Dasheng

    config = {"embed_dim": 768, "depth": 12, "num_heads": 12}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dasheng_base.pt")
        torch.save({"model": Dasheng(**config).state_dict(), "config": config}, path)
        yield path


def load_package(path: Path):
    """The same checkpoint in the published package."""
    from dasheng.pretrained.pretrained import Dasheng

    return Dasheng.from_pretrained(str(path)).eval().requires_grad_(False)
