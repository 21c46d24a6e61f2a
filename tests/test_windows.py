"""Tokens, timestamps and batches: arithmetic that must hold for every length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.windows import encode_clips, fit_to_moments, n_moments, plan_batches, timestamps_ms

RELEASED = EncoderConfig.of_size("base")
samples = st.integers(1, 20 * 60 * 16_000)


@given(samples)
def test_dropping_counts_as_the_published_package(n_samples):
    frames = 1 + n_samples // 160
    assert n_moments(RELEASED, n_samples) == max(1, frames // 4)


@given(samples, st.sampled_from(["drop", "pad"]))
def test_timestamps_are_regular_centres_within_the_clip(n_samples, tail):
    times = timestamps_ms(RELEASED, n_samples, tail)
    assert times.dtype == torch.float32
    assert len(times) == n_moments(RELEASED, n_samples, tail)
    assert times[0] == min(15.0, n_samples / 16)
    assert (times.diff() == 40).all()
    assert times[-1] <= n_samples / 16


@given(samples)
def test_padding_the_tail_leaves_less_than_a_token_uncovered(n_samples):
    assert n_samples / 16 - timestamps_ms(RELEASED, n_samples, "pad")[-1] <= 40


@given(st.lists(st.integers(1, 900), min_size=1, max_size=20), st.integers(1, 252), st.integers(1, 2_000))
def test_batches_hold_every_moment_once_within_the_budget(counts, window_moments, batch_moments):
    seen = [[False] * count for count in counts]
    for batch in plan_batches(counts, window_moments, batch_moments):
        longest = max(window.moments for window in batch)
        assert longest <= window_moments
        assert len(batch) == 1 or len(batch) * longest <= batch_moments
        for window in batch:
            assert window.first % window_moments == 0
            for moment in range(window.first, window.first + window.moments):
                assert not seen[window.clip][moment]
                seen[window.clip][moment] = True
    assert all(map(all, seen))


def test_a_missing_tail_becomes_silence_under_the_clips_own_floor():
    mel = torch.full((64, 7), -20.0)
    fitted = fit_to_moments(RELEASED, mel, 2)
    assert fitted.shape == (64, 8)
    assert (fitted[:, :7] == -20).all()
    assert (fitted[:, 7] == -100).all()
    assert (fit_to_moments(RELEASED, mel + 70, 2)[:, 7] == -70).all()
    assert fit_to_moments(RELEASED, mel, 1).shape == (64, 4)


def test_windows_restart_their_positions():
    class Positions(Encoder):
        """Answers each token with its position in the window."""

        def forward(self, mel, is_valid, layers):
            return torch.arange(mel.shape[2] // 4).float()[None, :, None].expand(len(mel), -1, 1)

    encoder = Positions(EncoderConfig(dim=1, depth=1, heads=1, window_moments=5))
    mels = [torch.zeros(64, 4 * count) for count in (12, 3)]
    long, short = encode_clips(encoder, mels, (-1,), 10)
    assert long[:, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert short[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("n_samples", "tokens"), [(1, 1), (480, 1), (639, 1), (1_120, 2), (161_280, 252)])
def test_known_token_counts(n_samples, tokens):
    assert n_moments(RELEASED, n_samples) == tokens
