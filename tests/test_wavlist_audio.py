"""Transcoding on the way into a shard, against soxr and soundfile used plainly."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from wavlist_cases import run, samples_of, write_table

from pretrain.packing.transcode import (
    BLOCK_SAMPLES,
    Audio,
    Job,
    Target,
    audio_for_shard,
    encode,
    with_fixed_serial,
)

HALF_STEP = 0.5 / 32768 + 1e-7


def stereo(seconds: float = 2.0, rate_hz: int = 44_100) -> np.ndarray:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = 0.05 * np.random.default_rng(0).normal(size=len(time_s))
    return np.stack(
        [0.6 * np.sin(2 * np.pi * 440 * time_s) + noise, 0.2 * np.cos(2 * np.pi * 1_000 * time_s)], 1
    )


def audio_of(path: Path, **target) -> Audio | str:
    return audio_for_shard(Job(str(path), path.parent, Target(**target)))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("rate_hz", [16_000, 48_000, None])
def test_samples_are_soxrs_of_the_mean_channel(tmp_path, suffix, rate_hz):
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, stereo(), 44_100)
    audio = audio_of(path, rate_hz=rate_hz, format="flac")
    samples, written_rate_hz = soundfile.read(io.BytesIO(audio.content), always_2d=True)
    oracle = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    if rate_hz:
        oracle = soxr.resample(oracle, 44_100, rate_hz, quality="VHQ")
    assert (written_rate_hz, samples.shape) == (rate_hz or 44_100, (len(oracle), 1))
    assert np.abs(samples[:, 0] - oracle).max() <= HALF_STEP
    assert audio.seconds == len(oracle) / written_rate_hz
    assert soundfile.info(io.BytesIO(audio.content)).subtype == "PCM_16"


@pytest.mark.parametrize("file_format", ["flac", "wav", "ogg", "mp3"])
def test_each_format_holds_what_it_was_given_in_the_same_bytes_each_time(file_format):
    samples = stereo(3 * BLOCK_SAMPLES / 16_000, 16_000)[:, 0].astype(np.float32)
    encoded = encode(samples, 16_000, file_format)
    assert encoded == encode(samples, 16_000, file_format)
    decoded, rate_hz = soundfile.read(io.BytesIO(encoded))
    assert rate_hz == 16_000
    assert len(decoded) == len(samples)
    assert np.corrcoef(decoded, samples)[0, 1] > 0.98
    assert soundfile.info(io.BytesIO(encoded)).format.lower() == file_format


def test_the_serial_number_leaves_an_ogg_intact():
    """Vorbis pages with a wrong checksum would be skipped by the decoder."""
    buffer = io.BytesIO()
    soundfile.write(buffer, stereo(5), 44_100, format="OGG")
    fixed = with_fixed_serial(buffer.getvalue())
    assert np.array_equal(
        soundfile.read(io.BytesIO(fixed))[0], soundfile.read(io.BytesIO(buffer.getvalue()))[0]
    )
    broken = bytearray(fixed)
    broken[-40] ^= 1
    assert len(soundfile.read(io.BytesIO(bytes(broken)))[0]) < 5 * 44_100
    serial_before = buffer.getvalue()[14:18]
    assert with_fixed_serial(fixed) == fixed
    assert fixed[14:18] == struct.pack("<I", 1) != serial_before


@pytest.mark.parametrize("file_format", ["flac", "wav"])
def test_overshoot_is_clipped_and_never_wraps(tmp_path, file_format):
    square = np.sign(np.sin(2 * np.pi * 441 * np.arange(44_100) / 44_100 + 0.1))
    soundfile.write(tmp_path / "square.wav", square, 44_100, subtype="FLOAT")
    oracle = soxr.resample(square.astype(np.float32), 44_100, 16_000, quality="VHQ")
    assert np.abs(oracle).max() > 1.05  # Gibbs
    audio = audio_of(tmp_path / "square.wav", rate_hz=16_000, format=file_format)
    samples = soundfile.read(io.BytesIO(audio.content))[0]
    assert np.abs(samples - np.clip(oracle, -1, 1)).max() <= 1 / 32768 + 1e-7


def test_a_flac_that_does_not_state_its_length_is_used(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, stereo(1)[:, 0], 44_100, format="FLAC")
    unstated = bytearray(buffer.getvalue())
    unstated[21] &= 0xF0
    unstated[22:26] = bytes(4)  # STREAMINFO's 36-bit number of samples
    (tmp_path / "stream.flac").write_bytes(unstated)
    assert audio_of(tmp_path / "stream.flac") == Audio(bytes(unstated), "flac", 1.0)
    assert audio_of(tmp_path / "stream.flac", rate_hz=44_100).seconds == 1.0


def test_damage_is_found_where_the_audio_is_decoded(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, stereo(), 44_100, format="FLAC")
    (tmp_path / "cut.flac").write_bytes(buffer.getvalue()[:50_000])
    assert audio_of(tmp_path / "cut.flac").seconds == 2.0  # as its header states
    assert audio_of(tmp_path / "cut.flac", rate_hz=16_000).startswith("not readable as audio: ")


@pytest.mark.parametrize(
    ("samples", "rate_hz", "reason"),
    [
        ([0.0, np.nan], 16_000, "holds samples that are not finite"),
        ([0.0, np.inf], 16_000, "holds samples that are not finite"),
        ([0.0, -30_000.0], 16_000, "not scaled to [-1, 1]: its peak is 30000"),
        ([0.1], 1_000_000, "holds no samples"),
    ],
)
def test_samples_that_cannot_be_audio_are_rejected(tmp_path, samples, rate_hz, reason):
    soundfile.write(tmp_path / "clip.wav", np.array(samples, np.float32), rate_hz, subtype="FLOAT")
    assert audio_of(tmp_path / "clip.wav", rate_hz=22_050) == reason


@pytest.mark.parametrize("rate_hz", [1, 999, 1_000_001, 2**31 - 1])
@pytest.mark.parametrize("target", [{}, {"rate_hz": 999}, {"rate_hz": 22_050}, {"format": "flac"}])
def test_rates_that_no_audio_has_are_rejected_whether_transcoded_or_not(tmp_path, rate_hz, target):
    soundfile.write(tmp_path / "clip.wav", np.zeros(10), rate_hz)
    expected = f"its header states a sample rate of {rate_hz} Hz; possible are 1000 to 1000000 Hz"
    assert audio_of(tmp_path / "clip.wav", **target) == expected


def test_a_rate_that_the_encoder_would_crash_on_is_rejected(tmp_path):
    soundfile.write(tmp_path / "bats.wav", np.zeros(100), 400_000)
    assert audio_of(tmp_path / "bats.wav", format="ogg").startswith("cannot be written at 400000 Hz")


@pytest.mark.parametrize(
    ("flags", "suffix", "rate_hz"),
    [
        (["--rate", 16_000], "flac", 16_000),
        (["--rate", 8_000, "--format", "wav"], "wav", 8_000),
        (["--format", "ogg"], "ogg", 44_100),
        ([], "wav", 44_100),
    ],
)
def test_the_flags_reach_the_shards(tmp_path, flags, suffix, rate_hz):
    soundfile.write(tmp_path / "a.wav", stereo(0.3), 44_100)
    listed = write_table(tmp_path / "list.tsv", {"filename": [str(tmp_path / "a.wav")]})
    assert run(listed, tmp_path / "out", "-n", 1, *flags)[0] == 0
    (sample,) = samples_of(tmp_path / "out")
    info = soundfile.info(io.BytesIO(sample[suffix]))
    assert (info.samplerate, info.channels) == (rate_hz, 1 if flags else 2)
