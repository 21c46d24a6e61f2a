"""What a HEAR module must offer: attributes of its model, tensors of the promised shape, evaluation mode.

Source: HEAR's common API, https://hearbenchmark.com/hear-api.html. hearvalidator 2021.0.6 does not see a
width of zero, timestamps that are not finite or go backwards, nor a model left in training mode.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from eval_recipes.modules.guard import ModuleProblem, module_code, shortened

FUNCTIONS = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")
LIMITS = {
    "sample_rate": (1_000, 1_000_000),
    "scene_embedding_size": (1, 2**31),
    "timestamp_embedding_size": (1, 2**31),
}
"""Attributes of a model and the least and largest whole number that each may be."""

TRIALS = 3
"""Calls in training mode that are compared with evaluation mode; drop-path may leave one call as it is."""


def check_functions(name: str, module: ModuleType) -> None:
    """Check that a module has the API's functions.

    Raises:
        ModuleProblem: it lacks one.
    """
    if lacking := [function for function in FUNCTIONS if not callable(getattr(module, function, None))]:
        raise ModuleProblem(f"{name} is no HEAR module: it has no {', '.join(lacking)}")


def model_attributes(name: str, model: Any) -> dict[str, int]:
    """Return a model's sample rate in Hz and its two embedding sizes.

    Args:
        name: the module's, for messages.
        model: what `load_model` returned.

    Raises:
        ModuleProblem: the model lacks one, or it is no whole number within `LIMITS`.
    """
    with module_code(name, "reading the model's attributes"):
        found = {attribute: getattr(model, attribute) for attribute in LIMITS if hasattr(model, attribute)}
    if lacking := [attribute for attribute in LIMITS if attribute not in found]:
        raise ModuleProblem(f"the model of {name} has no {', '.join(lacking)}")
    return {attribute: _whole_number(name, attribute, value) for attribute, value in found.items()}


def _whole_number(name: str, attribute: str, value: Any) -> int:
    low, high = LIMITS[attribute]
    number = value.item() if getattr(value, "shape", None) in ((), (1,)) else value  # NumPy's or torch's
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not math.isfinite(number) or number != int(number) or not low <= number <= high:
        raise ModuleProblem(
            f"the model of {name} has {attribute} = {shortened(repr(value), 80)}; it must be a whole number "
            f"from {low} to {high}"
        )
    return int(number)


def check_scenes(name: str, found: Any, n_clips: int, size: int) -> Tensor:
    """Return what `get_scene_embeddings` gave, checked.

    Args:
        name: the module's.
        found: its result.
        n_clips: that it was called with.
        size: the model's `scene_embedding_size`.

    Returns:
        (clips, size), of any floating type.

    Raises:
        ModuleProblem: it is no such tensor.
    """
    return _tensor(name, "get_scene_embeddings", found, (n_clips, size))


@no_type_check
def check_timestamp_embeddings(
    name: str, found: Any, n_clips: int, size: int, *, may_be_padded: bool = False
) -> tuple[Float[Tensor, "clips steps size"], Float[Tensor, "clips steps"]]:
    """Return what `get_timestamp_embeddings` gave, checked.

    Args:
        name: the module's.
        found: its result.
        n_clips: that it was called with.
        size: the model's `timestamp_embedding_size`.
        may_be_padded: clips had different lengths, and NaN marks time steps beyond a clip's end.

    Returns:
        Embeddings, and their timestamps in ms, float32.

    Raises:
        ModuleProblem: it is no such pair, or timestamps are not finite, negative, or not increasing.
    """
    function = "get_timestamp_embeddings"
    if not isinstance(found, tuple | list) or len(found) != 2:
        what = f"{len(found)} values" if isinstance(found, tuple | list) else _described(found)
        raise ModuleProblem(f"{name}: {function} gives {what}, not embeddings and timestamps")
    embeddings, timestamps = found
    steps = timestamps.shape[-1] if isinstance(timestamps, Tensor) and timestamps.ndim else 0
    embeddings = _tensor(name, function, embeddings, (n_clips, steps, size))
    what = f"{function}' timestamps"
    if isinstance(timestamps, Tensor) and timestamps.dtype in (torch.int16, torch.int32, torch.int64):
        timestamps = timestamps.float()  # hearbaseline.torchcrepe's are whole
    times = _tensor(name, what, timestamps, (n_clips, steps)).float()
    for row in times.cpu():
        there = row[: len(row) - int(row.isnan().sum())] if may_be_padded else row
        if not len(there):
            raise ModuleProblem(f"{name}: {function} gives no time steps")
        if not there.isfinite().all():
            raise ModuleProblem(f"{name}: {what} are not finite")
        if (there < 0).any():
            raise ModuleProblem(f"{name}: {what} are negative, as early as {there.min():g} ms")
        steps_ms = there.diff()
        if (steps_ms <= 0).any():
            at = int((steps_ms <= 0).nonzero()[0, 0])
            raise ModuleProblem(
                f"{name}: {what} do not increase: {there[at + 1]:g} ms follows {there[at]:g} ms"
            )
    return embeddings, times


def _tensor(name: str, function: str, found: Any, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(found, Tensor):
        raise ModuleProblem(f"{name}: {function} gives {_described(found)}, not a tensor")
    if tuple(found.shape) != shape:
        raise ModuleProblem(f"{name}: {function} gives the shape {tuple(found.shape)}, not {shape}")
    if not found.is_floating_point():
        raise ModuleProblem(f"{name}: {function} gives {found.dtype}, not torch.float32")
    return found


def _described(found: Any) -> str:
    return "None" if found is None else f"a {type(found).__name__}"


@torch.no_grad()
def is_left_in_training(name: str, module: Any, model: torch.nn.Module) -> bool:
    """Return whether a model stays in training mode and its embeddings depend on that.

    hearbaseline's models leave `load_model` in training mode; their embedding functions call `eval()`
    (naive, torchcrepe) or have nothing that depends on it (vqt, vggish). So the functions are tried on noise.

    Args:
        name: the module's.
        module: with HEAR's functions.
        model: from its `load_model`; its weights and running statistics stay as they are.

    Raises:
        ModuleProblem: the module fails on noise, or the model's sample rate is none.
    """
    if not model.training:
        return False
    samples = 2 * model_attributes(name, model)["sample_rate"]
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(2, samples, generator=generator, dtype=torch.float32, device="cpu").to(device)
    modes = {part: part.training for part in model.modules()}
    state = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}

    def embed() -> list[Any]:
        with module_code(name, "get_scene_embeddings"):
            scenes = module.get_scene_embeddings(audio, model)
        with module_code(name, "get_timestamp_embeddings"):
            over_time = module.get_timestamp_embeddings(audio, model)
        return [scenes, over_time[0] if isinstance(over_time, tuple) and over_time else over_time]

    as_loaded = [embed()]
    if not model.training:
        return False
    as_loaded += [embed() for _ in range(TRIALS - 1)]
    for key, value in model.state_dict().items():
        if key in state:
            value.copy_(state[key])
    model.eval()
    evaluated = embed()
    for part, mode in modes.items():
        part.training = mode
    return not all(
        isinstance(one, Tensor)
        and isinstance(other, Tensor)
        and one.shape == other.shape
        and torch.allclose(one, other, rtol=1e-4, atol=1e-5)
        for embeddings in as_loaded
        for one, other in zip(embeddings, evaluated, strict=True)
    )
