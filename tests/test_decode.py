"""Audio files in every form become the right crops, or a reason."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
import torch
from dasheng.train.audiowebdataset import crop_or_pad
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_cases import CHUNK, RATE_HZ, encoded, noise

from hear_dasheng.audio import read_audio
from pretrain.reading.decode import UnusableAudio, decode_crops


def crops_of(data: bytes, chunk_samples: int = CHUNK) -> np.ndarray:
    return np.stack(list(decode_crops(data, chunk_samples, RATE_HZ)))


def crops_before_fault(data: bytes, chunk_samples: int = CHUNK) -> tuple[int, str]:
    """How many crops come before the file fails, and for which reason."""
    n_crops = 0
    try:
        for _ in decode_crops(data, chunk_samples, RATE_HZ):
            n_crops += 1
    except UnusableAudio as fault:
        return n_crops, fault.reason
    pytest.fail(f"{n_crops} crops and no fault")


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (16_000, 3), (48_000, 2), (11_025, 1)])
def test_crops_are_what_read_audio_reads(kind, rate_hz, channels, tmp_path):
    if kind == "mp3" and channels > 2:
        channels = 2
    data = encoded(noise(round(1.3 * rate_hz), channels=channels), kind, rate_hz)
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(data)
    expected = read_audio(path)
    crops = crops_of(data, 4000)
    assert crops.dtype == np.float32
    assert len(crops) == len(expected) // 4000 >= 5
    # soundfile.read seeks once, which changes an mp3 decoder's last bit
    tolerance = 1e-6 if kind == "mp3" else 1e-7 if channels == 3 else 0
    np.testing.assert_allclose(crops.reshape(-1), expected[: crops.size], rtol=0, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(n_samples=st.integers(1, 1000), chunk_samples=st.integers(1, 400))
def test_crops_are_those_of_the_published_trainer(n_samples, chunk_samples):
    samples = noise(n_samples)
    published = crop_or_pad(torch.from_numpy(samples[:, 0]), chunk_samples)
    expected = torch.stack(list(published)).numpy()
    np.testing.assert_array_equal(crops_of(encoded(samples), chunk_samples), expected)


def test_short_file_is_filled_up_with_zeros():
    samples = noise(100)[:, 0]
    (crop,) = crops_of(encoded(samples))
    np.testing.assert_array_equal(crop[:100], samples)
    assert not crop[100:].any()
    assert len(crop) == CHUNK


def test_channels_are_averaged():
    stereo = np.stack([noise(CHUNK, 1)[:, 0], noise(CHUNK, 2)[:, 0]], axis=1)
    np.testing.assert_array_equal(crops_of(encoded(stereo))[0], stereo.mean(axis=1))


def test_content_counts_not_the_suffix():
    """Members are told apart by their first bytes; callers pass no name."""
    assert len(crops_of(encoded(noise(CHUNK), "wav"))) == len(crops_of(encoded(noise(CHUNK), "ogg"))) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (encoded(noise(0), "wav"), "empty"),
        (encoded(noise(0), "flac"), "empty"),
        (b"no audio at all", "undecodable"),
        (encoded(noise(CHUNK))[:60], "undecodable"),
        (encoded(np.full(CHUNK, np.nan), "wav", subtype="FLOAT"), "not finite"),
        (encoded(np.full(CHUNK, np.inf), "wav", subtype="FLOAT"), "not finite"),
        (encoded(np.full(CHUNK, -8000.0), "wav", subtype="FLOAT"), "not scaled"),
    ],
)
def test_unusable_files_have_a_reason(data, reason):
    assert crops_before_fault(data) == (0, reason)


def test_crops_before_a_fault_are_used():
    whole = encoded(noise(40_000))
    n_crops, reason = crops_before_fault(whole[: len(whole) // 2])
    assert reason == "undecodable"
    assert 100 < n_crops < 125  # of 250; FLAC's frames are 4096 samples

    spoilt = noise(10 * CHUNK)[:, 0]
    spoilt[7 * CHUNK + 3] = np.nan
    assert crops_before_fault(encoded(spoilt, "wav", subtype="FLOAT")) == (7, "not finite")


def test_remainder_of_a_cut_file_is_dropped():
    """Its header promises more."""
    samples = noise(RATE_HZ)
    whole = encoded(samples, "mp3")
    crops = crops_of(whole[: len(whole) * 2 // 3], 4000)
    assert len(crops) == 2
    np.testing.assert_array_equal(crops, crops_of(whole, 4000)[:2])


@pytest.mark.parametrize("rate_hz", [1_979_727_488, 1, 0])
def test_absurd_sample_rates_are_refused(rate_hz):
    data = bytearray(encoded(noise(4000), "wav"))
    struct.pack_into("<I", data, 24, rate_hz)
    assert crops_before_fault(bytes(data)) == (0, "undecodable")


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_damaged_files_give_crops_or_a_reason(kind):
    rng = np.random.default_rng(0)
    whole = encoded(noise(8000, channels=2), kind)
    n_faults = 0
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, rng.choice([100, len(data)]), rng.integers(1, 20)):
            data[place % len(data)] = rng.integers(256)
        try:
            for crop in decode_crops(bytes(data[: rng.integers(1, len(data))]), CHUNK, RATE_HZ):
                assert crop.shape == (CHUNK,)
                assert np.isfinite(crop).all()
        except UnusableAudio:
            n_faults += 1
    assert n_faults


def test_long_recordings_need_little_memory():
    """Twenty minutes at another rate: 77 MB when decoded at once."""
    data = encoded(np.zeros(20 * 60 * 8000, np.int16), "wav", 8000)
    tracemalloc.start()
    n_crops = sum(1 for _ in decode_crops(data, RATE_HZ, RATE_HZ))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_crops == 20 * 60
    assert peak < len(data) + 1e6  # BytesIO copies nothing, so not even that


def test_remainder_is_not_decoded():
    data = encoded(noise(19 * 4096), "flac")
    cut = data[: len(data) * 3 // 4]
    assert crops_before_fault(cut, 4096) == (14, "undecodable")
    np.testing.assert_array_equal(crops_of(cut, 10 * 4096), crops_of(data, 10 * 4096))
