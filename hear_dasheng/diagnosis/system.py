"""Versions, processor, memory, libraries: what this process runs on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from hear_dasheng import __version__
from hear_dasheng.compute.measure import available_memory_bytes, container_limit

DISTRIBUTIONS = (
    "torch",
    "numpy",
    "soundfile",
    "soxr",
    "safetensors",
    "huggingface_hub",
    "jaxtyping",
    "click",
    "tqdm",
    "accelerate",
    "bitsandbytes",
    "pydantic",
    "webdataset",
    "torchaudio",
    "torchvision",
    "triton",
    "librosa",
    "scikit-learn",
    "matplotlib",
    "transformers",
    "timm",
    "dasheng",
    "heareval",
    "hearvalidator",
    "pytorch-lightning",
    "xares",
)
"""What this project imports, or what its results are compared with."""

FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16", "i8mm")
"""Flags of x86 and ARM processors for which oneDNN and torch have code of their own."""

VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ENABLE_MPS_FALLBACK",
)
"""Environment variables that change what is computed, or how fast."""


def versions() -> dict[str, str]:
    """Return Python's and each installed package's version."""
    found = {"python": platform.python_version(), "hear_dasheng": __version__}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return operating system, processor, cores, threads, memory in bytes, and variables that are set."""
    text = _cpu_text()
    known = set(re.findall(r"[\w.]+", _field(text, "flags") or _field(text, "Features")))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    is_bound = hasattr(os, "sched_getaffinity")
    return {
        "system": platform.platform(),
        "processor": _field(text, "model name") or _macos_processor() or platform.processor() or "unknown",
        "flags": [flag for flag in FLAGS if flag in known],
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if is_bound else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": total,
        "available_memory_bytes": available_memory_bytes(),
        "container_memory_limit_bytes": container_limit("memory.max"),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def libraries() -> dict[str, Any]:
    """Return torch's BLAS, MKL, oneDNN and OpenMP."""
    config = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", config)
    onednn = re.search(r"(?:MKL-DNN|oneDNN) v([\d.]+)", config)
    mkl = re.search(r"Math Kernel Library Version (\S+)", config)
    openmp = re.search(r"OpenMP (\d+)", config)
    return {
        "blas": blas.group(1) if blas else "unknown",
        "mkl": mkl.group(1) if mkl else None,
        "onednn": onednn.group(1) if onednn and torch.backends.mkldnn.is_available() else None,
        "openmp": openmp.group(1) if openmp else None,
    }


def _cpu_text() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:(.*)$", text, flags=re.MULTILINE)
    return found.group(1).strip() if found else ""


def _macos_processor() -> str:
    if sys.platform != "darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
