"""The doctor's record as text of at most 100 columns."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from hear_dasheng.compute.checks import FAIL, PASS, SKIPPED

WIDTH = 100
LABEL = 14
GIB = 2**30


def as_text(record: dict[str, Any]) -> str:
    """Return the whole report."""
    sections = [
        ("Versions", _pairs(record["versions"])),
        ("Machine", _machine(record["machine"])),
        ("Libraries", _libraries(record["libraries"], record["onednn_operators"])),
        ("Audio files", _audio(record["audio"])),
        ("Devices", _devices(record)),
        (f"Precisions on {record['request']['device']}", _precisions(record["precisions"])),
        (_parity_title(record), _parity(record)),
    ]
    if record["throughput"]:
        sections.append((f"Throughput on {record['request']['device']}", _throughput(record)))
    lines = []
    for title, body in sections:
        lines += [title, "-" * len(title), *body, ""]
    return "\n".join([*lines, *verdict(record)]) + "\n"


def verdict(record: dict[str, Any]) -> list[str]:
    """Return the last lines: what passed, what failed, what was left out."""
    rows = Counter(row["status"] for row in record["parity"])
    failed = [row for row in (*record["parity"], *record["throughput"]) if row["status"] == FAIL]
    compared = rows[PASS] + rows[FAIL]
    line = f"{record['verdict']}: {rows[PASS]} of {compared} comparisons are within their bounds"
    if not compared:
        line = f"{record['verdict']}: nothing was compared"
    if rows[SKIPPED]:
        line += f", {rows[SKIPPED]} skipped"
    if record["unavailable"]:
        line += f", {len(record['unavailable'])} checks not available"
    lines = _wrapped(f"{line}; {record['elapsed_s']:.0f} s.", "")
    for row in failed:
        name = row.get("quantity") or f"speed of {row['size']}"
        lines += _wrapped(f"  {row['check']}, {name}, {row['precision']}: {_cause(row)}", "    ")
    return lines


def _cause(row: dict[str, Any]) -> str:
    if row.get("error") is None:
        return row["reason"]
    unit = "dB" if row["unit"] == "dB" else f"of {row['unit']}"
    of_what = f" ({row['reason']})" if row["reason"] else ""
    return f"the error {row['error']:.1e} {unit}{of_what} is above the bound {row['bound']:.1e}"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [text]


def _entry(label: str, text: str) -> list[str]:
    """Return a label and its text, wrapped beside it."""
    start = f"  {label:<{LABEL}} "
    return textwrap.wrap(
        start + text, WIDTH, subsequent_indent=" " * len(start), break_on_hyphens=False, drop_whitespace=True
    )


def _pairs(values: dict[str, str]) -> list[str]:
    """Return names with versions, as many in a line as fit."""
    items = [f"{name} {value}" for name, value in values.items()]
    width = max(map(len, items)) + 2
    columns = max(1, (WIDTH - 2) // width)
    rows = [items[first : first + columns] for first in range(0, len(items), columns)]
    return ["  " + "".join(f"{item:<{width}}" for item in row).rstrip() for row in rows]


def _machine(machine: dict[str, Any]) -> list[str]:
    flags = ", ".join(machine["flags"]) or "none of those that matter"
    cores = (
        f"{machine['usable_cores']} of {machine['cores']} usable, {machine['torch_threads']} threads in torch"
    )
    total = machine["memory_bytes"]
    memory = f"{machine['available_memory_bytes'] / GIB:.1f} GiB available"
    memory += f" of {total / GIB:.1f} GiB" if total else ""
    limit = machine["container_memory_limit_bytes"]
    memory += f", the container's limit is {limit / GIB:.1f} GiB" if limit else ""
    lines = [
        *_entry("system", machine["system"]),
        *_entry(
            "processor", f"{machine['processor']}; torch uses {machine['torch_capability']}; has {flags}"
        ),
        *_entry("cores", cores),
        *_entry("memory", memory),
    ]
    for name, value in machine["environment"].items():
        lines += _entry("environment", f"{name}={value}")
    return lines


def _libraries(libraries: dict[str, Any], operators: dict[str, bool]) -> list[str]:
    names = (("oneDNN", "onednn"), ("MKL", "mkl"), ("OpenMP", "openmp"))
    parts = [f"{title} {libraries[key] or 'none'}" for title, key in names]
    used = [f"{name}: {'yes' if works else 'no'}" for name, works in operators.items()]
    return [
        *_entry("BLAS", ", ".join([libraries["blas"], *parts])),
        *_entry("oneDNN used", "; ".join(used)),
    ]


def _audio(audio: dict[str, Any]) -> list[str]:
    lines = _entry("libsndfile", audio["libsndfile"])
    working = [row["name"] for row in audio["formats"] if row["works"]]
    lines += _entry("round trips", ", ".join(working) or "none")
    for row in audio["formats"]:
        if not row["works"]:
            lines += _entry(row["name"], f"does not work: {row['reason']}")
    return lines


def _devices(record: dict[str, Any]) -> list[str]:
    lines = []
    for device in record["devices"]:
        text = device["name"]
        if "memory_bytes" in device:
            text += (
                f", compute capability {device['compute_capability']}, {device['multiprocessors']} "
                f"multiprocessors, {device['free_memory_bytes'] / GIB:.1f} of "
                f"{device['memory_bytes'] / GIB:.1f} GiB free"
            )
        lines += _entry(device["device"], text)
    cuda = record["cuda"]
    built = f"CUDA {cuda['torch_built_for_cuda']}" if cuda["torch_built_for_cuda"] else None
    built = built or (
        f"ROCm {cuda['torch_built_for_rocm']}" if cuda["torch_built_for_rocm"] else "CPUs alone"
    )
    text = f"torch is built for {built}"
    if cuda["cudnn"]:
        text += f", cuDNN {cuda['cudnn']}"
    if cuda["architectures"]:
        text += f" ({', '.join(cuda['architectures'])})"
    text += "" if cuda["is_available"] else "; no such device is available"
    lines += _entry("build", text)
    for line in cuda["nvidia_smi"]:
        lines += _entry("nvidia-smi", line)
    return lines


def _precisions(trials: Iterable[dict[str, Any]]) -> list[str]:
    lines = []
    for row in trials:
        text = "works" if row["works"] else "does not work"
        if row["error"] is not None:
            text += f", relative error {row['error']:.1e}"
        lines += _entry(row["precision"], text + (f": {row['reason']}" if row["reason"] else ""))
    return lines


def _parity_title(record: dict[str, Any]) -> str:
    request = record["request"]
    size = request["sizes"][0]
    return f"Parity of {request['device']} with plain fp32 torch on the CPU ({size}, random weights)"


def _parity(record: dict[str, Any]) -> list[str]:
    rows = [("check", "quantity", "precision", "error", "bound", "", "of")]
    for row in record["parity"]:
        if row["error"] is None:
            name = "" if row["quantity"] == "all" else row["quantity"]
            rows.append((row["check"], name, row["precision"], "", "", row["status"], row["reason"]))
        else:
            numbers = f"{row['error']:.1e}", f"{row['bound']:.1e}"
            rows.append(
                (row["check"], row["quantity"], row["precision"], *numbers, row["status"], row["unit"])
            )
    return [*_table(rows), *_unavailable(record)]


def _unavailable(record: dict[str, Any]) -> list[str]:
    return [
        line
        for name, reason in record["unavailable"].items()
        for line in _wrapped(f"  {name}: {SKIPPED}, {reason}", "    ")
    ]


def _throughput(record: dict[str, Any]) -> list[str]:
    peaks = [f"{name} {_flops(peak)}" for name, peak in record["matrix_peak_flops"].items()]
    rows = [("check", "size", "precision", "per second", "clips", "s a call", "of peak", "memory")]
    for row in (row for row in record["throughput"] if row["rate"] is not None):
        memory = row["peak_memory_bytes"]
        rows.append(
            (
                row["check"],
                row["size"],
                row["precision"],
                f"{row['rate']:.3g} {row['unit']}",
                str(row["clips"]),
                f"{row['seconds']:.3g}",
                f"{100 * row['share_of_peak']:.0f} %",
                "not known" if memory is None else f"{memory / GIB:.2f} GiB",
            )
        )
    table = _table(rows) if len(rows) > 1 else []
    return [*_entry("matrix peak", ", ".join(peaks) or "not measured"), *table, *_not_measured(record)]


def _not_measured(record: dict[str, Any]) -> list[str]:
    """Return a line for each reason why something was not measured."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in (row for row in record["throughput"] if row["rate"] is None):
        name = f"{row['check']} {row['size']} {row['precision']}"
        found.setdefault((row["status"], row["reason"]), []).append(name)
    return [
        line
        for (status, reason), names in found.items()
        for line in _wrapped(f"  {status} {', '.join(names)}: {reason}", "    ")
    ]


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.3g} GFLOP/s"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows in columns; what is too long in the last one is wrapped under it."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        start = "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)) + "  "
        last = textwrap.wrap(row[-1], max(WIDTH - len(start), 20), break_on_hyphens=False) or [""]
        lines += [(start + last[0]).rstrip(), *(" " * len(start) + more for more in last[1:])]
    return lines
