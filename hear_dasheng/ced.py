"""CED as a HEAR module: the same encoder over patches of 16 mel bands and 16 frames.

Dinkel et al., "CED: consistent ensemble distillation for audio tagging" (ICASSP 2024), fine-tuned on
AudioSet; front end, blocks and names are Dasheng's. Loaded from the published `audiotransformer_*.pt`
or a `mispeech/ced-*` folder or id; the classifier in it is left out.

As published, the log-mel of a clip is cut into windows of 1012 frames, each begins at position 0, and the
four frames that fill no patch are dropped. The published code completes the last window of a
longer clip with zeros behind `init_bn` and averages over these as well, and loses it where the clip
is an exact multiple; here the last window is as long as the clip, as a short clip is there.

Scenes are the mean over all tokens, and timestamps are a window of 7677 samples each 50 ms around them,
encoded for itself and averaged: CED's own HEAR submission (RicherMans/HEAR_CED). The floor of
120 dB under the maximum is each such window's own, not a whole batch's. The option `hop_ms=None` gives the
native moments instead: the mean of the four tokens above each other, centred on 160 j + 75 ms
after the start of their window.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from hear_dasheng.audio import check_audio, check_lengths
from hear_dasheng.checkpoint import load_encoder
from hear_dasheng.compute.precision import fp32_arithmetic
from hear_dasheng.download import locate
from hear_dasheng.hear_model import HearModel
from hear_dasheng.mel import SAMPLE_RATE_HZ
from hear_dasheng.options import POOLINGS, Options
from hear_dasheng.windows import fit_to_moments

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

PUBLISHED = "mispeech/ced-base"
PATCH = (16, 16)
WINDOW_FRAMES = 1_012
HOP_MS = 50.0
AROUND_SAMPLES = 7_677
"""Three moments of 16 frames, which HEAR_CED takes around each timestamp."""

SLICES_AT_ONCE = 512
"""Such windows whose log-mels are kept at a time."""


class CedModel(nn.Module):
    """An encoder of 16 x 16 patches behind HEAR's API, with CED's windows.

    Attributes:
        sample_rate: 16000 Hz.
        timestamp_embedding_size: features of a moment.
        scene_embedding_size: features of a clip.
    """

    def __init__(self, model: HearModel, hop_ms: float | None = HOP_MS) -> None:
        super().__init__()
        self.model = model
        self.hop_ms = hop_ms
        self.sample_rate = model.sample_rate
        self.timestamp_embedding_size = model.timestamp_embedding_size
        self.scene_embedding_size = model.scene_embedding_size
        self.eval()

    def train(self, mode: bool = True) -> CedModel:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def moments(self, clips: Sequence[Float[Tensor, " _"]]) -> list[Float[Tensor, "_ features"]]:
        """Native moments of clips of any lengths, window after window."""
        with fp32_arithmetic(allow_tf32=False):
            mels = [self.model.log_mel(clip[None])[0] for clip in clips]
        config = self.model.encoder.config
        pieces = [
            [
                fit_to_moments(config, piece, max(piece.shape[1] // config.patch_frames, start == 0))
                for start, piece in _pieces(mel)
                if start == 0 or piece.shape[1] >= config.patch_frames
            ]
            for mel in mels
        ]
        encoded = iter(self.model.encode_mels([piece for own in pieces for piece in own]))
        return [torch.cat([next(encoded) for _ in own]) for own in pieces]

    def moment_times_ms(self, n_samples: int) -> Float[Tensor, " moments"]:
        """Centres of `moments`, none after the clip's end."""
        config = self.model.encoder.config
        frames = max(config.mel.n_frames(n_samples), config.patch_frames)
        middle = (config.patch_frames - 1) / 2
        centres = [
            config.mel.centre_ms(start + moment * config.patch_frames + middle)
            for start in range(0, frames, WINDOW_FRAMES)
            for moment in range(min(WINDOW_FRAMES, frames - start) // config.patch_frames)
        ]
        return torch.tensor(centres).clamp(max=1000.0 * n_samples / SAMPLE_RATE_HZ)

    @torch.no_grad()
    def around_times(self, clip: Float[Tensor, " samples"], hop_ms: float) -> Float[Tensor, "times features"]:
        """The mean embedding of 480 ms around each time from 0 on, `hop_ms` apart, zeros beyond the ends."""
        before = AROUND_SAMPLES // 2
        padded = F.pad(clip, (before, AROUND_SAMPLES - before))
        slices = padded.unfold(0, AROUND_SAMPLES, round(hop_ms * SAMPLE_RATE_HZ / 1000))
        found = []
        for part in slices.split(SLICES_AT_ONCE):
            with fp32_arithmetic(allow_tf32=False):
                mels = self.model.log_mel(part.contiguous())
            found += [moments.mean(0) for moments in self.model.encode_mels(list(mels))]
        return torch.stack(found)


def _pieces(mel: Float[Tensor, "mels frames"]) -> list[tuple[int, Tensor]]:
    return [(start, mel[:, start : start + WINDOW_FRAMES]) for start in range(0, mel.shape[1], WINDOW_FRAMES)]


@no_type_check  # it checks by hand, with messages for people
def load_model(path: str | Path = "", hop_ms: float | None = HOP_MS, **options: Any) -> CedModel:
    """Load a CED checkpoint as a HEAR model.

    Args:
        path: a published file, folder, Hugging Face id or URL. Empty: `mispeech/ced-base`.
        hop_ms: from a timestamp to the next; None gives the native moments.
        **options: `precision`, `layers`, `pooling`, `batch_windows`, `num_heads`, `device`
            of `hear_dasheng`.

    Raises:
        ValueError: an option is impossible, or the checkpoint is damaged, unsafe or has
            other patches than 16 x 16 (`CheckpointError`).
        FileNotFoundError: there is no such checkpoint.
        DownloadError: it has to be fetched and cannot be.
    """
    chosen = Options.from_kwargs(options)
    if chosen.tail != "drop":
        raise ValueError(
            f"option tail={chosen.tail!r}: CED drops the frames that fill no patch; leave it out"
        )
    is_hop = isinstance(hop_ms, int | float) and not isinstance(hop_ms, bool)
    if hop_ms is not None and not (is_hop and (hop_ms * SAMPLE_RATE_HZ / 1000) % 1 == 0 < hop_ms):
        raise ValueError(
            f"option hop_ms={hop_ms!r}: give milliseconds above 0 that are whole samples at 16 kHz, or null "
            "for the native moments"
        )
    checkpoint = locate(path or PUBLISHED)
    encoder = load_encoder(checkpoint, chosen.num_heads)
    config = encoder.config
    if (config.patch_mels, config.patch_frames) != PATCH:
        raise ValueError(
            f"{path} has patches of {config.patch_mels} mel bands and {config.patch_frames} frames, "
            f"CED's are {PATCH[0]} and {PATCH[1]}; use the module hear_dasheng, which takes every patch"
        )
    if config.window_moments != WINDOW_FRAMES // PATCH[1]:
        raise ValueError(
            f"{path} has positions for {config.window_moments} moments; "
            f"CED's have {WINDOW_FRAMES // PATCH[1]}"
        )
    model = CedModel(HearModel(encoder, chosen), hop_ms if hop_ms is None else float(hop_ms))
    model.checkpoint_path = str(checkpoint)  # evaluation records its hash
    return model if chosen.device is None else model.to(chosen.device)


@no_type_check  # it checks by hand, with messages for people
def _clips(audio: Tensor, model: CedModel, lengths: Sequence[int] | Tensor | None) -> list[Tensor]:
    if not isinstance(model, CedModel):
        raise TypeError(f"model must come from hear_dasheng.ced's load_model, not {type(model).__name__}")
    check_audio(audio, model.model.device)
    return [clip[:length] for clip, length in zip(audio, check_lengths(lengths, audio), strict=True)]


@no_type_check
def get_scene_embeddings(
    audio: Tensor, model: CedModel, lengths: Sequence[int] | Tensor | None = None
) -> Float[Tensor, "sounds features"]:
    """One embedding a clip, the mean over all tokens; arguments and errors as in `hear_dasheng`."""
    clips = _clips(audio, model, lengths)
    pool = POOLINGS[model.model.options.pooling]
    return torch.stack([pool(moments) for moments in model.moments(clips)])


@no_type_check
def get_timestamp_embeddings(
    audio: Tensor, model: CedModel, lengths: Sequence[int] | Tensor | None = None
) -> tuple[Float[Tensor, "sounds times features"], Float[Tensor, "sounds times"]]:
    """Embeddings each 50 ms, or the native moments; arguments, padding and errors as in `hear_dasheng`."""
    clips = _clips(audio, model, lengths)
    if model.hop_ms is None:
        embeddings = model.moments(clips)
        times = [model.moment_times_ms(len(clip)) for clip in clips]
    else:
        embeddings = [model.around_times(clip, model.hop_ms) for clip in clips]
        times = [model.hop_ms * torch.arange(len(found)) for found in embeddings]
    times = [time.float().to(audio.device) for time in times]
    return pad_sequence(embeddings, True), pad_sequence(times, True, padding_value=torch.nan)
