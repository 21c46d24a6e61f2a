"""Long files: decoded in blocks, their log-mel in windows, as if all at once; and the shortest ones."""

import numpy as np
import pytest
import torch
from tagging_cases import write

from hear_dasheng.audio import read_audio
from hear_dasheng.audio_stream import audio_blocks
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.mel import MIN_DB, LogMel, MelConfig
from hear_dasheng.mel_stream import MelStream

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(("name", "channels"), [("a.wav", 1), ("a.flac", 2), ("a.ogg", 2)])
def test_blocks_of_a_file_are_the_whole_file(tmp_path, rate, name, channels):
    samples = 0.1 * np.random.default_rng(0).standard_normal((round(rate * 61.7), channels))
    path = write(tmp_path / name, samples, rate)
    blocks = list(audio_blocks(path))
    assert len(blocks) >= 2
    assert np.array_equal(np.concatenate(blocks), read_audio(path))


@pytest.mark.parametrize("seconds", [0.001, 1, 30, 60])
def test_short_files_and_whole_numbers_of_blocks(tmp_path, seconds):
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(16_000 * seconds))
    path = write(tmp_path / "a.wav", samples)
    assert np.array_equal(np.concatenate(list(audio_blocks(path))), read_audio(path))


@pytest.mark.parametrize(("rate", "n_samples", "left"), [(48_000, 2, 1), (8_000, 1, 2), (16_000, 1, 1)])
def test_the_shortest_files_are_audio(tmp_path, rate, n_samples, left):
    path = write(tmp_path / "a.wav", np.full(n_samples, 0.5), rate)
    assert len(read_audio(path)) == left
    assert np.array_equal(np.concatenate(list(audio_blocks(path))), read_audio(path))


@pytest.mark.parametrize(("rate", "n_samples"), [(48_000, 1), (44_100, 1), (96_000, 2)])
def test_a_file_of_which_nothing_is_left_at_the_models_rate_is_told(tmp_path, rate, n_samples):
    path = write(tmp_path / "a.wav", np.full(n_samples, 0.5), rate)
    message = rf"a\.wav is too short: of its {n_samples} sample\(s\) at {rate} Hz none is left at 16000 Hz"
    for read in (read_audio, lambda path: list(audio_blocks(path))):
        with pytest.raises(ValueError, match=message):
            read(path)


def test_folders_and_files_without_samples_are_told(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros(0))
    for read in (read_audio, lambda path: list(audio_blocks(path))):
        with pytest.raises(ValueError, match=r"a\.wav holds no samples"):
            read(path)
        with pytest.raises(
            FileNotFoundError, match=r"is a folder; name the audio files in it, e\.g\. .*\*\.wav"
        ):
            read(tmp_path)
        with pytest.raises(FileNotFoundError, match="no audio file at gone"):
            read("gone.wav")


CONFIGS = {
    "released": EncoderConfig.of_size("tiny"),
    "not centred": EncoderConfig(32, 1, 2, mel=MelConfig(is_centred=False)),
    "long hop": EncoderConfig(32, 1, 2, mel=MelConfig(hop_samples=400)),
    "no floor": EncoderConfig(32, 1, 2, mel=MelConfig(top_db=None)),
    "small patches": EncoderConfig(32, 1, 2, patch_mels=16, patch_frames=16, window_moments=30),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("tail", ["drop", "pad"])
@pytest.mark.parametrize("n_samples", [1, 300, 480, 16_000, 161_280, 200_123])
def test_windows_of_a_stream_are_the_log_mel_of_the_whole(name, tail, n_samples, monkeypatch):
    config = CONFIGS[name]
    generator = torch.Generator().manual_seed(n_samples)
    clip = torch.randn(n_samples, generator=generator)
    clip[n_samples // 2 :] = 0  # so that the floor matters
    log_mel = LogMel(config.mel, config.patch_frames)
    expected = log_mel(clip[None])[0]
    calls = []

    def blocks():
        calls.append(1)
        return iter(np.split(clip.numpy(), range(7_000, n_samples, 7_000)))

    for kept, passes in ((60_000, 1), (0, 2)):
        monkeypatch.setattr("hear_dasheng.mel_stream.KEPT_FRAMES", kept)
        calls.clear()
        stream = MelStream(log_mel, config, blocks, tail)
        windows = list(stream.windows())
        assert len(calls) == passes
        assert stream.n_samples == n_samples
        sizes = [window.shape[1] // config.patch_frames for window in windows]
        assert sum(sizes) == stream.moments
        assert set(sizes[:-1]) <= {config.window_moments}
        ours = torch.cat(windows, dim=1)
        shared = min(ours.shape[1], expected.shape[1])
        padding = ours[:, shared:]
        assert padding.shape[1] < config.patch_frames
        assert (ours[:, :shared] - expected[:, :shared]).abs().max() <= 1e-3
        assert padding.shape[1] == max(0, stream.moments * config.patch_frames - expected.shape[1])
        floor_db = MIN_DB if config.mel.top_db is None else expected.max() - config.mel.top_db
        assert (padding - max(floor_db, MIN_DB)).abs().sum() <= 1e-3 * padding.numel()


def test_a_clip_that_shrinks_meanwhile_is_an_error(monkeypatch):
    monkeypatch.setattr("hear_dasheng.mel_stream.KEPT_FRAMES", 0)
    config = EncoderConfig.of_size("tiny")
    lengths = iter([32_000, 16_000])
    stream = MelStream(LogMel(), config, lambda: iter([np.ones(next(lengths), np.float32)]))
    with pytest.raises(ValueError, match="became shorter"):
        list(stream.windows())
