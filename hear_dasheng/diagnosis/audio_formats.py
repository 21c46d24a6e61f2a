"""Which audio formats soundfile writes and reads here, tried in memory."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile

from hear_dasheng.diagnosis.signals import fixed_audio
from hear_dasheng.mel import SAMPLE_RATE_HZ

LARGEST_ERRORS = {"WAV": 1e-3, "FLAC": 1e-3, "OGG": 0.5, "MP3": 0.5}
"""Root mean square of the difference, in units of that of the signal: 16 bits, and what is lossy. A wrong
channel, rate or sign would give more than 1."""


@dataclass(frozen=True)
class AudioFormat:
    """A format, whether a second of sound comes back in it, and why not."""

    name: str
    works: bool
    error: float | None = None
    reason: str = ""


def audio_formats() -> list[AudioFormat]:
    """Write and read a second of sound in each format that this project reads."""
    return [_tried(name, largest) for name, largest in LARGEST_ERRORS.items()]


def libsndfile_version() -> str:
    """Return the version of the library behind soundfile."""
    return soundfile.__libsndfile_version__


def _tried(name: str, largest: float) -> AudioFormat:
    sound = fixed_audio(1, 1.0)[0].numpy()
    file = io.BytesIO()
    try:
        soundfile.write(file, sound, SAMPLE_RATE_HZ, format=name)
        file.seek(0)
        read, rate_hz = soundfile.read(file, dtype="float32")
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
        remedy = "pip install -U soundfile brings a libsndfile that has all four"
        return AudioFormat(name, False, None, f"{str(error).splitlines()[0]}; {remedy}")
    if rate_hz != SAMPLE_RATE_HZ or abs(len(read) - len(sound)) > SAMPLE_RATE_HZ // 10:
        return AudioFormat(
            name, False, None, f"{len(sound)} samples came back as {len(read)} at {rate_hz} Hz"
        )
    n = min(len(read), len(sound))
    error = float(np.sqrt(np.mean((read[:n] - sound[:n]) ** 2) / np.mean(sound**2)))
    return AudioFormat(name, error <= largest, error, "" if error <= largest else "other sound came back")
