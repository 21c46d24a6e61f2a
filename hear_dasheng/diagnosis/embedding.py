"""The doctor's check of embeddings: log-mel, tokens and scenes as `load_model`'s models give them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hear_dasheng import cpu_linear, cpu_training
from hear_dasheng.compute import measure
from hear_dasheng.compute.checks import BOUNDS, PASS, Parity, Request, Throughput, plan_clips
from hear_dasheng.compute.precision import fp32_arithmetic
from hear_dasheng.diagnosis.signals import fitted_encoder, fixed_audio
from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.hear_model import BATCH_WINDOWS, HearModel
from hear_dasheng.mel import SAMPLE_RATE_HZ, LogMel
from hear_dasheng.options import Options
from hear_dasheng.windows import encode_clips, fit_to_moments, n_moments

LENGTHS_S = (12.0, 4.0, 3.9, 0.7)
"""A clip of more than a window, two that share a padded batch, and a short one."""

LOG_MEL_BOUND_DB = 1e-3
"""The tolerance that the README states against torchaudio."""

CLIP_S, FRAMES_PER_S = 10, 100
ACTIVATIONS = 16
"""Values per token and feature that live at once while a block is computed, at most: 4 in the MLP's inner
layer, 3 projections, their copies by head, and the residual stream."""


class EmbeddingCheck:
    """See `Check`.

    The reference cuts, encodes and pools clip after clip with torch's default linear layers and attention
    written out. The device's result comes from `HearModel`: padded batches, oneDNN's layout on a CPU, fused
    attention.
    """

    name = "embedding"
    measures_speed = True

    def __init__(self, request: Request) -> None:
        self._request = request

    def operators(self) -> dict[str, bool]:
        """Return whether linear layers are kept in oneDNN's layout."""
        return {
            "embedding, fp32": cpu_linear.is_supported(torch.float32),
            "embedding, bf16": cpu_linear.is_supported(torch.bfloat16),
        }

    @functools.cached_property
    def _clips(self) -> list[Tensor]:
        audio = fixed_audio(len(LENGTHS_S), max(LENGTHS_S))
        return [clip[: round(s * SAMPLE_RATE_HZ)] for clip, s in zip(audio, LENGTHS_S, strict=True)]

    def _encoder(self) -> Encoder:
        return fitted_encoder(self._request.sizes[0], self._clips[0][None])

    @functools.cached_property
    def _reference(self) -> list[Tensor]:
        encoder = self._encoder()
        log_mel, config = LogMel(encoder.config.mel), encoder.config
        tokens = []
        with torch.no_grad(), fp32_arithmetic(), sdpa_kernel(SDPBackend.MATH):
            for clip in self._clips:
                mel = fit_to_moments(config, log_mel(clip[None])[0], n_moments(config, len(clip)))
                tokens += encode_clips(encoder, [mel], (-1,), config.window_moments)
        return tokens

    def parity(self, precision: str) -> list[Parity]:
        """Compare tokens and scenes, and with fp32 the log-mel, which every precision computes in fp32."""
        device = self._request.device
        model = HearModel(self._encoder(), Options(precision=precision)).to(device)
        tokens = [clip.cpu() for clip in model.token_embeddings([clip.to(device) for clip in self._clips])]
        unit, bound = "largest value", BOUNDS[precision]
        rows = [self._log_mel(model.log_mel)] if precision == "fp32" else []
        for quantity, pool in (("tokens", lambda clip: clip), ("scenes", lambda clip: clip.mean(0))):
            error = measure.relative_to_largest(map(pool, tokens), map(pool, self._reference))
            rows.append(Parity.of(self.name, quantity, precision, error, bound, unit))
        return rows

    @torch.no_grad()
    def _log_mel(self, log_mel: LogMel) -> Parity:
        """Compare with the same formula in float64 on the CPU."""
        clip = self._clips[0][None]
        with fp32_arithmetic():
            levels = log_mel(clip.to(self._request.device)).cpu().double()
        exact = LogMel(log_mel.config).double()(clip.double())
        error_db = (levels - exact).abs().max().item()
        return Parity.of(self.name, "log-mel", "fp32", error_db, LOG_MEL_BOUND_DB, "dB")

    def throughput(self, size: str, precision: str, peak_flops: float) -> Throughput:
        """Measure hours of audio per second, on up to as many clips as `HearModel` encodes at once."""
        request, config = self._request, EncoderConfig.of_size(size)
        flop, parameters = _cost_of_clip(config)
        clips = plan_clips(
            request,
            fixed_bytes=6 * parameters,  # a layer is copied while it moves into oneDNN's layout
            bytes_per_clip=4 * ACTIVATIONS * config.window_tokens * config.dim,
            flop_per_clip=flop,
            peak_flops=peak_flops,
            most=BATCH_WINDOWS.get(request.device.type, 16),
        )
        with torch.device(request.device):
            encoder = Encoder(config).eval()
        model = HearModel(encoder, Options(precision=precision)).to(request.device)
        audio = 0.1 * torch.randn(clips, CLIP_S * SAMPLE_RATE_HZ, device=request.device)
        with measure.peak_memory(request.device) as peak_bytes:
            seconds = measure.seconds_per_call(
                lambda: model.scene_embeddings(list(audio)), request.device, request.seconds
            )
            peak_memory = peak_bytes()
        return Throughput(
            self.name,
            size,
            precision,
            PASS,
            rate=clips * CLIP_S / 3600 / seconds,
            unit="hours of audio",
            clips=clips,
            seconds=seconds,
            flop=clips * flop,
            share_of_peak=clips * flop / seconds / peak_flops,
            peak_memory_bytes=peak_memory,
        )


@functools.cache
def _cost_of_clip(config: EncoderConfig) -> tuple[int, int]:
    """Return the operations that the tokens of a clip of 10 s take, and the encoder's parameters."""
    with torch.device("meta"):
        encoder = Encoder(config).eval().requires_grad_(False)
    frames = CLIP_S * FRAMES_PER_S // config.patch_frames * config.patch_frames
    with torch.no_grad(), cpu_training.plain_operators(), sdpa_kernel(SDPBackend.MATH):
        flop, _ = measure.cost(encoder, lambda encode: encode(torch.empty(1, config.mel.n_mels, frames)))
    return flop, sum(parameter.numel() for parameter in encoder.parameters())
