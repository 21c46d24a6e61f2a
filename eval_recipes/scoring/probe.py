"""The probe: linear layers with batch norm, dropout and ReLU between, and its gradients.

The gradients are written out rather than recorded: a training is tens of thousands of small
steps, and this way none allocates a graph, computes a gradient of the embeddings, or makes the slow random
numbers of `torch.nn.Dropout` on a CPU. All parameters lie in one vector, which Adam updates in one call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from eval_recipes.scoring.grid import GridPoint
from eval_recipes.scoring.products import Products

BATCH_NORM_MOMENTUM = 0.1
BATCH_NORM_EPSILON = 1e-5
RANDOM_LEVELS = 1 << 16
"""Dropout's share is rounded to a multiple of one over this."""


@dataclass
class HiddenLayer:
    """Views into the probe's parameters and statistics.

    The bias stands before a batch norm, which takes it out again in training: its gradient
    is zero, so it stays as it began, and shows only in a running mean that lags behind.
    """

    weight: Float[Tensor, "outputs inputs"]
    bias: Float[Tensor, " outputs"]
    scale: Float[Tensor, " outputs"]
    shift: Float[Tensor, " outputs"]
    mean: Float[Tensor, " outputs"]
    variance: Float[Tensor, " outputs"]


class Probe:
    """heareval's predictor.

    Args:
        features: width of the embeddings.
        labels: number of outputs.
        is_multilabel: sigmoids and binary cross entropy, else softmax and cross entropy.
        point: hidden layers, their width, dropout, initialisation.
        seed: of weights and dropout.
        precision: of the products in training, `fp32` or `bf16`; evaluation is always in fp32.
        device: where it lives; the embeddings are moved there batch by batch.
    """

    def __init__(
        self,
        features: int,
        labels: int,
        is_multilabel: bool,
        point: GridPoint,
        *,
        seed: int,
        precision: str = "fp32",
        device: torch.device,
    ) -> None:
        self.is_multilabel = is_multilabel
        self.dropout = point.dropout
        self.device = device
        self._products, self._exact = Products(precision, device), Products("fp32", device)
        self._random = np.random.Generator(np.random.SFC64(seed))
        self._device_random = torch.Generator(device).manual_seed(seed) if device.type != "cpu" else None
        widths = [features] + [point.hidden_dim] * point.hidden_layers
        shapes = [(o, i) for i, o in zip(widths, [*widths[1:], labels], strict=True)]
        sizes = [o * i + o * (1 if layer == len(shapes) - 1 else 3) for layer, (o, i) in enumerate(shapes)]
        self.parameters = torch.zeros(sum(sizes), device=device)
        self.gradient = torch.zeros_like(self.parameters)
        self.statistics = torch.zeros(2, point.hidden_layers, point.hidden_dim, device=device)
        self.statistics[1] = 1
        self.hidden, (self.weight, self.bias) = self._views(self.parameters, shapes)
        self._hidden_gradient, self._output_gradient = self._views(self.gradient, shapes)
        self._initialise(point.initialization, seed)

    def _views(
        self, vector: Tensor, shapes: list[tuple[int, int]]
    ) -> tuple[list[HiddenLayer], tuple[Tensor, Tensor]]:
        pieces, place = [], 0
        for layer, (outputs, inputs) in enumerate(shapes):
            is_hidden = layer < len(shapes) - 1
            of_layer = []
            for shape in [(outputs, inputs), *[(outputs,)] * (3 if is_hidden else 1)]:
                of_layer.append(vector[place : place + math.prod(shape)].view(shape))
                place += math.prod(shape)
            pieces.append(of_layer)
        hidden = [HiddenLayer(*p, *self.statistics[:, layer]) for layer, p in enumerate(pieces[:-1])]
        return hidden, (pieces[-1][0], pieces[-1][1])

    def _initialise(self, initialization: str, seed: int) -> None:
        """As heareval: Xavier weights whose gain is that of the activation before them, torch's biases."""
        generator = torch.Generator().manual_seed(seed)
        initialise = getattr(torch.nn.init, initialization)
        layers = [(layer.weight, layer.bias) for layer in self.hidden] + [(self.weight, self.bias)]
        for index, (weight, bias) in enumerate(layers):
            gain = torch.nn.init.calculate_gain("relu" if index else "linear")
            weight.copy_(initialise(torch.empty(weight.shape), gain=gain, generator=generator))
            bound = 1 / math.sqrt(weight.shape[1])
            bias.copy_(torch.empty(bias.shape).uniform_(-bound, bound, generator=generator))
        for layer in self.hidden:
            layer.scale.fill_(1)

    def state(self) -> tuple[Tensor, Tensor]:
        """A copy of everything that training changes."""
        return self.parameters.clone(), self.statistics.clone()

    def load(self, state: tuple[Tensor, Tensor]) -> None:
        """Set what `state` returned."""
        self.parameters.copy_(state[0])
        self.statistics.copy_(state[1])

    def logits(self, x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows labels"]:
        """Outputs in evaluation: running statistics, no dropout."""
        for layer in self.hidden:
            factor = layer.scale * (layer.variance + BATCH_NORM_EPSILON).rsqrt()
            offset = torch.addcmul(layer.shift, layer.bias - layer.mean, factor)
            x = torch.addcmul(offset, self._exact.forward(x, layer.weight), factor).relu_()
        return self._exact.forward(x, self.weight) + self.bias

    def activate(self, logits: Float[Tensor, "rows labels"]) -> Float[Tensor, "rows labels"]:
        """Probabilities."""
        return logits.sigmoid() if self.is_multilabel else logits.softmax(1)

    def loss(self, logits: Float[Tensor, "rows labels"], targets: Float[Tensor, "rows labels"]) -> Tensor:
        """Mean loss of rows, a scalar."""
        if self.is_multilabel:
            return F.binary_cross_entropy_with_logits(logits, targets)
        return F.cross_entropy(logits, targets.argmax(1))

    def compute_gradient(
        self, x: Float[Tensor, "rows features"], targets: Float[Tensor, "rows labels"]
    ) -> Float[Tensor, "rows labels"]:
        """Go forward in training mode and back; fills `gradient`, updates the running statistics.

        Args:
            x: a batch of two rows or more.
            targets: its labels.

        Returns:
            The logits before the step.
        """
        products, kept = self._products, []
        for layer in self.hidden:
            factor = products.factor(x)
            weight = products.factor(layer.weight)
            raw = products.forward(factor, weight)
            layer.mean -= layer.bias  # the statistics of torch's module include the bias
            normal, mean, inverse_deviation = torch.native_batch_norm(
                raw,
                layer.scale,
                layer.shift,
                layer.mean,
                layer.variance,
                True,
                BATCH_NORM_MOMENTUM,
                BATCH_NORM_EPSILON,
            )
            layer.mean += layer.bias
            x = normal.relu_()
            if self.dropout:
                x.mul_(self._dropout_mask(x))
            kept.append((factor, weight, raw, mean, inverse_deviation, x))
        logits = torch.addmm(self.bias, x, self.weight.T)
        error = self._error_of_logits(logits, targets)
        weight_gradient, bias_gradient = self._output_gradient
        torch.mm(error.T, x, out=weight_gradient)
        torch.sum(error, 0, out=bias_gradient)
        if kept:
            self._go_back(error @ self.weight, kept)
        return logits

    def _go_back(self, error: Tensor, kept: list[tuple[Tensor, ...]]) -> None:
        """From the error of the last hidden layer's output to all hidden gradients."""
        for index in range(len(kept) - 1, -1, -1):
            factor, weight, raw, mean, inverse_deviation, x = kept[index]
            layer, gradient = self.hidden[index], self._hidden_gradient[index]
            # What dropout or ReLU set to zero passes nothing back.
            error = torch.ops.aten.threshold_backward(error, x, 0)
            if self.dropout:
                error.mul_(1 / (1 - self.dropout))
            of_raw, of_scale, of_shift = torch.ops.aten.native_batch_norm_backward(
                error,
                raw,
                layer.scale,
                layer.mean,
                layer.variance,
                mean,
                inverse_deviation,
                True,
                BATCH_NORM_EPSILON,
                [True, True, True],
            )
            gradient.scale.copy_(of_scale)
            gradient.shift.copy_(of_shift)
            of_raw = self._products.factor(of_raw)
            self._products.of_weight(of_raw, factor, gradient.weight)
            if index:
                error = self._products.of_input(of_raw, weight)

    def _error_of_logits(self, logits: Tensor, targets: Tensor) -> Float[Tensor, "rows labels"]:
        share = 1 / (logits.numel() if self.is_multilabel else len(logits))
        return self.activate(logits).sub_(targets).mul_(share)

    def _dropout_mask(self, x: Tensor) -> Float[Tensor, "rows outputs"]:
        """Zero with the probability of dropout, else what makes up for it."""
        scale = 1 / (1 - self.dropout)
        if self._device_random is not None:
            uniform = torch.rand(x.shape, device=x.device, generator=self._device_random)
            return (uniform >= self.dropout).to(x.dtype).mul_(scale)
        # numpy's small integers are six times faster than torch's Bernoulli numbers on a CPU.
        half = RANDOM_LEVELS // 2
        drawn = self._random.integers(-half, half, x.shape, dtype=np.int16)
        is_kept = torch.from_numpy(drawn >= round(self.dropout * RANDOM_LEVELS) - half)
        return is_kept.to(x.dtype).mul_(scale)
