"""The options of `load_model`, also as JSON through heareval's `--model-options`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from hear_dasheng.compute.precision import PRECISIONS
from hear_dasheng.windows import TAILS

POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda tokens: tokens.mean(0),
    "max": lambda tokens: tokens.amax(0),
    "mean+max": lambda tokens: torch.cat([tokens.mean(0), tokens.amax(0)]),
}


@dataclass(frozen=True)
class Options:
    """What a HEAR user may choose, also as JSON through heareval's `--model-options`.

    Attributes:
        precision: "fp32" (no TF32 anywhere), "tf32" (GPU matrix products) or "bf16".
        layers: (int, list of int or "all") the block whose tokens are returned, counted from 0 or, if
            negative, from the end; a list concatenates; "all" takes every block.
            The final LayerNorm is applied to each.
        tail: "drop" leaves out the last incomplete token as the published package
            does; "pad" completes it with silence if its centre lies within the clip.
        pooling: tokens -> scene embedding: "mean", "max" or "mean+max".
        batch_windows: windows of 10.08 s encoded at once; None: 8 on a CPU, 64 on a GPU.
        num_heads: attention heads, only for checkpoints that do not tell them.
        device: where to put the model; None leaves it on the CPU.
    """

    precision: str = "fp32"
    layers: Any = -1
    tail: str = "drop"
    pooling: str = "mean"
    batch_windows: int | None = None
    num_heads: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        allowed = {"precision": PRECISIONS, "tail": TAILS, "pooling": tuple(POOLINGS)}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"option {name}={getattr(self, name)!r}: choose one of {', '.join(values)}")
        for name in ("batch_windows", "num_heads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"option {name}={value!r}: give a whole number above 0")

    @classmethod
    def from_kwargs(cls, kwargs: dict[str, Any]) -> Options:
        """Options by name; an unknown one is an error that names the nearest."""
        known = [field.name for field in fields(cls)]
        for name in kwargs:
            if name not in known:
                nearest = get_close_matches(name, known, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(known)}"
                raise ValueError(f"unknown option {name!r} for load_model; {hint}")
        return cls(**kwargs)

    def chosen_layers(self, depth: int) -> tuple[int, ...]:
        """`layers` as block numbers from 0.

        Raises:
            ValueError: not whole numbers, none, or beyond the encoder's depth.
        """
        if self.layers == "all":
            return tuple(range(depth))
        layers = [self.layers] if isinstance(self.layers, int) else self.layers
        are_valid = isinstance(layers, list | tuple) and all(
            isinstance(layer, int) and not isinstance(layer, bool) and -depth <= layer < depth
            for layer in layers
        )
        if not are_valid or not layers:
            raise ValueError(
                f"option layers={self.layers!r}: give a block between {-depth} and {depth - 1}, "
                f'a list of them, or "all"; this encoder has {depth} blocks'
            )
        return tuple(range(depth)[layer] for layer in layers)
