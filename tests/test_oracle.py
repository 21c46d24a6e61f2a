"""Outputs against the published package, on the same random weights in the published form."""

import gc

import pytest
import torch
from conftest import config_of, noise, oracle_of, scaled_error

from hear_dasheng import get_scene_embeddings, get_timestamp_embeddings, load_model
from hear_dasheng.sizes import SIZES

TOLERANCE = 1e-4
LENGTHS_S = [0.5, 1, 5, 10, 10.08, 18.64, 20.16, 30, 120]


def compare(size: str, lengths_s: list[float], folder) -> None:
    shape = SIZES[size]
    oracle = oracle_of(shape.dim, shape.depth, shape.heads)
    path = folder / "published.pt"
    torch.save({"model": oracle.state_dict(), "config": config_of(oracle)}, path)
    with torch.inference_mode():
        expected = {seconds: oracle(noise(1, seconds)) for seconds in lengths_s}
    del oracle
    gc.collect()
    model = load_model(path)
    path.unlink()
    for seconds, theirs in expected.items():
        ours, times = get_timestamp_embeddings(noise(1, seconds), model)
        assert ours.shape == theirs.shape
        assert times.shape == theirs.shape[:2]
        assert scaled_error(ours, theirs) <= TOLERANCE
        scene = get_scene_embeddings(noise(1, seconds), model)
        assert scaled_error(scene, theirs.mean(1)) <= TOLERANCE


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_small_sizes_equal_the_package(size, tmp_path):
    compare(size, LENGTHS_S, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["0.6B", "0.6B-trainer", "1.2B"])
def test_large_sizes_equal_the_package(size, tmp_path):
    compare(size, [0.5, 5, 10.08, 20.16], tmp_path)


@pytest.mark.parametrize(("size", "millions"), [("base", 85.4), ("0.6B", 630), ("1.2B", 1134)])
def test_parameter_counts_are_the_released_ones(size, millions):
    from hear_dasheng.encoder import Encoder
    from hear_dasheng.encoder_config import EncoderConfig

    with torch.device("meta"):
        encoder = Encoder(EncoderConfig.of_size(size))
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_initial_weights_have_the_published_distributions():
    from dasheng.pretrained.pretrained import Dasheng

    from hear_dasheng.export import new_encoder, published_weights

    theirs = dict(Dasheng(embed_dim=192, depth=6, num_heads=3).named_parameters())
    ours = published_weights(new_encoder("tiny"))
    for name, parameter in theirs.items():
        assert ours[name].std().item() == pytest.approx(parameter.std().item(), rel=0.25, abs=1e-3), name
        if parameter.numel() > 10_000:  # else the largest value says little
            assert ours[name].max().item() == pytest.approx(parameter.max().item(), rel=0.25), name


def test_the_package_mixes_clips_that_we_keep_apart(tiny_oracle, tiny_model):
    """Published faults 3 and 4: a shared dB floor, and padding that changes a clip."""
    quiet = torch.zeros(1, 32_000)
    quiet[:, :4_000] = 1e-3 * noise(1, 0.25)
    loud = torch.sin(torch.arange(32_000) / 3)[None]
    together = torch.cat([quiet, loud])
    alone, beside = tiny_oracle(quiet)[0], tiny_oracle(together)[0]
    assert scaled_error(beside, alone) > 1e-2
    ours_alone = get_timestamp_embeddings(quiet, tiny_model)[0][0]
    ours_beside = get_timestamp_embeddings(together, tiny_model)[0][0]
    assert scaled_error(ours_beside, ours_alone) <= 1e-5

    short = noise(1, 1)
    padded = torch.nn.functional.pad(short, (0, 48_000))
    masked = tiny_oracle(padded, x_length=torch.tensor([16_000]))[:, :25]
    assert scaled_error(masked, tiny_oracle(short)) > 1e-4
    ours = get_timestamp_embeddings(padded, tiny_model, lengths=[16_000])[0]
    assert scaled_error(ours[:, :25], get_timestamp_embeddings(short, tiny_model)[0]) <= 1e-5
