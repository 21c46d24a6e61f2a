"""Lists of files: any format, rate, channel count and length, as if each were alone."""

import numpy as np
import pytest
import soundfile
import torch
from conftest import noise, scaled_error

from hear_dasheng import embed_files, get_scene_embeddings, get_timestamp_embeddings
from hear_dasheng.audio import read_audio
from hear_dasheng.embed_files import scene_embeddings_of_files, timestamp_embeddings_of_files


@pytest.fixture
def paths(tmp_path):
    """Seven clips between 0.3 and 12 s."""
    found = []
    for index, seconds in enumerate([0.3, 12, 1, 0.9, 10.5, 2, 5]):
        path = tmp_path / f"{index}.{'flac' if index % 2 else 'wav'}"
        soundfile.write(path, noise(1, seconds, index)[0].numpy(), 16_000)
        found.append(path)
    return found


@pytest.mark.parametrize("group_s", [1.0, 300.0])
def test_files_are_embedded_as_if_alone(tiny_model, paths, monkeypatch, group_s):
    monkeypatch.setattr(embed_files, "GROUP_S", group_s)
    scenes = scene_embeddings_of_files(paths, tiny_model, progress=False)
    tokens = list(timestamp_embeddings_of_files(paths, tiny_model, progress=False))
    assert scenes.shape == (7, 192)
    assert len(tokens) == 7
    for path, scene, (embeddings, times) in zip(paths, scenes, tokens, strict=True):
        clip = torch.from_numpy(read_audio(path))[None]
        alone, alone_times = get_timestamp_embeddings(clip, tiny_model)
        assert scaled_error(torch.from_numpy(scene), get_scene_embeddings(clip, tiny_model)[0]) <= 1e-5
        assert scaled_error(torch.from_numpy(embeddings), alone[0]) <= 1e-5
        assert np.array_equal(times, alone_times[0])


def test_the_bar_shows_files(tiny_model, paths, capsys):
    scene_embeddings_of_files(paths, tiny_model)
    assert "7/7" in capsys.readouterr().err


def test_no_files_give_no_embeddings(tiny_model):
    assert scene_embeddings_of_files([], tiny_model, progress=False).shape == (0, 192)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_any_format_rate_and_channels_become_16_khz_mono(tmp_path, suffix, rate_hz):
    tone = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(rate_hz) / rate_hz)
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.stack([tone, 0.5 * tone], 1), rate_hz)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 16_000) <= 1_200  # mp3 pads its frames
    middle = samples[4_000:12_000]
    assert np.abs(np.fft.rfft(middle)).argmax() * 2 == 1_000
    assert middle.std() == pytest.approx(0.375 / np.sqrt(2), rel=0.03)


def test_unreadable_files_are_named(tiny_model, tmp_path, paths):
    (tmp_path / "page.wav").write_text("<html>")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan], np.float32), 16_000, subtype="FLOAT")
    for name, message in {
        "page.wav": "cannot decode .*page.wav",
        "empty.wav": "empty.wav holds no samples",
        "nan.wav": "nan.wav: audio holds nan",
        "gone.wav": "no audio file at .*gone.wav",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            scene_embeddings_of_files([*paths[:2], tmp_path / name], tiny_model, progress=False)


def test_one_path_is_not_a_list_but_a_generator_is(tiny_model, paths):
    with pytest.raises(TypeError, match=r"give a list of paths, not one: \['clip.wav'\]"):
        scene_embeddings_of_files("clip.wav", tiny_model)
    assert scene_embeddings_of_files(iter(paths[:2]), tiny_model, progress=False).shape == (2, 192)
