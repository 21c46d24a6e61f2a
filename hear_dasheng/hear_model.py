"""Encoder -> HEAR model: `load_model` and the two embedding functions.

The contract is HEAR's common API (https://hearbenchmark.com/hear-api.html):
audio goes in as (n_sounds, n_samples) on the model's device, embeddings come
out as float32. A clip's embedding depends on that clip alone: not on its
neighbours in the batch, nor on its padding when `lengths` tells where it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hear_dasheng import cpu_linear
from hear_dasheng.audio import check_audio, check_lengths
from hear_dasheng.blocks import Linear
from hear_dasheng.checkpoint import load_encoder
from hear_dasheng.compute.precision import fp32_arithmetic
from hear_dasheng.download import locate
from hear_dasheng.encoder import Encoder
from hear_dasheng.mel import SAMPLE_RATE_HZ, LogMel
from hear_dasheng.options import POOLINGS, Options
from hear_dasheng.sizes import SIZES
from hear_dasheng.windows import encode_clips, fit_to_moments, n_moments, timestamps_ms

DEFAULT_MODEL = "dasheng_base"
BATCH_WINDOWS = {"cpu": 8, "cuda": 64}
"""Full windows encoded at once; more makes a CPU's caches and a user's memory suffer."""


class HearModel(nn.Module):
    """An encoder behind HEAR's API.

    Attributes:
        sample_rate: 16000 Hz.
        timestamp_embedding_size: features of a moment.
        scene_embedding_size: features of a clip.
    """

    def __init__(self, encoder: Encoder, options: Options | None = None) -> None:
        super().__init__()
        self.options = options or Options()
        self.layers = self.options.chosen_layers(encoder.config.depth)
        self.log_mel = LogMel(encoder.config.mel, encoder.config.patch_frames)
        self.encoder = encoder.requires_grad_(False)
        if self.options.precision == "bf16":
            for module in self.encoder.modules():
                if isinstance(module, Linear):
                    module.to(torch.bfloat16)
        self.sample_rate = SAMPLE_RATE_HZ
        self.timestamp_embedding_size = encoder.config.dim * len(self.layers)
        poolings = self.options.pooling.count("+") + 1
        self.scene_embedding_size = poolings * self.timestamp_embedding_size
        self.encoder.register_state_dict_pre_hook(
            lambda encoder, prefix, keep_vars: cpu_linear.unpack(encoder)
        )
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.log_mel.window.device

    @property
    def batch_windows(self) -> int:
        """Full windows that are encoded at once."""
        return self.options.batch_windows or BATCH_WINDOWS.get(self.device.type, 16)

    def train(self, mode: bool = True) -> HearModel:
        """Stay in evaluation mode: this model is for inference, and batch statistics would mix clips."""
        return super().train(False)

    def __repr__(self) -> str:
        config, options = self.encoder.config, self.options
        return (
            f"HearModel(dim={config.dim}, depth={config.depth}, heads={config.heads}, "
            f"layers={options.layers!r}, precision={options.precision!r}, tail={options.tail!r}, "
            f"pooling={options.pooling!r})"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HearModel:
        cpu_linear.unpack(self.encoder)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def token_embeddings(self, clips: Sequence[Float[Tensor, " _"]]) -> list[Float[Tensor, "_ features"]]:
        """Moments of clips of any lengths, each on its own: 25 a second as released, float32.

        Args:
            clips: waveforms at 16 kHz on the model's device.
        """
        config = self.encoder.config
        with fp32_arithmetic(allow_tf32=False):
            mels = [
                fit_to_moments(
                    config, self.log_mel(clip[None])[0], n_moments(config, len(clip), self.options.tail)
                )
                for clip in clips
            ]
        return self.encode_mels(mels)

    @torch.no_grad()
    def encode_mels(self, mels: Sequence[Float[Tensor, "mels _"]]) -> list[Float[Tensor, "_ features"]]:
        """Moments of clips whose log-mels are given, each a whole number of moments long."""
        if self.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            cpu_linear.pack(self.encoder)
        windows = self.batch_windows
        with fp32_arithmetic(allow_tf32=self.options.precision == "tf32"):
            return encode_clips(self.encoder, mels, self.layers, windows * self.encoder.config.window_moments)

    def timestamps_ms(self, n_samples: int) -> Float[Tensor, " moments"]:
        """Centres of what `token_embeddings` gives for a clip of this length."""
        return timestamps_ms(self.encoder.config, n_samples, self.options.tail)

    def scene_embeddings(self, clips: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, "clips features"]:
        """One embedding a clip: its tokens pooled over time."""
        pool = POOLINGS[self.options.pooling]
        return torch.stack([pool(tokens) for tokens in self.token_embeddings(clips)])

    def forward(self, audio: Float[Tensor, "sounds samples"]) -> Float[Tensor, "sounds features"]:
        """Scene embeddings of a batch."""
        return get_scene_embeddings(audio, self)


def load_model(path: str | Path = "", **options: Any) -> HearModel:
    """Load a Dasheng checkpoint as a HEAR model.

    Args:
        path: a checkpoint file or folder in any published layout or of our own
            training, a published name (`dasheng_base`, `dasheng_06B`, `dasheng_12B`),
            a Hugging Face id, or a URL. Empty: `dasheng_base`.
        **options: see `Options`.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: an option is unknown or impossible, or the checkpoint is damaged,
            foreign or unsafe (`CheckpointError`).
        FileNotFoundError: there is no such checkpoint.
        DownloadError: it has to be fetched and cannot be.
    """
    chosen = Options.from_kwargs(options)
    checkpoint = locate(path or DEFAULT_MODEL)
    model = HearModel(load_encoder(checkpoint, chosen.num_heads), chosen)
    model.checkpoint_path = str(checkpoint)  # evaluation records its hash
    if chosen.device is None:
        return model
    try:
        return model.to(chosen.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"option device={chosen.device!r} is not available here: {reason}") from error


def load_sized_model(size: str, published_name: str, path: str | Path = "", **options: Any) -> HearModel:
    """`load_model` for a module that is named after one size.

    Raises:
        ValueError: the checkpoint at `path` has another size; results filed under
            this module's name would be another model's.
    """
    model = load_model(path or published_name, **options)
    expected, found = SIZES[size], model.encoder.config
    if (found.dim, found.depth) != (expected.dim, expected.depth):
        raise ValueError(
            f"{path} has width {found.dim} and depth {found.depth}, but {published_name} is "
            f"{expected.dim}/{expected.depth}; use the module hear_dasheng, which takes every size"
        )
    return model


@no_type_check  # it checks by hand, with messages for people
def _clips(audio: Tensor, model: HearModel, lengths: Sequence[int] | Tensor | None) -> list[Tensor]:
    if not isinstance(model, HearModel):
        raise TypeError(f"model must come from hear_dasheng's load_model, not {type(model).__name__}")
    check_audio(audio, model.device)
    return [clip[:length] for clip, length in zip(audio, check_lengths(lengths, audio), strict=True)]


@no_type_check
def get_scene_embeddings(
    audio: Tensor, model: HearModel, lengths: Sequence[int] | Tensor | None = None
) -> Float[Tensor, "sounds features"]:
    """One embedding per clip: the mean over all tokens of all windows (see `Options.pooling`).

    Args:
        audio: float32 (n_sounds, n_samples) in [-1, 1] at 16 kHz, on the model's device.
        model: from `load_model`.
        lengths: valid samples of each sound; what follows them is ignored. None: all.

    Returns:
        float32 (n_sounds, model.scene_embedding_size).

    Raises:
        TypeError, ValueError: audio or lengths are not as above.
    """
    clips = _clips(audio, model, lengths)
    return model.scene_embeddings(clips)


@no_type_check
def get_timestamp_embeddings(
    audio: Tensor, model: HearModel, lengths: Sequence[int] | Tensor | None = None
) -> tuple[Float[Tensor, "sounds tokens features"], Float[Tensor, "sounds tokens"]]:
    """One embedding each 40 ms (released models), with the centre of the sound it describes.

    Args:
        audio: float32 (n_sounds, n_samples) in [-1, 1] at 16 kHz, on the model's device.
        model: from `load_model`.
        lengths: valid samples of each sound; what follows them is ignored. None: all.

    Returns:
        Embeddings, float32 (n_sounds, n_moments, model.timestamp_embedding_size), and
        timestamps in ms, float32 (n_sounds, n_moments). Sounds with fewer moments than
        the longest end in zeros whose timestamps are NaN. A moment is one token of a
        released model; of smaller patches it is the mean over the mel axis.

    Raises:
        TypeError, ValueError: audio or lengths are not as above.
    """
    clips = _clips(audio, model, lengths)
    embeddings = pad_sequence(model.token_embeddings(clips), batch_first=True)
    times = [model.timestamps_ms(len(clip)).to(audio.device) for clip in clips]
    return embeddings, pad_sequence(times, batch_first=True, padding_value=torch.nan)
