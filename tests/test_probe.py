"""The probe's own parts against torch's: gradients, initialisation, dropout, Adam, memory of its state."""

import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from heareval_oracle import POINT, conf_of, copy_weights, heareval_module
from torch.nn import functional as F

from eval_recipes.scoring.probe import Probe
from eval_recipes.scoring.training import Adam

FEATURES, LABELS, ROWS = 30, 7, 50


def probe_with(is_multilabel: bool = False, precision: str = "fp32", seed: int = 3, **changes) -> Probe:
    point = replace(POINT, **changes)
    return Probe(
        FEATURES, LABELS, is_multilabel, point, seed=seed, precision=precision, device=torch.device("cpu")
    )


def batch(is_multilabel: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=generator)
    if is_multilabel:
        return x, (torch.rand(ROWS, LABELS, generator=generator) < 0.3).float()
    return x, F.one_hot(torch.randint(LABELS, (ROWS,), generator=generator), LABELS).float()


def hearevals(probe: Probe, layers: int) -> torch.nn.Module:
    kit = heareval_module("predictions.task_predictions")
    kind = "multilabel" if probe.is_multilabel else "multiclass"
    point = replace(POINT, hidden_layers=layers)
    theirs = kit.FullyConnectedPrediction(FEATURES, LABELS, kind, conf_of(point))
    if layers:
        copy_weights(probe, theirs)
    else:
        theirs.projection.load_state_dict({"weight": probe.weight, "bias": probe.bias})
    return theirs


@pytest.mark.parametrize("is_multilabel", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_gradients_and_statistics_are_autograds_of_hearevals_predictor(layers, is_multilabel):
    probe = probe_with(is_multilabel, hidden_layers=layers)
    theirs = hearevals(probe, layers)
    x, targets = batch(is_multilabel)
    logits = theirs.forward_logit(x)
    if is_multilabel:
        F.binary_cross_entropy_with_logits(logits, targets).backward()
    else:
        F.cross_entropy(logits, targets.argmax(1)).backward()
    torch.testing.assert_close(probe.compute_gradient(x, targets), logits.detach())
    linears = [module for module in theirs.modules() if isinstance(module, torch.nn.Linear)]
    norms = [module for module in theirs.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    weight, bias = probe._output_gradient
    torch.testing.assert_close(weight, linears[-1].weight.grad)
    torch.testing.assert_close(bias, linears[-1].bias.grad)
    for gradient, layer, linear, norm in zip(
        probe._hidden_gradient, probe.hidden, linears[:-1], norms, strict=True
    ):
        torch.testing.assert_close(gradient.weight, linear.weight.grad)
        torch.testing.assert_close(gradient.scale, norm.weight.grad)
        torch.testing.assert_close(gradient.shift, norm.bias.grad)
        assert linear.bias.grad.abs().max() < 1e-7  # what the probe takes for the zero that it is
        torch.testing.assert_close(layer.mean, norm.running_mean)
        torch.testing.assert_close(layer.variance, norm.running_var)
    theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(probe.logits(x), theirs.forward_logit(x))


@pytest.mark.parametrize("initialization", ["xavier_uniform_", "xavier_normal_"])
def test_weights_are_distributed_as_hearevals(initialization):
    kit = heareval_module("predictions.task_predictions")
    wide = {"hidden_dim": 400, "initialization": initialization}
    ours = probe_with(**wide)
    theirs = kit.FullyConnectedPrediction(FEATURES, LABELS, "multiclass", conf_of(replace(POINT, **wide)))
    linears = [module for module in theirs.modules() if isinstance(module, torch.nn.Linear)]
    for (weight, bias), linear in zip(
        [*((layer.weight, layer.bias) for layer in ours.hidden), (ours.weight, ours.bias)],
        linears,
        strict=True,
    ):
        assert weight.std() == pytest.approx(linear.weight.std().item(), rel=0.1)
        assert bias.abs().max() <= weight.shape[1] ** -0.5
        if initialization == "xavier_uniform_":
            assert weight.abs().max() == pytest.approx(linear.weight.abs().max().item(), rel=0.05)


def test_dropout_keeps_its_share_and_the_mean():
    probe = probe_with(dropout=0.1)
    mask = probe._dropout_mask(torch.empty(1000, 1000))
    values, counts = mask.unique(return_counts=True)
    assert values.tolist() == pytest.approx([0, 1 / 0.9])
    assert counts[0].item() / mask.numel() == pytest.approx(0.1, abs=1e-3)


def test_gradients_with_dropout_are_those_of_the_same_mask():
    probe, twin = probe_with(dropout=0.3, hidden_layers=1), probe_with(dropout=0.3, hidden_layers=1)
    x, targets = batch(is_multilabel=False)
    logits = probe.compute_gradient(x, targets)
    layer = twin.hidden[0]
    weight = layer.weight.clone().requires_grad_()
    normal = F.batch_norm(x @ weight.T, None, None, layer.scale, layer.shift, training=True)
    expected = F.linear((normal * twin._dropout_mask(normal)).relu(), twin.weight, twin.bias)
    F.cross_entropy(expected, targets.argmax(1)).backward()
    torch.testing.assert_close(logits, expected.detach())
    torch.testing.assert_close(probe._hidden_gradient[0].weight, weight.grad)


def test_bfloat16_gradients_are_near_and_evaluation_is_exact():
    exact, rounded = probe_with(), probe_with(precision="bf16")
    x, targets = batch(is_multilabel=False)
    torch.testing.assert_close(exact.logits(x), rounded.logits(x))
    exact.compute_gradient(x, targets)
    rounded.compute_gradient(x, targets)
    difference = (exact.gradient - rounded.gradient).norm() / exact.gradient.norm()
    assert 0 < difference < 0.05


def test_adam_is_torchs():
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(500, generator=generator)
    theirs, gradient = ours.clone().requires_grad_(), torch.empty(500)
    adam, reference = Adam(ours, gradient, lr=3.2e-3), torch.optim.Adam([theirs], lr=3.2e-3)
    for step in range(20):
        gradient.normal_(generator=generator).mul_(10.0 ** -(step % 9))
        theirs.grad = gradient.clone()
        adam.step()
        reference.step()
    torch.testing.assert_close(ours, theirs.detach())


def test_state_is_a_copy_of_everything_that_training_changes():
    probe = probe_with()
    x, targets = batch(is_multilabel=False)
    before, state = probe.logits(x), probe.state()
    adam = Adam(probe.parameters, probe.gradient, lr=0.1)
    for _ in range(3):
        probe.compute_gradient(x, targets)
        adam.step()
    assert (probe.logits(x) - before).abs().max() > 0.1
    probe.load(state)
    torch.testing.assert_close(probe.logits(x), before, rtol=0, atol=0)


def test_seeds_tell_probes_apart():
    same, other = probe_with(dropout=0.5, seed=3), probe_with(dropout=0.5, seed=4)
    torch.testing.assert_close(same.parameters, probe_with(seed=3).parameters, rtol=0, atol=0)
    assert not torch.equal(same.weight, other.weight)
    assert not torch.equal(*(probe._dropout_mask(torch.empty(50, 50)) for probe in (same, other)))


TOUCH_MEMORY = """
import resource
import numpy as np
from process_memory import keep_freed_memory
{ask}
np.ones(3_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(3_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_freed_memory_is_kept():
    def page_faults(ask):
        command = [sys.executable, "-c", TOUCH_MEMORY.format(ask=ask)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert page_faults("assert keep_freed_memory()") < 5 < page_faults("")
