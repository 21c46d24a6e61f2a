"""A HEAR module by name -> its model on a device, and its two functions on padded batches.

The contract is HEAR's common API (https://hearbenchmark.com/hear-api.html): `load_model`,
`get_scene_embeddings(audio, model)`, `get_timestamp_embeddings(audio, model)`. A module whose
functions also take `lengths` (valid samples of each clip) can have clips of different length in one batch.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, no_type_check

import numpy as np
import torch
from jaxtyping import Float

from eval_recipes.hear_modules import import_hear_module
from eval_recipes.model_arguments import cannot_load, refuse_weights_among_options
from eval_recipes.modules.checks import (
    check_functions,
    check_scenes,
    check_timestamp_embeddings,
    is_left_in_training,
    model_attributes,
)
from eval_recipes.modules.guard import ModuleProblem, module_code, shown_name, told

__all__ = ["Embedding", "HearModule", "ModuleProblem", "import_module", "load_module"]


class Embedding(NamedTuple):
    """What a module says of one clip.

    Attributes:
        values: float32, (features) of a scene, (moments, features) of its moments.
        timestamps_ms: the moments' centres; None of a scene.
    """

    values: np.ndarray
    timestamps_ms: np.ndarray | None = None


class HearModule:
    """A loaded HEAR module.

    Attributes:
        name: the module's.
        model: what its `load_model` gave, on `device`, in evaluation mode.
        sample_rate_hz: of the audio it takes.
        takes_lengths: whether clips of different length can share a batch.
        checkpoint_path: the file or folder that the weights are from, where the model has an attribute of
            this name, as ours do; empty for a model that declares so that it has no weights; else None.
    """

    def __init__(self, name: str, module: Any, model: torch.nn.Module, device: torch.device) -> None:
        self.name = name
        self.model = model
        self.device = device
        attributes = model_attributes(name, model)
        self.sample_rate_hz = attributes["sample_rate"]
        self.scene_size = attributes["scene_embedding_size"]
        self.timestamp_size = attributes["timestamp_embedding_size"]
        found = getattr(model, "checkpoint_path", None)
        self.checkpoint_path = found if found == "" or _is_path(found) else None
        self._scene, self._timestamps = module.get_scene_embeddings, module.get_timestamp_embeddings
        self.takes_lengths = _takes_lengths(self._scene) and _takes_lengths(self._timestamps)

    @no_type_check  # a list of rows, or of rows and times
    @torch.no_grad()
    def scenes(self, clips: Sequence[Float[np.ndarray, " samples"]]) -> list[Embedding]:
        """One embedding a clip.

        Args:
            clips: float32 at `sample_rate_hz`; of one length unless the module takes lengths.

        Raises:
            ModuleProblem: the module gives something else than it promises, or exits.
            Exception: whatever else the module raises.
        """
        with module_code(self.name, "get_scene_embeddings", leave=(Exception,)):
            found = self._scene(*self._batch(clips))
        embeddings = check_scenes(self.name, found, len(clips), self.scene_size)
        return [Embedding(row) for row in embeddings.float().cpu().numpy()]

    @no_type_check
    @torch.no_grad()
    def moments(self, clips: Sequence[Float[np.ndarray, " samples"]]) -> list[Embedding]:
        """Embeddings over time of each clip, with their centres in ms.

        Args and errors are those of `scenes`.
        """
        batch = self._batch(clips)
        with module_code(self.name, "get_timestamp_embeddings", leave=(Exception,)):
            found = self._timestamps(*batch)
        embeddings, timestamps = check_timestamp_embeddings(
            self.name, found, len(clips), self.timestamp_size, may_be_padded=len(batch) > 2
        )
        rows, times = embeddings.float().cpu().numpy(), timestamps.cpu().numpy()
        there = [~np.isnan(row) for row in times]
        return [Embedding(row[t], time[t]) for row, time, t in zip(rows, times, there, strict=True)]

    def _batch(self, clips: Sequence[np.ndarray]) -> tuple[Any, ...]:
        lengths = [len(clip) for clip in clips]
        audio = torch.zeros(len(clips), max(lengths), dtype=torch.float32, device="cpu")
        for row, clip in zip(audio, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
        arguments = (audio.to(self.device), self.model)
        return arguments if len(set(lengths)) == 1 else (*arguments, lengths)


def _is_path(found: Any) -> bool:
    return isinstance(found, str) and os.path.exists(found)


def _takes_lengths(function: Callable[..., Any]) -> bool:
    try:
        return list(inspect.signature(function).parameters)[2:3] == ["lengths"]
    except (TypeError, ValueError):  # some callables tell no signature
        return False


def import_module(name: str) -> ModuleType:
    """Import a HEAR module, whose model `load_module` loads.

    Args:
        name: as Python imports it; modules in the working directory count.

    Raises:
        ModuleProblem: there is no such module, it cannot be imported, or it lacks a function of the API.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        with module_code(name, "its import", leave=(Exception,)):
            module = import_hear_module(name)
            check_functions(name, module)
    except ModuleProblem:
        raise
    except Exception as error:  # whatever a foreign module raises becomes one line for its user
        raise ModuleProblem(f"the module {shown_name(name)} cannot be imported: {told(error)}") from error
    return module


def load_module(
    name: str,
    model: str | None = None,
    options: dict[str, Any] | None = None,
    device: str | torch.device = "cpu",
) -> HearModule:
    """Import a HEAR module and load its model.

    Args:
        name: see `import_module`.
        model: a checkpoint for its `load_model`, a path or a name that it finds; None: its own choice.
        options: further keywords for `load_model`.
        device: where the model shall compute.

    Returns:
        The module with its model in evaluation mode.

    Raises:
        ModuleProblem: there is no such module, it lacks a function of the API or an attribute of its
            model, its model is not torch's, its embeddings depend on being left in training mode, or
            loading fails.
    """
    module = import_module(name)
    try:
        refuse_weights_among_options(module.load_model, options or {})
        with module_code(name, "load_model", leave=(Exception,)):
            loaded = module.load_model(*([model] if model else []), **(options or {}))
    except ModuleProblem:
        raise
    except Exception as error:
        raise ModuleProblem(cannot_load(name, model, told(error))) from error
    if not isinstance(loaded, torch.nn.Module):
        raise ModuleProblem(
            f"{name}.load_model gives a {type(loaded).__name__}, and only torch's models are run here; "
            "`hear-dasheng heareval embeddings` also runs TensorFlow's"
        )
    model_attributes(name, loaded)
    if is_left_in_training(name, module, loaded):
        raise ModuleProblem(
            f"{name}.load_model returns a model in training mode: its embeddings would be random; "
            "call .eval() in load_model"
        )
    with module_code(name, f"moving its model to {device}"):
        loaded = loaded.eval().to(device)
    return HearModule(name, module, loaded, torch.device(device))
