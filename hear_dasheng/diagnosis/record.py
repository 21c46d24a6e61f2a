"""Everything that the doctor found, as one record: the content of `--json` and the source of the text."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from hear_dasheng.compute.checks import FAIL, PASS, Request
from hear_dasheng.diagnosis.audio_formats import AudioFormat, audio_formats, libsndfile_version
from hear_dasheng.diagnosis.devices import PrecisionTrial, cuda, devices
from hear_dasheng.diagnosis.examination import Examination
from hear_dasheng.diagnosis.system import libraries, machine, versions

FORMAT = 1
"""Version of the record; it grows when a field changes its meaning."""


def new_record(
    request: Request, trials: list[PrecisionTrial], found: Examination, elapsed_s: float
) -> dict[str, Any]:
    """Collect the record.

    Returns:
        These fields; numbers that are not finite are None:

        - format: `FORMAT`.
        - verdict: "PASS", or "FAIL" if a row of parity or throughput failed or nothing was compared.
        - request: device, sizes, precisions and seconds, as they were chosen.
        - elapsed_s: the duration of all checks.
        - versions: a version by package; those installed.
        - machine: system, processor, flags, cores, threads, memory in bytes, environment variables.
        - libraries: BLAS, MKL, oneDNN, OpenMP.
        - onednn_operators: which of the packages' own fast operators for CPUs work here.
        - audio: version of libsndfile, and for each format `works`, `error` and `reason` (`AudioFormat`).
        - devices, cuda: the devices that torch can use, and what it is built for.
        - precisions: for the device under test, `works`, `error` and `reason` (`PrecisionTrial`).
        - parity: rows (`hear_dasheng.compute.checks.Parity`).
        - matrix_peak_flops: operations per second of one large product, by precision.
        - throughput: rows (`hear_dasheng.compute.checks.Throughput`).
        - unavailable: by check, why it cannot be made here and what to install.
    """
    record = {
        "format": FORMAT,
        "verdict": PASS if found.has_passed else FAIL,
        "request": {
            "device": str(request.device),
            "sizes": list(request.sizes),
            "precisions": list(request.precisions),
            "seconds": request.seconds,
        },
        "elapsed_s": elapsed_s,
        "versions": versions(),
        "machine": machine(),
        "libraries": libraries(),
        "onednn_operators": dict(found.operators),
        "audio": {"libsndfile": libsndfile_version(), "formats": _rows(audio_formats())},
        "devices": devices(),
        "cuda": cuda(),
        "precisions": _rows(trials),
        "parity": _rows(found.parity),
        "matrix_peak_flops": dict(found.peak_flops),
        "throughput": _rows(found.throughput),
        "unavailable": dict(found.unavailable),
    }
    return _finite(record)


def to_json(record: dict[str, Any]) -> str:
    """Return the record as strict JSON."""
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def _rows(rows: list[Any] | list[AudioFormat]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
