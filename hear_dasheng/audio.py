"""What counts as input audio: tensors handed to a HEAR model, and audio files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hear_dasheng.mel import SAMPLE_RATE_HZ
from whole_audio import openable, rate_fault

MAX_PEAK = 100.0
"""Audio is in [-1, 1]; a peak this high means integer samples that were never scaled."""


@no_type_check  # what it is given is what is in question
def check_audio(audio: Tensor, device: torch.device) -> None:
    """Refuse audio that a model on `device` cannot embed faithfully.

    Args:
        audio: should be float32 (n_sounds, n_samples) in [-1, 1], on `device`.

    Raises:
        TypeError: not a tensor, or not float32.
        ValueError: wrong rank, empty, on another device, not finite or not scaled.
    """
    if not isinstance(audio, Tensor):
        raise TypeError(
            f"audio must be a torch.Tensor, not {type(audio).__name__}; convert it with torch.as_tensor"
        )
    if audio.dtype != torch.float32:
        remedy = "call audio.float()"
        if not audio.is_floating_point():
            remedy = "scale it to [-1, 1] first, for 16-bit samples with audio.float() / 32768"
        raise TypeError(f"audio must be float32, not {audio.dtype}; {remedy}")
    if audio.ndim != 2:
        raise ValueError(
            f"audio must have the shape (n_sounds, n_samples), not {tuple(audio.shape)}; "
            "one mono clip becomes audio[None], stereo is mixed down with audio.mean(channel_axis)"
        )
    if 0 in audio.shape:
        raise ValueError(f"audio of shape {tuple(audio.shape)} is empty; give one sample at least")
    if audio.device != device:
        raise ValueError(
            f"audio is on {audio.device} but the model is on {device}; "
            f"call audio.to({str(device)!r}) or move the model"
        )
    low, high = (extreme.item() for extreme in audio.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        sound, sample = (~audio.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"audio holds {audio[sound, sample].item()} in sound {sound} at sample {sample}; "
            "repair or leave out that clip"
        )
    if max(-low, high) > MAX_PEAK:
        raise ValueError(
            f"audio reaches {max(-low, high):g} but must lie in [-1, 1]; "
            "these look like integer samples: divide 16-bit ones by 32768"
        )


@no_type_check
def check_lengths(lengths: Sequence[int] | Tensor | None, audio: Tensor) -> list[int]:
    """The valid samples of each sound; all of them if `lengths` is None.

    Raises:
        TypeError: lengths are not whole numbers.
        ValueError: not one length per sound, or one outside 1..n_samples.
    """
    n_sounds, n_samples = audio.shape
    if lengths is None:
        return [n_samples] * n_sounds
    as_tensor = torch.as_tensor(lengths)
    if as_tensor.is_floating_point() or as_tensor.is_complex() or as_tensor.dtype == torch.bool:
        raise TypeError(f"lengths must be whole numbers of samples, not {as_tensor.dtype}")
    if as_tensor.shape != (n_sounds,):
        raise ValueError(
            f"lengths must hold one number of samples for each of the {n_sounds} sounds, "
            f"but has the shape {tuple(as_tensor.shape)}"
        )
    values = as_tensor.tolist()
    for sound, length in enumerate(values):
        if not 1 <= length <= n_samples:
            raise ValueError(
                f"lengths[{sound}] is {length}; it must lie between 1 and the {n_samples} samples given"
            )
    return values


def read_audio(path: str | Path) -> Float[np.ndarray, " samples"]:
    """Decode an audio file to 16 kHz mono float32 in [-1, 1].

    Channels are averaged; other sample rates are converted with soxr at its
    highest quality. soundfile decodes wav, flac, ogg, mp3 and more.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, states an impossible sample rate, holds no samples, or so few that
            none is left at 16 kHz.
    """
    import soundfile
    import soxr

    check_is_file(path)
    try:
        with soundfile.SoundFile(openable(path)) as file:
            rate_hz = file.samplerate
            check_rate(path, rate_hz)
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(f"cannot decode {path}: {error}; is it an audio file, and complete?") from error
    mono = mixed_to_mono(samples)
    if len(mono):
        mono = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, quality="VHQ")
    if not len(mono):
        raise ValueError(too_short(path, len(samples), rate_hz))
    return mono.astype(np.float32, copy=False)


def check_is_file(path: str | Path) -> None:
    """Raise a FileNotFoundError that says what there is instead of an audio file."""
    if Path(path).is_dir():
        raise FileNotFoundError(
            f"{path} is a folder; name the audio files in it, e.g. {Path(path) / '*.wav'}"
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"no audio file at {path}")


def check_rate(path: str | Path, rate_hz: int) -> None:
    """Raise a ValueError if a file's header states a sample rate that no audio has."""
    if fault := rate_fault(rate_hz):
        raise ValueError(f"{path} is damaged: {fault}; repair its header or leave out that file")


def too_short(path: str | Path, n_samples: int, rate_hz: int) -> str:
    """What is said of a file of which nothing is left at the model's rate."""
    if not n_samples:
        return f"{path} holds no samples"
    return (
        f"{path} is too short: of its {n_samples} sample(s) at {rate_hz} Hz none is left at "
        f"{SAMPLE_RATE_HZ} Hz; leave out that file"
    )


def mixed_to_mono(samples: Float[np.ndarray, "samples channels"]) -> Float[np.ndarray, " samples"]:
    """The mean of all channels."""
    mono = samples[:, 0].copy()
    for channel in samples.T[1:]:  # many times faster than mean(axis=1)
        mono += channel
    mono /= samples.shape[1]
    return mono
