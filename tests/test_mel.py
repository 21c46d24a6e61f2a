"""The front end against torchaudio, known answers, and its own borders."""

import pytest
import torch
import torchaudio
from conftest import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from hear_dasheng.mel import CHUNK_FRAMES, RELEASED_MEL, LogMel, MelConfig, htk_filter_bank


@pytest.fixture(scope="module")
def torchaudio_log_mel():
    mel = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=512, win_length=512, hop_length=160, f_min=0, f_max=8_000, n_mels=64
    )
    return torch.nn.Sequential(mel, torchaudio.transforms.AmplitudeToDB(top_db=120))


def test_filter_bank_equals_torchaudio():
    theirs = torchaudio.functional.melscale_fbanks(257, 0.0, 8_000.0, 64, 16_000, norm=None, mel_scale="htk")
    torch.testing.assert_close(htk_filter_bank(), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seconds", [0.03, 0.5, 1.98, 10, 25])
def test_equals_torchaudio_within_a_millibel(torchaudio_log_mel, seconds):
    audio = noise(1, seconds)
    torch.testing.assert_close(LogMel()(audio), torchaudio_log_mel(audio), atol=1e-3, rtol=0)


@settings(max_examples=20, deadline=None)
@given(n_samples=st.integers(480, 40_000), seed=st.integers(0, 99))
def test_equals_torchaudio_at_any_length(torchaudio_log_mel, n_samples, seed):
    audio = noise(1, n_samples / 16_000, seed)
    ours = LogMel()(audio)
    assert ours.shape == (1, 64, RELEASED_MEL.n_frames(audio.shape[1]))
    torch.testing.assert_close(ours, torchaudio_log_mel(audio), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        MelConfig(n_fft=1_024, win_samples=400, hop_samples=100),
        MelConfig(n_fft=513, win_samples=511, hop_samples=700),
        MelConfig(n_mels=40, f_min_hz=50, f_max_hz=7_000.5),
        MelConfig(is_centred=False, top_db=40),
        MelConfig(n_fft=2_048, n_mels=128, win_samples=800, is_centred=False, top_db=None),
    ],
    ids=str,
)
def test_other_front_ends_equal_torchaudio(config):
    theirs = torchaudio.transforms.MelSpectrogram(
        16_000,
        n_fft=config.n_fft,
        win_length=config.win_samples,
        hop_length=config.hop_samples,
        f_min=config.f_min_hz,
        f_max=config.f_max_hz,
        n_mels=config.n_mels,
        center=config.is_centred,
    )
    for n_samples in (config.min_samples(4), 16_000, 400_001):
        audio = noise(1, n_samples / 16_000)
        ours = LogMel(config)(audio)
        assert ours.shape[2] == config.n_frames(n_samples)
        expected = torchaudio.transforms.AmplitudeToDB(top_db=config.top_db)(theirs(audio))
        torch.testing.assert_close(ours, expected, atol=1e-3, rtol=0)
    assert LogMel(config)(noise(1, 1e-4)).shape[2] >= 4
    assert config.n_frames(config.min_samples(40)) == 40
    assert config.n_frames(config.min_samples(40) - 1) == 39


def test_chunks_leave_no_seam(monkeypatch):
    audio = noise(2, 3)
    whole = LogMel()(audio)
    monkeypatch.setattr("hear_dasheng.mel.CHUNK_FRAMES", 7)
    torch.testing.assert_close(LogMel()(audio), whole, atol=1e-4, rtol=0)
    assert RELEASED_MEL.n_frames(audio.shape[1]) < CHUNK_FRAMES


@pytest.mark.parametrize("frequency_hz", [300, 1_000, 3_000])
def test_a_tone_is_loudest_in_the_band_around_it(frequency_hz):
    time_s = torch.arange(16_000) / 16_000
    levels = LogMel()(torch.sin(2 * torch.pi * frequency_hz * time_s)[None])[0].mean(1)
    centres_hz = htk_filter_bank().argmax(0) * 16_000 / 512
    assert abs(centres_hz[levels.argmax()] - frequency_hz) < 120


def test_the_floor_is_120_db_under_each_clips_own_maximum():
    loud, quiet = torch.zeros(2, 16_000)
    loud[:400], quiet[:400] = 1.0, 1e-4
    both = LogMel()(torch.stack([loud, quiet]))
    assert both[0].min() == both[0].max() - 120
    torch.testing.assert_close(both[1], LogMel()(quiet[None])[0], atol=1e-4, rtol=0)
    assert both[1].min() < both[0].min()


def test_silence_is_minus_100_db():
    assert (LogMel()(torch.zeros(1, 1_600)) == -100).all()
