"""Count what one training step needs, without computing it: memory of its activations and FLOP.

The real model runs forward and backward on fake tensors (`FakeTensorMode`), which have shapes and types
but no data, so that a step of 1.2 billion parameters on 256 clips is counted in seconds on any machine.
Autocast, attention and activation checkpointing are those of the run.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hear_dasheng.blocks import Attention
from pretrain.shards import Batch
from pretrain.training.build import checkpoint_activations
from pretrain.training.objective import Objective


class StepCost(NamedTuple):
    """What forward and backward of one batch cost, beside weights and gradients.

    Attributes:
        activation_bytes: alive between forward and backward, the batch and autocast's copies of the weights
            included.
        temporary_bytes: needed beyond these at the peak.
        flop: of products and convolutions, forward and backward, recomputation included.
    """

    activation_bytes: int
    temporary_bytes: int
    flop: int


class LiveBytes(TorchDispatchMode):
    """Follows the memory of the tensors that operations allocate, until each is freed.

    Attributes:
        live: bytes allocated since the mode was entered and not freed yet.
        peak: the largest value of `live`.
    """

    def __init__(self, existing: Sequence[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in existing}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor, unless its storage is counted or was there before."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())

    def _freed(self, address: int, n_bytes: int) -> None:
        self._known.discard(address)
        self.live -= n_bytes

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it returns."""
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def count_step(
    objective: Objective,
    batch_size: int,
    autocast_dtype: torch.dtype | None,
    *,
    activation_checkpointing: bool,
    is_on_gpu: bool,
) -> StepCost:
    """Count the cost of a step on one batch.

    Args:
        objective: what is trained.
        batch_size: clips.
        autocast_dtype: the data type of products, or None for fp32.
        activation_checkpointing: whether blocks compute their activations twice.
        is_on_gpu: whether attention is torch's fused kernel, which keeps no attention weights.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model = _as_fake(objective.model_without_weights(), fake).train()
    if is_on_gpu:
        for module in model.modules():
            if isinstance(module, Attention):
                module.attend = fused_attention
    if activation_checkpointing:
        checkpoint_activations(model)
    existing = [
        *model.parameters(),
        *model.buffers(),
        *(p.grad for p in model.parameters() if p.requires_grad),
    ]
    batch = _fake_batch(objective, batch_size, fake)
    live, counter = LiveBytes(existing), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    live.add(batch.waveforms)
    # CUDA's autocast needs a GPU. The CPU's casts the same operations of this model.
    autocast = torch.autocast("cpu", autocast_dtype, enabled=autocast_dtype is not None)
    with counter, live:
        with autocast:
            losses = objective.losses(model, batch, torch.Generator().manual_seed(0))
        loss = losses.sum()
        del losses
        activation_bytes = live.live
        loss.backward()
    return StepCost(activation_bytes, live.peak - activation_bytes, counter.get_total_flops())


def _as_fake(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """Replace all parameters and buffers by fake ones on the CPU; learning ones get a gradient."""
    with fake:
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                learns = parameter.requires_grad
                empty = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), learns)
                empty.grad = torch.empty_like(empty) if learns else None
                setattr(module, name, empty)
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return model


def _fake_batch(objective: Objective, batch_size: int, fake: FakeTensorMode) -> Batch:
    one = objective.silence()
    targets = None if one.targets is None else one.targets.expand(batch_size, -1)
    with fake:
        waveforms = torch.empty(batch_size, objective.config.chunk_samples)
    return Batch(waveforms, one.keys * batch_size, targets=targets)


def fused_attention(
    q: Float[Tensor, "windows heads queries width"],
    k: Float[Tensor, "windows heads tokens width"],
    v: Float[Tensor, "windows heads tokens width"],
    is_valid: None,
    dropout: float = 0.0,
) -> Float[Tensor, "windows heads queries width"]:
    """Return attention by the kernel whose memory is that of a GPU's fused ones.

    Both keep queries, keys, values, result and a number for each row; with dropout a GPU's keep a seed more.
    """
    return F.scaled_dot_product_attention(q, k, v)


def _attention_flop(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward_flop(gradient: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(gradient, q, k, v)


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
}
"""FLOP of the fused kernel that `fused_attention` takes, which torch's counter does not know."""
