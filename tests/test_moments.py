"""Which time a moment describes, for any front end and patch; and clips apart from their padding."""

import pytest
import torch
from conftest import noise, scaled_error
from hypothesis import given
from hypothesis import strategies as st
from option_cases import OPTIONS, SIZE

from hear_dasheng import get_scene_embeddings, get_timestamp_embeddings
from hear_dasheng.encoder import Encoder
from hear_dasheng.hear_model import HearModel
from hear_dasheng.mel import LogMel
from hear_dasheng.published_options import config_of_kwargs
from hear_dasheng.windows import centre_ms, fit_to_moments, n_moments, timestamps_ms

TIMED = ["released", "other transform", "odd transform", "not centred", "square patches", "all at once"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", TIMED)
def test_a_click_at_a_timestamp_lies_in_the_middle_of_its_patch(name):
    config = config_of_kwargs(SIZE | OPTIONS[name])
    times_ms = timestamps_ms(config, 32_000)
    moment = len(times_ms) // 2
    click = torch.zeros(1, 32_000)
    click[0, round(times_ms[moment].item() * 16)] = 1
    frames = slice(moment * config.patch_frames, (moment + 1) * config.patch_frames)
    patch = LogMel(config.mel)(click)[0, :, frames]
    assert patch.max() > patch.min() + 3
    torch.testing.assert_close(patch, patch.flip(1), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", TIMED)
@given(n_samples=st.integers(1, 400_000), tail=st.sampled_from(["drop", "pad"]))
def test_moments_are_regular_and_within_the_clip(name, n_samples, tail):
    config = config_of_kwargs(SIZE | OPTIONS[name])
    times = timestamps_ms(config, n_samples, tail)
    frames = 1 + (n_samples + 2 * config.mel.margin_samples - config.mel.n_fft) // config.mel.hop_samples
    assert n_moments(config, n_samples) == max(1, frames // config.patch_frames)
    assert len(times) == n_moments(config, n_samples, tail)
    assert times[-1] <= n_samples / 16
    assert times[0] == min(centre_ms(config, 0), n_samples / 16)
    step_ms = config.patch_frames * config.mel.hop_samples / 16
    torch.testing.assert_close(times.diff(), torch.full((len(times) - 1,), step_ms))


@pytest.mark.parametrize(
    ("name", "first_ms", "step_ms"),
    [("released", 15, 40), ("square patches", 75, 160), ("not centred", 31, 40), ("all at once", 75.75, 100)],
)
def test_known_timestamps(name, first_ms, step_ms):
    config = config_of_kwargs(SIZE | OPTIONS[name])
    assert timestamps_ms(config, 16_000)[:3].tolist() == [
        first_ms,
        first_ms + step_ms,
        first_ms + 2 * step_ms,
    ]


@pytest.mark.parametrize(
    "name", ["square patches, short windows", "not centred", "one frame a patch", "all at once"]
)
def test_lengths_make_padding_invisible(name):
    torch.manual_seed(0)
    model = HearModel(Encoder(config_of_kwargs(SIZE | OPTIONS[name])))
    lengths = [60_000, 57_000, 1, 300, 25_000]
    padded = noise(5, 4)
    tokens, times = get_timestamp_embeddings(padded, model, lengths)
    scenes = get_scene_embeddings(padded, model, lengths)
    for index, length in enumerate(lengths):
        clip = padded[index : index + 1, :length]
        alone, alone_times = get_timestamp_embeddings(clip, model)
        count = alone.shape[1]
        assert alone.shape[2] == 48
        assert alone.isfinite().all()
        assert scaled_error(tokens[index, :count], alone[0]) <= 1e-5
        assert torch.equal(times[index, :count], alone_times[0])
        assert times[index, count:].isnan().all()
        assert scaled_error(scenes[index], alone[0].mean(0)) <= 1e-5


@pytest.mark.parametrize(("top_db", "silence_db"), [(40, -60), (None, -100)])
def test_a_completed_tail_is_silent_under_the_clips_own_floor(top_db, silence_db):
    config = config_of_kwargs(SIZE | {"top_db": top_db})
    fitted = fit_to_moments(config, torch.full((64, 7), -20.0), 2)
    assert (fitted[:, 7] == silence_db).all()
