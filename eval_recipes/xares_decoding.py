"""X-ARES's audio, decoded by soundfile where torchaudio cannot.

X-ARES reads audio through webdataset's `torch_audio`, that through `torchaudio.load`,
and that, from 2.9 on, only with torchcodec and FFmpeg's libraries. Without them every
clip is passed over with a warning, and nothing is left to embed.
"""

from __future__ import annotations

import io
import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

EXTENSIONS = ("flac", "mp3", "ogg", "wav")


def soundfile_audio(key: str, data: bytes) -> tuple[Tensor, int] | None:
    """What `webdataset.torch_audio` gives: float32 (channels, samples) and the rate; None of other files.

    Args:
        key: the file's name or extension.
        data: its bytes.
    """
    import soundfile

    if key.rpartition(".")[2].lower() not in EXTENSIONS:
        return None
    samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate_hz


def decode_without_ffmpeg() -> None:
    """Let webdataset decode with soundfile in this process, if there is no working torchcodec."""
    try:
        import webdataset
    except ModuleNotFoundError:  # without it X-ARES is not here either
        return
    if webdataset.torch_audio is soundfile_audio:
        return
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):  # of the last two, where FFmpeg's libraries are missing
        logger.warning(
            "torchcodec, which torchaudio needs, does not work here: soundfile decodes X-ARES's audio"
        )
        webdataset.torch_audio = soundfile_audio
