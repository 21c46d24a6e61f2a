"""An encoder -> a checkpoint that others load.

Two layouts: `mispeech/dasheng-*`'s folder (`config.json`, `preprocessor_config.json`,
`model.safetensors`), which is also ours, and the published `.pt`, which the package
`dasheng` 0.0.9 loads. Everything is written atomically.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hear_dasheng.checkpoint import OUR_BN, PUBLISHED_BN
from hear_dasheng.checkpoint_files import CONFIG_FILE, WEIGHTS_FILE
from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.files.abandoned import lone_atomic_path
from hear_dasheng.files.write_errors import remembering_file
from hear_dasheng.mel import SAMPLE_RATE_HZ, htk_filter_bank
from hear_dasheng.published_options import encoder_kwargs

FORMATS = ("huggingface", "published")


def new_encoder(size: str, seed: int = 0) -> Encoder:
    """An untrained encoder of a named size, its weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(EncoderConfig.of_size(size)).eval().requires_grad_(False)


def export(encoder: Encoder, path: str | Path, layout: str = "huggingface") -> Path:
    """Write a checkpoint.

    Args:
        encoder: what to write.
        path: the folder ("huggingface") or `.pt` file ("published") to create.
        layout: one of `FORMATS`.

    Raises:
        ValueError: unknown layout.
        FileExistsError: something is there already; it is left alone.
    """
    with written_at(path, layout) as partial:
        write_checkpoint(encoder, partial, layout)
    return Path(path)


def write_checkpoint(encoder: Encoder, path: Path, layout: str) -> None:
    """Write a checkpoint to a new path that the caller makes atomic; see `export`."""
    if layout == "published":
        content = {"model": published_state(encoder), "config": encoder_kwargs(encoder.config)}
        with remembering_file(path) as file:  # given a path, torch would write its name into the file
            torch.save(content, file)
    else:
        write_folder(encoder, path)


def published_weights(encoder: Encoder) -> dict[str, Tensor]:
    """The weights under their published names, without the constants of the front end."""
    return {
        PUBLISHED_BN + name.removeprefix(OUR_BN)
        if name.startswith(OUR_BN)
        else name: value.cpu().contiguous()
        for name, value in encoder.state_dict().items()
    }


def published_state(encoder: Encoder) -> dict[str, Tensor]:
    """The state dict of the package `dasheng`, front end included."""
    mel = encoder.config.mel
    front_end = {
        "front_end.0.spectrogram.window": torch.hann_window(mel.win_samples),
        "front_end.0.mel_scale.fb": htk_filter_bank(mel),
    }
    return front_end | published_weights(encoder)


def write_folder(
    encoder: Encoder,
    folder: Path,
    more_weights: Mapping[str, Tensor] | None = None,
    more_config: Mapping[str, Any] | None = None,
) -> None:
    """Create a folder in `mispeech/dasheng-*`'s layout, with entries beside the encoder's."""
    from safetensors.torch import save_file

    config = {
        "architectures": ["DashengModel"],
        "encoder_kwargs": encoder_kwargs(encoder.config),
        "model_type": "dasheng",
    } | dict(more_config or {})
    mel = encoder.config.mel
    preprocessor = {
        "feature_extractor_type": "DashengFeatureExtractor",
        "sampling_rate": SAMPLE_RATE_HZ,
        "n_fft": mel.n_fft,
        "win_size": mel.win_samples,
        "hop_size": mel.hop_samples,
        "n_mels": mel.n_mels,
        "f_min": mel.f_min_hz,
        "f_max": mel.f_max_hz,
        "center": mel.is_centred,
    }
    folder.mkdir()
    weights = {"encoder." + name: value for name, value in published_weights(encoder).items()}
    weights |= more_weights or {}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


@contextmanager
def written_at(path: str | Path, layout: str) -> Iterator[Path]:
    """Yield a temporary name for a checkpoint in this layout, which becomes `path` when it is complete.

    What a killed writer of `path` left is removed.

    Raises:
        ValueError: unknown layout.
        FileExistsError: something is there already; it is left alone.
        OSError: it cannot be written; the message names `path` and the reason.
    """
    path = Path(path)
    if layout not in FORMATS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(FORMATS)}")
    if path.exists():
        raise FileExistsError(f"{path} exists already; delete it or choose another name")
    with lone_atomic_path(path) as partial:
        yield partial
