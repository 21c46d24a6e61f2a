"""The doctor's check of training: the gradients of one step of masked autoencoding, and its speed."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hear_dasheng import cpu_training
from hear_dasheng.compute import measure
from hear_dasheng.compute.checks import BOUNDS, PASS, Parity, Request, Throughput, plan_clips
from hear_dasheng.diagnosis.signals import fitted_encoder, fixed_audio
from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.mel import SAMPLE_RATE_HZ
from pretrain.masked_autoencoder import MaskedAutoencoder, new_masked_autoencoder
from pretrain.masking import fixed_mask, random_mask

CLIPS, CLIP_S = 2, 5.0
MASK_RATIO, MASK_GROUP = 0.75, 2
"""As the shipped configs have them."""

MEASURED_CLIP_S = 10
MOST_CLIPS = 64
STATE_BYTES = 16
"""Bytes per parameter of weights, gradients and AdamW's two moments in fp32."""


class TrainingCheck:
    """See `Check`.

    The reference is torch's default linear layers and attention written out, in fp32 on the CPU.
    """

    name = "training step"
    measures_speed = True

    def __init__(self, request: Request) -> None:
        self._request = request

    def operators(self) -> dict[str, bool]:
        """Return whether oneDNN multiplies in training."""
        return {"training, fp32": cpu_training.is_onednn_usable()}

    def _model(self) -> MaskedAutoencoder:
        size = self._request.sizes[0]
        encoder = fitted_encoder(size, fixed_audio(CLIPS, CLIP_S)).requires_grad_(True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return new_masked_autoencoder(encoder, size).train()

    @functools.cached_property
    def _reference(self) -> tuple[Tensor, dict[str, Tensor]]:
        with cpu_training.plain_operators(), sdpa_kernel(SDPBackend.MATH):
            return _gradients(self._model(), torch.device("cpu"), "fp32")

    def parity(self, precision: str) -> list[Parity]:
        """Compare the loss and the gradients under a fixed mask."""
        loss, gradients = _gradients(self._model(), self._request.device, precision)
        expected_loss, expected = self._reference
        loss_error = measure.relative_to_norm([loss], [expected_loss])
        names = list(expected)
        all_error = measure.relative_to_norm((gradients[n] for n in names), (expected[n] for n in names))
        of_each = {n: measure.relative_to_norm([gradients[n]], [expected[n]]) for n in names}
        # A NaN is the worst: max alone would pass over it.
        worst = max(of_each, key=lambda n: of_each[n] if of_each[n] == of_each[n] else float("inf"))
        bound = BOUNDS[precision]
        return [
            # The mean over thousands of patches: their errors cancel.
            Parity.of(self.name, "loss", precision, loss_error, bound / 10, "the loss"),
            Parity.of(self.name, "gradients", precision, all_error, bound, "their norm"),
            # A parameter's own gradient may be small, and its error with it is not.
            Parity.of(
                self.name,
                "worst gradient",
                precision,
                of_each[worst],
                2 * bound,
                "its norm",
                worst,
            ),
        ]

    def throughput(self, size: str, precision: str, peak_flops: float) -> Throughput:
        """Measure clips per second: forward, backward and AdamW on crops of 10 s."""
        request, config = self._request, EncoderConfig.of_size(size)
        flop, kept_bytes, parameters = _cost_of_clip(size)
        clips = plan_clips(
            request,
            # Gradients of activations need as much again for a moment, and bf16 a copy of the weights.
            fixed_bytes=(STATE_BYTES + (2 if precision == "bf16" else 0)) * parameters,
            bytes_per_clip=kept_bytes * 5 // 4,
            flop_per_clip=flop,
            peak_flops=peak_flops,
            most=MOST_CLIPS,
        )
        with torch.device(request.device):
            model = new_masked_autoencoder(Encoder(config), size).train()
            audio = 0.1 * torch.randn(clips, MEASURED_CLIP_S * SAMPLE_RATE_HZ)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        n_tokens = model.n_tokens(audio.shape[1])

        def step() -> None:
            mask = random_mask(clips, n_tokens, MASK_RATIO, MASK_GROUP).to(request.device)
            with measure.arithmetic(request.device, precision):
                model(audio, mask).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        with measure.peak_memory(request.device) as peak_bytes:
            seconds = measure.seconds_per_call(step, request.device, request.seconds)
            peak_memory = peak_bytes()
        return Throughput(
            self.name,
            size,
            precision,
            PASS,
            rate=clips / seconds,
            unit="clips",
            clips=clips,
            seconds=seconds,
            flop=clips * flop,
            share_of_peak=clips * flop / seconds / peak_flops,
            peak_memory_bytes=peak_memory,
        )


def _gradients(
    model: MaskedAutoencoder, device: torch.device, precision: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the gradients of all parameters, on the CPU."""
    model = model.to(device)
    audio = fixed_audio(CLIPS, CLIP_S).to(device)
    mask = fixed_mask(list(range(CLIPS)), model.n_tokens(audio.shape[1]), MASK_RATIO, MASK_GROUP)
    with measure.arithmetic(device, precision):
        loss = model(audio, mask.to(device)).mean()
        loss.backward()
    gradients = {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}
    return loss.detach().cpu(), gradients


@functools.cache
def _cost_of_clip(size: str) -> tuple[int, int, int]:
    """Return a step's operations and kept bytes for a clip of 10 s, and the model's parameters."""
    config = EncoderConfig.of_size(size)
    with torch.device("meta"):
        model = new_masked_autoencoder(Encoder(config), size).train()
    samples = MEASURED_CLIP_S * SAMPLE_RATE_HZ

    def step(loss_of: Callable[..., Tensor]) -> None:
        mask = random_mask(1, model.n_tokens(samples), MASK_RATIO, MASK_GROUP)
        loss_of(torch.empty(1, samples), mask).mean().backward()

    with cpu_training.plain_operators(), sdpa_kernel(SDPBackend.MATH):
        flop, kept_bytes = measure.cost(model, step)
    return flop, kept_bytes, sum(parameter.numel() for parameter in model.parameters())
