"""A folder or Hub id in the layout of `transformers` -> one of its encoders, complete and in float32.

`from_pretrained` fills weights that a checkpoint lacks with random numbers and goes on;
here that is an error, and so is a checkpoint of another kind.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from eval_recipes.baselines.peer import package

NEVER_USED = ("masked_spec_embed",)
"""Parameters that play no part outside training; some checkpoints lack them."""


def load_transformers(
    source: str | Path, model_type: str, class_name: str, part: str = ""
) -> tuple[nn.Module, Any, Path]:
    """Load a model and its feature extractor.

    Args:
        source: a folder, or a Hub id; ids come from the local Hub cache if they are in it.
        model_type: what config.json must say.
        class_name: of `transformers`.
        part: the attribute of the model that is kept, e.g. "encoder"; empty keeps all.

    Returns:
        The module in evaluation mode on the CPU; the feature extractor that its preprocessor_config.json
        describes; and the folder that both are from, for a Hub id that of its commit in the local cache.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing in it, or the
            Hub cannot be asked.
        ValueError: a checkpoint of another kind, damaged or incomplete.
    """
    transformers = package("transformers")
    source = str(source)
    folder = Path(source).expanduser()
    if folder.is_file():
        raise ValueError(f"{source} is a file; give the folder that holds config.json and the weights")
    if folder.is_dir():
        source = str(folder)
        for name in ("config.json", "preprocessor_config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"the folder {folder} has no {name}; copy it from where the model was published"
                )
    with _quiet(transformers):
        try:
            config = transformers.PretrainedConfig.get_config_dict(source)[0]
            if config.get("model_type") != model_type:
                raise ValueError(
                    f"{source} holds a model of type {config.get('model_type')!r}, and this peer is "
                    f"{model_type!r}; take the module of that type"
                )
            folder = Path(transformers.utils.cached_file(source, "config.json")).parent
            extractor = transformers.AutoFeatureExtractor.from_pretrained(source)
            model, found = getattr(transformers, class_name).from_pretrained(
                source, output_loading_info=True, dtype=torch.float32
            )
        except OSError as error:
            raise FileNotFoundError(
                f"no folder {source!r} (seen from {Path.cwd()}), and as a Hugging Face id it cannot be "
                f"loaded: {' '.join(str(error).split())}"
            ) from error
        except (RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
            # shapes that contradict config.json, and damaged files
            raise ValueError(f"{source} cannot be loaded: {' '.join(str(error).split())}") from error
    lacking = [
        name
        for name in (*found["missing_keys"], *(str(key) for key in found["mismatched_keys"]))
        if name.startswith(part) and not name.endswith(NEVER_USED)
    ]
    if lacking:
        raise ValueError(f"{source} is incomplete: it lacks {len(lacking)} weights, such as {min(lacking)}")
    return (getattr(model, part) if part else model).eval(), extractor, folder


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Leave out its bars and its report of the heads that we do not use."""
    log = transformers.utils.logging
    level, had_bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if had_bars:
            log.enable_progress_bar()
