"""The HEAR model: invariances, lengths, options, and errors for bad input."""

import copy

import numpy as np
import pytest
import torch
from conftest import noise, scaled_error
from hypothesis import given, settings
from hypothesis import strategies as st

import hear_dasheng
from hear_dasheng import cpu_linear, get_scene_embeddings, get_timestamp_embeddings, load_model
from hear_dasheng.hear_model import HearModel

TOLERANCE = 1e-5


def test_has_hears_attributes(tiny_model):
    assert tiny_model.sample_rate == 16_000
    assert type(tiny_model.scene_embedding_size) is int
    assert tiny_model.timestamp_embedding_size == 192
    assert not tiny_model.training


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_clip_is_itself_in_any_company(tiny_model, data):
    seconds = data.draw(st.sampled_from([0.2, 1.0, 10.08, 11.0, 18.64]))
    n = data.draw(st.integers(2, 6))
    batch = noise(n, seconds, seed=data.draw(st.integers(0, 9)))
    order = data.draw(st.permutations(range(n)))
    alone = [get_timestamp_embeddings(clip[None], tiny_model)[0][0] for clip in batch]
    together = get_timestamp_embeddings(batch[list(order)], tiny_model)[0]
    for row, index in zip(together, order, strict=True):
        assert scaled_error(row, alone[index]) <= TOLERANCE


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 200_000), min_size=1, max_size=4), seed=st.integers(0, 9))
def test_lengths_make_padding_invisible(tiny_model, lengths, seed):
    padded = noise(len(lengths), max(lengths) / 16_000 + 0.5, seed)
    scenes = get_scene_embeddings(padded, tiny_model, lengths=lengths)
    tokens, times = get_timestamp_embeddings(padded, tiny_model, lengths=torch.tensor(lengths))
    for index, length in enumerate(lengths):
        clip = padded[index : index + 1, :length]
        assert scaled_error(scenes[index], get_scene_embeddings(clip, tiny_model)[0]) <= TOLERANCE
        alone, alone_times = get_timestamp_embeddings(clip, tiny_model)
        count = alone.shape[1]
        assert scaled_error(tokens[index, :count], alone[0]) <= TOLERANCE
        assert torch.equal(times[index, :count], alone_times[0])
        assert (tokens[index, count:] == 0).all()
        assert times[index, count:].isnan().all()


@pytest.mark.slow
def test_invariances_hold_for_base_as_well(tmp_path):
    from hear_dasheng.export import new_encoder

    model = HearModel(new_encoder("base"))
    batch = noise(5, 18.64)
    alone = torch.cat([get_scene_embeddings(clip[None], model) for clip in batch])
    assert scaled_error(get_scene_embeddings(batch, model), alone) <= TOLERANCE
    padded = torch.nn.functional.pad(batch, (0, 80_000))
    lengths = [batch.shape[1]] * 5
    assert scaled_error(get_scene_embeddings(padded, model, lengths), alone) <= TOLERANCE


@pytest.mark.parametrize(
    "n_samples", [1, 2, 159, 160, 256, 479, 480, 481, 639, 640, 161_280, 161_281, 322_560]
)
def test_any_length_gives_finite_float32(tiny_model, n_samples):
    audio = noise(2, 21)[:, :n_samples]
    tokens, times = get_timestamp_embeddings(audio, tiny_model)
    scene = get_scene_embeddings(audio, tiny_model)
    assert tokens.dtype == times.dtype == scene.dtype == torch.float32
    assert tokens.isfinite().all()
    assert scene.isfinite().all()
    assert times.max() <= n_samples / 16
    assert scaled_error(tokens.mean(1), scene) <= TOLERANCE


def test_timestamps_are_regular_over_window_borders(tiny_model):
    _, times = get_timestamp_embeddings(noise(1, 31), tiny_model)
    assert times[0, 0] == 15
    assert (times.diff() == 40).all()


def test_silence_has_a_finite_embedding(tiny_model):
    assert get_scene_embeddings(torch.zeros(1, 16_000), tiny_model).isfinite().all()


def test_tail_pad_keeps_the_last_token(tiny_pt, tiny_model):
    audio = noise(1, 1.98)
    padded = load_model(tiny_pt, tail="pad")
    tokens, times = get_timestamp_embeddings(audio, padded)
    assert tokens.shape[1] == 50
    assert times[0, -1] == 1975
    assert get_timestamp_embeddings(audio, tiny_model)[0].shape[1] == 49


def test_layers_concatenate_in_the_order_asked(tiny_pt, tiny_oracle):
    audio = noise(1, 2)
    hidden = []
    for block in tiny_oracle.blocks:
        block.register_forward_hook(lambda _, __, output: hidden.append(output))
    tiny_oracle(audio)
    for block in tiny_oracle.blocks:
        block._forward_hooks.clear()
    model = load_model(tiny_pt, layers=[4, 0, -1])
    assert model.timestamp_embedding_size == model.scene_embedding_size == 3 * 192
    expected = torch.cat([tiny_oracle.norm(hidden[layer]) for layer in (4, 0, 5)], -1)
    assert scaled_error(get_timestamp_embeddings(audio, model)[0], expected) <= 1e-4
    every = load_model(tiny_pt, layers="all")
    assert get_scene_embeddings(audio, every).shape == (1, 6 * 192)


def test_an_early_layer_skips_the_later_blocks(tiny_pt):
    model = load_model(tiny_pt, layers=1)
    model.encoder.blocks[2:].apply(lambda module: module.__dict__.update(forward=None))
    assert get_scene_embeddings(noise(1, 1), model).shape == (1, 192)


@pytest.mark.parametrize(("pooling", "features"), [("mean", 192), ("max", 192), ("mean+max", 384)])
def test_pooling(tiny_pt, pooling, features):
    model = load_model(tiny_pt, pooling=pooling)
    audio = noise(1, 2)
    tokens = get_timestamp_embeddings(audio, model)[0]
    parts = {"mean": tokens.mean(1), "max": tokens.amax(1)}
    expected = torch.cat([parts[name] for name in pooling.split("+")], 1)
    assert model.scene_embedding_size == features
    torch.testing.assert_close(get_scene_embeddings(audio, model), expected)


def test_batch_windows_change_no_value(tiny_pt, tiny_model):
    audio = noise(3, 25)
    one = load_model(tiny_pt, batch_windows=1)
    assert (
        scaled_error(get_scene_embeddings(audio, one), get_scene_embeddings(audio, tiny_model)) <= TOLERANCE
    )


def test_bf16_is_close_and_float32_outside(tiny_pt, tiny_model):
    audio = noise(3, 12)
    lengths = [192_000, 100_000, 5_000]
    rough = load_model(tiny_pt, precision="bf16")
    ours, exact = (get_scene_embeddings(audio, model, lengths) for model in (rough, tiny_model))
    assert ours.dtype == torch.float32
    assert 1e-6 < scaled_error(ours, exact) < 2e-2


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_global_precision_switches_are_overruled_and_put_back(tiny_pt, precision):
    audio, model = noise(1, 2), load_model(tiny_pt, precision=precision)
    expected = get_scene_embeddings(audio, model)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(get_scene_embeddings(audio, model), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_packed_weights_come_back_bit_for_bit(tiny_pt):
    model = load_model(tiny_pt)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    audio = noise(1, 1)
    first = get_scene_embeddings(audio, model)
    if cpu_linear.is_supported(torch.float32):
        assert isinstance(model.encoder.blocks[0].mlp.fc1, cpu_linear.PackedLinear)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(get_scene_embeddings(audio, copy.deepcopy(model)), first)
    assert get_scene_embeddings(audio.double().float(), model.double().float()).allclose(first, atol=1e-6)


def test_works_without_onednn(tiny_pt, tiny_model, monkeypatch):
    monkeypatch.setattr(cpu_linear, "is_supported", lambda dtype: False)
    audio = noise(2, 11)
    plain = load_model(tiny_pt)
    assert (
        scaled_error(get_scene_embeddings(audio, plain), get_scene_embeddings(audio, tiny_model)) <= TOLERANCE
    )
    assert not isinstance(plain.encoder.blocks[0].mlp.fc1, cpu_linear.PackedLinear)


def test_forward_is_the_scene_embedding(tiny_model):
    audio = noise(2, 1)
    assert torch.equal(tiny_model(audio), get_scene_embeddings(audio, tiny_model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precison": "bf16"}, "'precison'.*did you mean 'precision'"),
        ({"hop_ms": 50}, "'hop_ms'.*precision, layers, tail"),
        ({"precision": "fp16"}, "'fp16'.*fp32, tf32, bf16"),
        ({"layers": 6}, "layers=6.*between -6 and 5.*6 blocks"),
        ({"layers": []}, r"layers=\[\]"),
        ({"layers": "last"}, "layers='last'"),
        ({"layers": [0, 1.5]}, r"layers=\[0, 1.5\]"),
        ({"tail": "keep"}, "'keep'.*drop, pad"),
        ({"pooling": "cls"}, "'cls'.*mean, max"),
        ({"batch_windows": 0}, "batch_windows=0"),
        ({"num_heads": 4}, "num_heads=4 contradicts.*3"),
    ],
)
def test_bad_options_are_named_with_the_remedy(tiny_pt, options, message):
    with pytest.raises(ValueError, match=message):
        load_model(tiny_pt, **options)


@pytest.mark.parametrize(
    ("audio", "error", "message"),
    [
        (torch.zeros(16_000), ValueError, r"\(16000,\); one mono clip becomes audio\[None\]"),
        (torch.zeros(1, 2, 16_000), ValueError, r"\(1, 2, 16000\)"),
        (torch.zeros(1, 0), ValueError, "empty"),
        (torch.zeros(0, 100), ValueError, "empty"),
        (torch.zeros(1, 160, dtype=torch.int16), TypeError, r"torch.int16; scale.*32768"),
        (torch.zeros(1, 160, dtype=torch.float64), TypeError, r"torch.float64; call audio.float\(\)"),
        (torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), ValueError, "nan in sound 1 at sample 1"),
        (torch.tensor([[0.0, float("-inf")]]), ValueError, "-inf in sound 0 at sample 1"),
        (torch.full((1, 160), 12_000.0), ValueError, r"reaches 12000.*\[-1, 1\].*32768"),
        (np.zeros((1, 160), np.float32), TypeError, "ndarray; convert it with torch.as_tensor"),
        (
            torch.zeros(1, 160, device="meta"),
            ValueError,
            r"on meta but the model is on cpu; call audio.to\('cpu'\)",
        ),
    ],
)
def test_bad_audio_is_named_with_the_remedy(tiny_model, audio, error, message):
    for embed in (get_scene_embeddings, get_timestamp_embeddings):
        with pytest.raises(error, match=message):
            embed(audio, tiny_model)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([100], ValueError, r"each of the 2 sounds.*\(1,\)"),
        ([100, 0], ValueError, r"lengths\[1\] is 0.*1 and the 160"),
        ([161, 100], ValueError, r"lengths\[0\] is 161"),
        ([1.0, 2.0], TypeError, "whole numbers"),
    ],
)
def test_bad_lengths_are_named(tiny_model, lengths, error, message):
    with pytest.raises(error, match=message):
        get_scene_embeddings(torch.zeros(2, 160), tiny_model, lengths=lengths)


def test_another_modules_model_is_refused():
    with pytest.raises(TypeError, match="Linear"):
        get_scene_embeddings(torch.zeros(1, 160), torch.nn.Linear(2, 2))


def test_a_module_named_after_a_size_takes_only_that_size(tiny_pt):
    from hear_dasheng import dasheng_06B, dasheng_12B, dasheng_base

    for module, shape in ((dasheng_base, "768/12"), (dasheng_06B, "1280/32"), (dasheng_12B, "1536/40")):
        assert {"load_model", "get_scene_embeddings", "get_timestamp_embeddings"} <= set(dir(module))
        with pytest.raises(ValueError, match=f"width 192 and depth 6.*{shape}.*module hear_dasheng"):
            module.load_model(tiny_pt)


def test_the_package_exports_hears_functions():
    assert hear_dasheng.load_model is load_model
    with pytest.raises(AttributeError, match="embed"):
        getattr(hear_dasheng, "embed")  # noqa: B009


def test_a_model_first_used_in_inference_mode_serves_outside_it(tiny_pt):
    model, audio = load_model(tiny_pt), noise(1, 1)
    with torch.inference_mode():
        first = get_scene_embeddings(audio, model).clone()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert torch.equal(get_scene_embeddings(audio, model), first)
    assert get_scene_embeddings(audio, model.to(torch.float64).float()).allclose(first, atol=1e-6)


def test_training_mode_is_not_entered(tiny_pt):
    model = load_model(tiny_pt)
    assert not model.train().training
    assert not model.encoder.init_bn.training


def test_an_impossible_device_is_named(tiny_pt):
    with pytest.raises(ValueError, match="option device='gpu' is not available here"):
        load_model(tiny_pt, device="gpu")
