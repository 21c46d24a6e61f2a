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
from torch import Tensor

from eval_recipes.hear_modules import import_hear_module
from eval_recipes.model_arguments import cannot_load, refuse_weights_among_options

FUNCTIONS = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")
ATTRIBUTES = ("sample_rate", "scene_embedding_size", "timestamp_embedding_size")


class ModuleProblem(ValueError):
    """A module does not keep HEAR's contract, or its checkpoint cannot be loaded."""


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
        has_weights: whether there is anything learned in it.
        checkpoint_path: the file or folder that the weights are from, where the model has an attribute
            of this name, as ours do; else None.
    """

    def __init__(self, name: str, module: Any, model: torch.nn.Module, device: torch.device) -> None:
        self.name = name
        self.model = model
        self.device = device
        self.sample_rate_hz = int(model.sample_rate)
        self.scene_size = int(model.scene_embedding_size)
        self.has_weights = next(model.parameters(), None) is not None
        found = getattr(model, "checkpoint_path", None)
        self.checkpoint_path = found if isinstance(found, str) and os.path.exists(found) else None
        self.timestamp_size = int(model.timestamp_embedding_size)
        self._scene, self._timestamps = module.get_scene_embeddings, module.get_timestamp_embeddings
        self.takes_lengths = _takes_lengths(self._scene) and _takes_lengths(self._timestamps)

    @no_type_check  # a list of rows, or of rows and times
    @torch.no_grad()
    def scenes(self, clips: Sequence[Float[np.ndarray, " samples"]]) -> list[Embedding]:
        """One embedding a clip.

        Args:
            clips: float32 at `sample_rate_hz`; of one length unless the module takes lengths.

        Raises:
            ModuleProblem: the module gives another shape than it promises.
        """
        embeddings = self._scene(*self._batch(clips))
        self._expect(embeddings, (len(clips), self.scene_size), "get_scene_embeddings")
        return [Embedding(row) for row in embeddings.float().cpu().numpy()]

    @no_type_check
    @torch.no_grad()
    def moments(self, clips: Sequence[Float[np.ndarray, " samples"]]) -> list[Embedding]:
        """Embeddings over time of each clip, with their centres in ms.

        Args and errors are those of `scenes`.
        """
        embeddings, timestamps = self._timestamps(*self._batch(clips))
        expected = (len(clips), timestamps.shape[-1], self.timestamp_size)
        self._expect(embeddings, expected, "get_timestamp_embeddings")
        self._expect(timestamps, expected[:2], "get_timestamp_embeddings' timestamps")
        rows, times = embeddings.float().cpu().numpy(), timestamps.float().cpu().numpy()
        there = [~np.isnan(row) for row in times]
        return [Embedding(row[t], time[t]) for row, time, t in zip(rows, times, there, strict=True)]

    def _batch(self, clips: Sequence[np.ndarray]) -> tuple[Any, ...]:
        lengths = [len(clip) for clip in clips]
        audio = torch.zeros(len(clips), max(lengths))
        for row, clip in zip(audio, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
        arguments = (audio.to(self.device), self.model)
        return arguments if len(set(lengths)) == 1 else (*arguments, lengths)

    def _expect(self, found: Tensor, shape: tuple[int, ...], function: str) -> None:
        if tuple(found.shape) != shape:
            raise ModuleProblem(f"{self.name}: {function} gives the shape {tuple(found.shape)}, not {shape}")


def _takes_lengths(function: Callable[..., Any]) -> bool:
    return list(inspect.signature(function).parameters)[2:3] == ["lengths"]


def import_module(name: str) -> ModuleType:
    """Import a HEAR module, whose model `load_module` loads.

    Args:
        name: as Python imports it; modules in the working directory count.

    Raises:
        ModuleProblem: there is no such module, or it lacks a function of the API.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = import_hear_module(name)
    except ImportError as error:
        raise ModuleProblem(f"the module {name} cannot be imported: {error}") from error
    if lacking := [function for function in FUNCTIONS if not callable(getattr(module, function, None))]:
        raise ModuleProblem(f"{name} is no HEAR module: it has no {', '.join(lacking)}")
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

    Raises:
        ModuleProblem: there is no such module, it lacks a function of the API or an attribute of its
            model, its model is not torch's or in training mode, or loading fails.
    """
    module = import_module(name)
    try:
        refuse_weights_among_options(module.load_model, options or {})
        loaded = module.load_model(*([model] if model else []), **(options or {}))
    except (ValueError, TypeError, OSError, RuntimeError, KeyError, ImportError) as error:
        raise ModuleProblem(cannot_load(name, model, error)) from error
    if not isinstance(loaded, torch.nn.Module):
        raise ModuleProblem(
            f"{name}.load_model gives a {type(loaded).__name__}, and only torch's models are run here; "
            "`hear-dasheng heareval embeddings` also runs TensorFlow's"
        )
    if lacking := [attribute for attribute in ATTRIBUTES if not hasattr(loaded, attribute)]:
        raise ModuleProblem(f"the model of {name} has no {', '.join(lacking)}")
    if loaded.training:
        raise ModuleProblem(
            f"{name}.load_model returns a model in training mode: its embeddings would be random; "
            "call .eval() in load_model"
        )
    return HearModule(name, module, loaded.to(device), torch.device(device))
