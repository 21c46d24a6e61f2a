"""The doctor's check of probe scoring: a small probe on fixed embeddings, against torch's own modules."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval_recipes.scoring import products
from eval_recipes.scoring.grid import GridPoint
from eval_recipes.scoring.probe import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, Probe
from eval_recipes.scoring.scene_metrics import top1_accuracy
from eval_recipes.scoring.training import ADAM_EPSILON, BETAS, Adam
from hear_dasheng.compute import measure
from hear_dasheng.compute.checks import BOUNDS, Parity, Request, Skip, Throughput
from hear_dasheng.compute.precision import fp32_arithmetic

FEATURES, LABELS, ROWS, STEPS = 192, 10, 512, 20
NOISE = 3.0
"""Spread of an embedding around its label's direction: so much that the accuracy is far from 0 and 1."""

SCORE_BOUND = {"fp32": 0.005, "bf16": 0.03}
"""Largest difference in accuracy: 2 and 15 of the 512 rows."""

POINT = GridPoint(
    batch_size=ROWS,
    check_val_every_n_epoch=1,
    dropout=0.0,  # its random numbers differ from device to device
    hidden_dim=128,
    hidden_layers=2,
    initialization="xavier_uniform_",
    lr=1e-3,
    max_epochs=STEPS,
    patience=STEPS,
)


@dataclass(frozen=True)
class Outcome:
    """What a short training came to, on the CPU.

    Attributes:
        gradient: of all parameters before the first step, but for the biases that batch norm takes out.
        losses: before each step.
        logits: of held-out rows, after the last step.
        score: their accuracy.
    """

    gradient: list[Tensor]
    losses: Tensor
    logits: Tensor
    score: float


class ProbeCheck:
    """See `Check`.

    The probe's gradients are written out; the reference has autograd, torch's modules and torch's Adam.
    Both run in full fp32 precision, as `score` does, whatever the process allows.
    """

    name = "probe scoring"
    measures_speed = False

    def __init__(self, request: Request) -> None:
        self._request = request

    def operators(self) -> dict[str, bool]:
        """Return whether oneDNN multiplies in a probe."""
        return {"probes, fp32": products.is_onednn_usable()}

    @functools.cached_property
    def _reference(self) -> Outcome:
        return _train_reference(_new_probe(torch.device("cpu"), "fp32"))

    def parity(self, precision: str) -> list[Parity]:
        """Compare gradients, losses, outputs and the score of a short training."""
        if precision == "tf32":
            raise Skip("`score` offers fp32 and bf16")
        with fp32_arithmetic():
            ours, theirs = _train(_new_probe(self._request.device, precision)), self._reference
        bound = BOUNDS[precision]
        gradient = measure.relative_to_norm(ours.gradient, theirs.gradient)
        losses = measure.relative_to_largest([ours.losses], [theirs.losses])
        logits = measure.relative_to_largest([ours.logits], [theirs.logits])
        score = abs(ours.score - theirs.score)
        return [
            # An activation that rounds to the other side of ReLU's kink changes its row's whole gradient:
            # bfloat16 had 4e-2 here, and emulated TF32 1e-2.
            Parity.of(self.name, "gradients", precision, gradient, 4 * bound, "their norm"),
            Parity.of(self.name, "losses", precision, losses, bound, "largest value"),
            # Adam divides by a gradient's own size, so weights with hardly any gradient move by its error.
            Parity.of(self.name, "trained outputs", precision, logits, 2 * bound, "largest value"),
            Parity.of(self.name, "accuracy", precision, score, SCORE_BOUND[precision], "1"),
        ]

    def throughput(self, size: str, precision: str, peak_flops: float) -> Throughput:
        """Measure nothing: a probe's speed depends on the task.

        Raises:
            Skip: always.
        """
        raise Skip("not measured: a probe's speed depends on the task")


def _rows() -> tuple[Tensor, Tensor]:
    """Return embeddings and one-hot labels; the first half trains, the second is held out."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(LABELS, (2 * ROWS,), generator=generator)
    directions = torch.randn(LABELS, FEATURES, generator=generator)
    x = directions[labels] + NOISE * torch.randn(2 * ROWS, FEATURES, generator=generator)
    return x, F.one_hot(labels, LABELS).float()


def _new_probe(device: torch.device, precision: str) -> Probe:
    with torch.random.fork_rng(devices=[]):
        return Probe(FEATURES, LABELS, False, POINT, seed=0, precision=precision, device=device)


@torch.no_grad()
def _train(probe: Probe) -> Outcome:
    x, targets = (part.to(probe.device) for part in _rows())
    adam = Adam(probe.parameters, probe.gradient, POINT.lr)
    gradient, losses = [], []
    for step in range(STEPS):
        logits = probe.compute_gradient(x[:ROWS], targets[:ROWS])
        if step == 0:
            gradient = _gradient_of(probe)
        losses.append(probe.loss(logits, targets[:ROWS]).cpu())
        adam.step()
    held_out = probe.logits(x[ROWS:])
    score = _accuracy(probe.activate(held_out), targets[ROWS:])
    return Outcome(gradient, torch.stack(losses), held_out.cpu(), score)


def _gradient_of(probe: Probe) -> list[Tensor]:
    hidden = [part for layer in probe._hidden_gradient for part in (layer.weight, layer.scale, layer.shift)]
    return [part.clone() for part in (*hidden, *probe._output_gradient)]


def _train_reference(probe: Probe) -> Outcome:
    """Train torch's modules from the weights of a probe."""
    model = _as_modules(probe)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=POINT.lr, betas=BETAS, eps=ADAM_EPSILON)
    x, targets = _rows()
    gradient, losses = [], []
    for step in range(STEPS):
        loss = F.cross_entropy(model(x[:ROWS]), targets[:ROWS].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradient = [parameter.grad.clone() for parameter in learning]
        losses.append(loss.detach())
        optimizer.step()
    with torch.no_grad():
        held_out = model.eval()(x[ROWS:])
    return Outcome(gradient, torch.stack(losses), held_out, _accuracy(held_out.softmax(1), targets[ROWS:]))


def _as_modules(probe: Probe) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in probe.hidden:
        linear = nn.Linear(*reversed(layer.weight.shape))
        linear.weight.data, linear.bias.data = layer.weight.clone(), layer.bias.clone()
        linear.bias.requires_grad_(False)  # batch norm takes it out, so its gradient is rounding noise
        norm = nn.BatchNorm1d(len(layer.weight), BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM)
        modules += [linear, norm, nn.ReLU()]
    output = nn.Linear(*reversed(probe.weight.shape))
    output.weight.data, output.bias.data = probe.weight.clone(), probe.bias.clone()
    return nn.Sequential(*modules, output)


def _accuracy(probabilities: Tensor, targets: Tensor) -> float:
    return top1_accuracy(np.asarray(probabilities.cpu()), np.asarray(targets.cpu()))
