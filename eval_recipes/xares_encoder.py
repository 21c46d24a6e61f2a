"""Any HEAR module as an encoder of X-ARES.

X-ARES (Zhang et al. 2025, arXiv 2505.16369; package `xares` 0.1.3) takes a Python file
with one class whose name ends in "Encoder" and calls it without arguments. This file
is one, and takes what it shall load from the environment:

    HEAR_MODULE=hear_dasheng HEAR_MODEL=my_checkpoint \\
        python -m xares.run --max-jobs 0 eval_recipes/xares_encoder.py tasks/esc50_task.py

`HEAR_OPTIONS` may hold further keywords for the module's `load_model`, as JSON. X-ARES
files embeddings and scores under the name of the class, so that each module, checkpoint
and set of options gets a class name of its own.

As X-ARES has it, clips of different lengths come padded with zeros and without their
lengths, and the padding is embedded too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from typing import Any

import click
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from eval_recipes.embedding.module import ModuleProblem, import_module, load_module
from eval_recipes.model_arguments import parse_options
from eval_recipes.modules.checks import check_timestamp_embeddings
from eval_recipes.modules.guard import module_code
from eval_recipes.provenance import checkpoint_identity
from eval_recipes.xares_decoding import decode_without_ffmpeg

logger = logging.getLogger(__name__)

NEEDED_MOMENTS = 3
LONGEST_S = 256
"""Audio on which the hop is measured, at most: a model has three moments in it."""

UNEVEN = 0.02
"""Largest deviation of a step from the hop, in hops."""


class HearEncoder(nn.Module):
    """A HEAR module with X-ARES's interface.

    Args:
        module: the HEAR module's name; None: `HEAR_MODULE` of the environment.
        model: a checkpoint for its `load_model`; None: `HEAR_MODEL`, or the module's own choice.
        options: further keywords for `load_model`; None: `HEAR_OPTIONS`.

    Attributes:
        sampling_rate: of the audio it takes, in Hz: the model's.
        output_dim: features of a moment: the model's.
        hop_size_in_ms: from one moment to the next, measured on the model's timestamps.

    Raises:
        ModuleProblem: no module is named, it cannot be loaded, or its moments are not evenly spaced.
    """

    def __init__(
        self, module: str | None = None, model: str | None = None, options: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        module = module or os.environ.get("HEAR_MODULE")
        if not module:
            raise ModuleProblem("no HEAR module is named; set HEAR_MODULE, for example to hear_dasheng")
        model = model or os.environ.get("HEAR_MODEL") or None
        options = _options_of_environment() if options is None else options
        self.settings = (module, model, options)
        loaded = load_module(module, model, options)
        self.model = loaded.model
        self._timestamp_embeddings = import_module(module).get_timestamp_embeddings
        self.sampling_rate = loaded.sample_rate_hz
        self.output_dim = loaded.timestamp_size
        self.hop_size_in_ms = self._measured_hop_ms()
        self.__class__ = type(class_name(*self.settings), (HearEncoder,), {"__module__": __name__})
        decode_without_ffmpeg()

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes load the model anew."""
        return HearEncoder, self.settings

    @torch.no_grad()
    def forward(self, audio: Float[Tensor, "clips samples"]) -> Float[Tensor, "clips moments features"]:
        """Embeddings over time.

        Args:
            audio: in [-1, 1] at `sampling_rate`; a single clip may come without its first axis.
        """
        audio = audio[None] if audio.ndim == 1 else audio
        device = next(iter([*self.model.parameters(), *self.model.buffers()]), audio).device
        return self._moments(audio.float().to(device))[0]

    def _moments(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings over time and their timestamps in ms, checked.

        Raises:
            ModuleProblem: the module fails, or gives something else than it promises.
        """
        name = self.settings[0]
        with module_code(name, "get_timestamp_embeddings"):
            found = self._timestamp_embeddings(audio, self.model)
        return check_timestamp_embeddings(name, found, len(audio), self.output_dim)

    @torch.no_grad()
    def _measured_hop_ms(self) -> float:
        """The step of the timestamps that the model gives to a few seconds of noise."""
        seconds = 4
        while True:
            audio = 0.1 * torch.randn(
                1, seconds * self.sampling_rate, generator=torch.Generator().manual_seed(0)
            )
            _, timestamps = self._moments(audio)
            times_ms = timestamps[0].double().cpu().numpy()
            if len(times_ms) >= NEEDED_MOMENTS:
                break
            if seconds >= LONGEST_S:
                raise ModuleProblem(
                    f"{self.settings[0]} gives {len(times_ms)} moments in {seconds} s of audio; "
                    "a hop cannot be measured on fewer than three"
                )
            seconds *= 2
        steps_ms = np.diff(times_ms)
        hop_ms = (times_ms[-1] - times_ms[0]) / (len(times_ms) - 1)
        if not hop_ms > 0 or np.abs(steps_ms - hop_ms).max() > UNEVEN * hop_ms:
            raise ModuleProblem(
                f"the timestamps of {self.settings[0]} are from {steps_ms.min():g} to {steps_ms.max():g} ms "
                "apart; X-ARES needs evenly spaced moments"
            )
        if not 0 <= times_ms[0] <= hop_ms:
            logger.warning(
                "X-ARES takes moment 0 for the sound from 0 to %g ms, and %s centres it on %g ms",
                hop_ms,
                self.settings[0],
                times_ms[0],
            )
        return float(round(hop_ms, 3))


def class_name(module: str, model: str | None, options: dict[str, Any]) -> str:
    """A name that tells modules, checkpoints and options apart.

    >>> class_name("eval_recipes.baselines.log_mel", None, {})
    'eval_recipes_baselines_log_mel_e3b0c442_Encoder'
    """
    identity = checkpoint_identity(model)["sha256"] or (model or "")
    told = identity + (json.dumps(options, sort_keys=True) if options else "")
    digest = hashlib.sha256(told.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^0-9A-Za-z]+', '_', module)}_{digest}_Encoder"


def _options_of_environment() -> dict[str, Any]:
    try:
        return parse_options(os.environ.get("HEAR_OPTIONS") or "{}", "HEAR_OPTIONS=")
    except click.BadParameter as error:
        raise ModuleProblem(error.message) from error
