"""The log-mel baseline is a HEAR module like any other."""

import pytest
import torch
from conftest import noise, run_command

from eval_recipes.baselines import log_mel


@pytest.mark.parametrize("n_samples", [1, 400, 639, 640, 16_000, 31_680, 100_001])
def test_shapes_and_timestamps(n_samples):
    model = log_mel.load_model()
    audio = noise(2, 7)[:, :n_samples]
    tokens, times = log_mel.get_timestamp_embeddings(audio, model)
    assert log_mel.get_scene_embeddings(audio, model).shape == (2, model.scene_embedding_size)
    assert tokens.shape == (*times.shape, model.timestamp_embedding_size)
    assert times.shape == (2, max(1, (n_samples + 320) // 640))
    assert (times <= n_samples / 16).all()
    assert tokens.isfinite().all()


def test_an_event_appears_at_its_time():
    model = log_mel.load_model()
    audio = torch.zeros(1, 32_000)
    audio[0, 16_000:17_600] = torch.sin(torch.arange(1_600) / 3)
    tokens, times = log_mel.get_timestamp_embeddings(audio, model)
    loud = times[0, tokens[0, :, :64].mean(-1) > -10]
    assert loud.min() >= 960
    assert loud.max() <= 1_120


def test_bands_are_those_of_the_tone():
    model = log_mel.load_model()
    tone = torch.sin(2 * torch.pi * 1_000 * torch.arange(16_000) / 16_000)[None]
    band = log_mel.get_scene_embeddings(tone, model)[0, :64].argmax()
    assert abs(model.filter_bank[band].argmax() * 16_000 / 512 - 1_000) < 100


def test_it_has_no_weights():
    with pytest.raises(ValueError, match=r"no weights to load from best.pt"):
        log_mel.load_model("best.pt")


def test_the_validator_accepts_it(tmp_path):
    result = run_command("validate", "eval_recipes.baselines.log_mel", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Looks good!" in result.stdout
    assert "Your timestamps" not in result.stderr
