"""An encoder -> a checkpoint that others load.

Two layouts: `mispeech/dasheng-*`'s folder (`config.json`, `preprocessor_config.json`,
`model.safetensors`), which is also ours, and the published `.pt`, which the package
`dasheng` 0.0.9 loads. Everything is written under a temporary name and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from hear_dasheng.checkpoint import CONFIG_FILE, OUR_BN, PUBLISHED_BN, WEIGHTS_FILE
from hear_dasheng.encoder import PATCH_FRAMES, Encoder, EncoderConfig
from hear_dasheng.mel import F_MAX_HZ, HOP_SAMPLES, N_FFT, N_MELS, SAMPLE_RATE_HZ, htk_filter_bank

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
    path = Path(path)
    if layout not in FORMATS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(FORMATS)}")
    if path.exists():
        raise FileExistsError(f"{path} exists already; delete it or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _renamed_when_complete(path) as partial:
        if layout == "published":
            torch.save({"model": published_state(encoder), "config": encoder_kwargs(encoder.config)}, partial)
        else:
            _write_folder(encoder, partial)
    return path


def encoder_kwargs(config: EncoderConfig) -> dict[str, object]:
    """A configuration in the published packages' words."""
    return {
        "depth": config.depth,
        "embed_dim": config.dim,
        "num_heads": config.heads,
        "patch_size": [N_MELS, PATCH_FRAMES],
        "patch_stride": [N_MELS, PATCH_FRAMES],
        "target_length": config.window_tokens * PATCH_FRAMES,
    }


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
    front_end = {
        "front_end.0.spectrogram.window": torch.hann_window(N_FFT),
        "front_end.0.mel_scale.fb": htk_filter_bank(),
    }
    return front_end | published_weights(encoder)


def _write_folder(encoder: Encoder, folder: Path) -> None:
    from safetensors.torch import save_file

    config = {
        "architectures": ["DashengModel"],
        "encoder_kwargs": encoder_kwargs(encoder.config),
        "model_type": "dasheng",
    }
    preprocessor = {
        "feature_extractor_type": "DashengFeatureExtractor",
        "sampling_rate": SAMPLE_RATE_HZ,
        "n_fft": N_FFT,
        "win_size": N_FFT,
        "hop_size": HOP_SAMPLES,
        "n_mels": N_MELS,
        "f_min": 0,
        "f_max": int(F_MAX_HZ),
        "center": True,
    }
    folder.mkdir()
    weights = {"encoder." + name: value for name, value in published_weights(encoder).items()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


@contextmanager
def _renamed_when_complete(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path`, or vanishes if writing fails."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
        raise
