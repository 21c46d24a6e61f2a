"""Small HEAR tasks of beeps, as archives."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile

NAME = "beeps-v1-small"
SECONDS = 0.5


def sound(rate_hz: int, frequency_hz: float, subtype: str = "PCM_16") -> bytes:
    samples = 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(int(SECONDS * rate_hz)) / rate_hz)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format="WAV", subtype=subtype)
    return buffer.getvalue()


def task_files(rates_hz=(48_000,), clips=4) -> dict[str, bytes]:
    """A small task's files by path inside the task."""
    metadata = {"task_name": "beeps", "splits": ["train", "test"], "sample_duration": SECONDS}
    files = {"task_metadata.json": json.dumps(metadata).encode(), "labelvocabulary.csv": b"idx,label\n0,a\n"}
    for split in metadata["splits"]:
        names = [f"{split}_{index}.wav" for index in range(clips)]
        files[f"{split}.json"] = json.dumps({name: ["a"] for name in names}).encode()
        for rate_hz in rates_hz:
            files |= {
                f"{rate_hz}/{split}/{name}": sound(rate_hz, 440 + 40 * i) for i, name in enumerate(names)
            }
    return files


def tar_of(files: dict[str, bytes], name: str = NAME, prefix: str = "tasks/", level: int = 1) -> bytes:
    """A compressed archive of a task."""
    content = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=content, mode="wb", compresslevel=level, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path, data in files.items():
            info = tarfile.TarInfo(f"{prefix}{name}/{path}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def write_tar(path: Path, files: dict[str, bytes], prefix: str = "tasks/", level: int = 1) -> Path:
    path.write_bytes(tar_of(files, prefix=prefix, level=level))
    return path
