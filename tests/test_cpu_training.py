"""Training's fast paths on a CPU compute what plain torch computes: outputs, gradients, whole steps."""

import pytest
import torch
from conftest import noise
from test_masked_autoencoder import our_autoencoder, published_autoencoder, published_mask
from torch.nn import functional as F

from hear_dasheng import cpu_training
from hear_dasheng.blocks import Linear, attend
from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from pretrain.masked_autoencoder import new_masked_autoencoder
from pretrain.masking import random_mask

FP32_TOLERANCE = 2e-6
"""Of a tensor's norm: a few roundings of fp32, which sums of a hundred products have anyway."""

BF16_TOLERANCE = 1e-2
"""Of a tensor's norm: bfloat16 rounds to 4e-3."""


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value.double() - reference.double()).norm() / reference.double().norm()).item()


def used_onednn(result: torch.Tensor) -> bool:
    return "OneDnnLinear" in type(result.grad_fn).__name__


def small_autoencoder():
    torch.manual_seed(0)
    return new_masked_autoencoder(Encoder(EncoderConfig.of_size("tiny")), "tiny").train()


@pytest.fixture
def needs_onednn():
    if not cpu_training.is_onednn_usable():
        pytest.skip("this build of torch has no oneDNN")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (3, 7, 24), (2, 62, 24), (0, 24)])
@pytest.mark.usefixtures("needs_onednn")
def test_the_onednn_layer_equals_float64(shape, bias):
    torch.manual_seed(0)
    layer = Linear(24, 40, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    result = layer(x)
    assert used_onednn(result)
    exact = [t.detach().double().requires_grad_() for t in (x, *layer.parameters())]
    expected = F.linear(*exact)
    towards = torch.randn_like(result)
    result.backward(towards)
    expected.backward(towards.double())
    assert result.shape == expected.shape
    for got, wanted in zip((x, *layer.parameters()), exact, strict=True):
        assert got.grad.shape == wanted.grad.shape
        if x.numel():
            assert relative_error(got.grad, wanted.grad) < FP32_TOLERANCE
        else:
            assert not got.grad.any()
    if x.numel():
        assert relative_error(result, expected) < FP32_TOLERANCE


@pytest.mark.usefixtures("needs_onednn")
def test_the_onednn_layer_takes_any_memory_layout():
    layer = Linear(24, 40)
    x, towards = torch.randn(5, 24, 9).mT, torch.randn(9, 5, 40).transpose(0, 1)
    gradients = []
    for inputs, outputs in ((x, towards), (x.contiguous(), towards.contiguous())):
        inputs = inputs.detach().requires_grad_()
        result = layer(inputs)
        assert used_onednn(result)
        gradients.append(torch.autograd.grad(result, [inputs, layer.weight, layer.bias], outputs))
    for strided, contiguous in zip(*gradients, strict=True):
        assert relative_error(strided, contiguous) < FP32_TOLERANCE


@pytest.mark.usefixtures("needs_onednn")
def test_what_is_frozen_gets_no_gradient():
    layer = Linear(24, 40)
    x = torch.randn(3, 24)
    layer(x).sum().backward()
    assert x.grad is None
    layer.requires_grad_(False).zero_grad()
    layer(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


def test_other_precisions_and_inference_stay_with_torch():
    layer, x = Linear(24, 40), torch.randn(3, 24)
    with torch.no_grad():
        assert not cpu_training.can_use_onednn(x, layer.weight)
    assert not used_onednn(Linear(24, 40, dtype=torch.float64)(x))
    assert not used_onednn(Linear(24, 40, dtype=torch.bfloat16)(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert not used_onednn(layer(x))
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("n_valid", [None, 37])
def test_bfloat16_attention_equals_float64(n_valid):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 50, 16).bfloat16().requires_grad_() for _ in range(3))
    is_valid = None if n_valid is None else (torch.arange(50) < n_valid).expand(2, 1, 1, 50)
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    towards = torch.randn(2, 4, 50, 16)
    result = attend(q, k, v, is_valid)
    expected = F.scaled_dot_product_attention(*exact, attn_mask=is_valid)
    result.backward(towards.bfloat16())
    expected.backward(towards.double())
    assert result.dtype == torch.bfloat16
    assert relative_error(result, expected) < BF16_TOLERANCE
    for got, wanted in zip((q, k, v), exact, strict=True):
        assert relative_error(got.grad, wanted.grad) < BF16_TOLERANCE
    if n_valid is not None:
        assert not k.grad[:, :, n_valid:].any()
        assert not v.grad[:, :, n_valid:].any()


def test_bfloat16_attention_drops_weights_and_keeps_their_mean():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 4, 200, 16).bfloat16()
    v = torch.ones(1, 4, 200, 16).bfloat16()
    torch.testing.assert_close(attend(q, k, v, None), v, rtol=0, atol=0.02)
    dropped = attend(q, k, v, None, dropout=0.5).float()
    assert dropped.std() > 0.05
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.usefixtures("needs_onednn")
def test_a_model_has_the_gradients_of_plain_torch(monkeypatch):
    model = small_autoencoder()
    audio, mask = noise(2, 1.0), random_mask(2, model.n_tokens(16_000), 0.75)
    gradients = []
    for is_fast in (True, False):
        if not is_fast:
            monkeypatch.setattr(cpu_training, "can_use_onednn", lambda x, weight: False)
        model(audio, mask).mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        model.zero_grad()
    fast, plain = gradients
    for name, gradient in plain.items():
        assert relative_error(fast[name], gradient) < 50 * FP32_TOLERANCE, name


def test_autocast_loses_no_more_than_in_the_published_model():
    published = published_autoencoder("tiny", True).train()
    ours = our_autoencoder(published, "tiny")
    audio = noise(4, 10.0)
    mask = published_mask(published, 4, 250, 0.75)
    state = torch.get_rng_state()

    def gradient_of(model, loss_of, is_bf16: bool) -> torch.Tensor:
        torch.set_rng_state(state)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            loss = loss_of()
        loss.backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters())
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    def loss_by_autocast(model, loss_of) -> float:
        return relative_error(gradient_of(model, loss_of, True), gradient_of(model, loss_of, False))

    theirs = loss_by_autocast(published, lambda: published(audio, return_loss=True))
    assert loss_by_autocast(ours, lambda: ours(audio, mask).mean()) <= 1.1 * theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_run_gives_the_same_bits(dtype):
    def trained():
        model = small_autoencoder()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        for step in range(3):
            audio = noise(2, 1.0, seed=step)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                loss = model(audio, random_mask(2, model.n_tokens(16_000), 0.75)).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
