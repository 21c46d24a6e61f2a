"""WAVE files that hold less than their headers promise, and what is no such file."""

import io
import struct

import dataset_layouts as layouts
import numpy as np
import pytest
import soundfile
from knn_cases import call, result_in
from tagging_cases import invoke
from wavlist_cases import rejects_of, run, samples_of, write_table

from eval_recipes.embedding.clips import ClipProblem, clips_of
from whole_audio import SLACK_BYTES, shortfall

RATE_HZ = 16_000
CUT = "holds 0.008 s of the 1 s that its header promises"


def encoded(
    subtype: str = "PCM_16", file_format: str = "WAV", endian: str = "FILE", seconds: int = 1
) -> bytes:
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE_HZ * seconds)
    written = io.BytesIO()
    soundfile.write(written, noise, RATE_HZ, subtype, endian, file_format)
    return written.getvalue()


def wave(*chunks: tuple[bytes, int, bytes], magic: bytes = b"RIFF") -> bytes:
    """A file by hand: names, stated sizes and contents of chunks."""
    body = b"".join(name + struct.pack("<I", size) + content for name, size, content in chunks)
    return magic + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + body


def data_at(content: bytes) -> int:
    return content.index(b"data") + 8


FORM = (b"fmt ", 16, struct.pack("<HHIIHH", 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16))
HELD = bytes(256)


@pytest.mark.parametrize(
    ("options", "sample_bytes"),
    [
        ({"subtype": "PCM_16"}, 2),
        ({"subtype": "PCM_24"}, 3),
        ({"subtype": "FLOAT"}, 4),
        ({"subtype": "ULAW"}, 1),
        ({"file_format": "WAVEX"}, 2),
        ({"file_format": "RF64"}, 2),
        ({"endian": "BIG"}, 2),
    ],
    ids=str,
)
def test_a_cut_file_is_told_as_what_it_holds(options, sample_bytes, tmp_path):
    whole = encoded(**options)
    cut = whole[: data_at(whole) + sample_bytes * RATE_HZ * 8 // 1000]
    assert shortfall(whole) == ""
    assert shortfall(cut) == CUT
    (tmp_path / "cut.wav").write_bytes(cut)
    assert shortfall(tmp_path / "cut.wav") == CUT


def test_compressed_blocks_are_told_in_seconds_too():
    whole = encoded("IMA_ADPCM", seconds=2)
    cut = whole[: data_at(whole) + (len(whole) - data_at(whole)) // 2]
    assert shortfall(whole) == ""
    held, promised = (
        shortfall(cut).removeprefix("holds ").removesuffix(" that its header promises").split(" s of the ")
    )
    assert float(held) == pytest.approx(1, abs=0.02)
    assert float(promised.removesuffix(" s")) == pytest.approx(2, abs=0.05)


def test_chunks_before_the_data_and_of_odd_sizes_are_passed_over():
    note = (b"note", 3, b"abc\0")
    assert shortfall(wave(FORM, note, (b"data", 32_000, HELD))) == CUT
    assert shortfall(wave(FORM, note, (b"data", 256, HELD))) == ""
    assert shortfall(wave(FORM, (b"data", 255, HELD[:255]))) == ""  # without the byte that should follow
    assert shortfall(wave(FORM, (b"data", 256, HELD), (b"LIST", 400, b""))) == ""
    assert shortfall(wave(FORM, note)) == ""


@pytest.mark.parametrize(
    "size", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x80000000, 0x7FFFF000], ids=hex
)
def test_a_stream_promises_nothing(size):
    assert shortfall(wave(FORM, (b"data", size, HELD))) == ""


@pytest.mark.parametrize(
    ("n_bytes", "told"), [(32_000, CUT), (256, ""), (0, ""), (2**64 - 1, ""), (2**33, "holds 0.008 s")]
)
def test_the_long_header_tells_the_size_of_the_data(n_bytes, told):
    sizes = (b"ds64", 28, struct.pack("<QQQI", 0, n_bytes, 0, 0))
    found = shortfall(wave(sizes, FORM, (b"data", 0xFFFFFFFF, HELD), magic=b"RF64"))
    assert found.startswith(told)
    assert bool(found) == bool(told)


def test_a_header_that_counts_itself_is_no_cut():
    assert shortfall(wave(FORM, (b"data", 256 + SLACK_BYTES, HELD))) == ""
    assert shortfall(wave(FORM, (b"data", 256 + SLACK_BYTES + 1, HELD)))


def test_what_looks_the_same_in_seconds_is_told_in_bytes():
    fast = (b"fmt ", 16, struct.pack("<HHIIHH", 1, 2, 192_000, 0, 8, 32))
    told = "holds 256 of the 356 bytes of audio that its header promises"
    assert shortfall(wave(fast, (b"data", 356, HELD))) == told
    assert shortfall(wave((b"data", 356, HELD))) == told


@pytest.mark.parametrize("file_format", ["FLAC", "OGG", "MP3", "AIFF"])
def test_other_formats_are_left_alone(file_format):
    content = encoded({"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(file_format, "PCM_16"), file_format)
    for part in (content, content[: len(content) // 2], b"", b"RIFF", b"RIFF\0\0\0\0WAVEdata"):
        assert shortfall(part) == ""


@pytest.fixture
def tones(tmp_path):
    """Three classes of tones, of which one file is cut."""
    tones = layouts.tones_per_class(tmp_path / "tones", 5)
    (tones / "low/0.wav").write_bytes(encoded()[:300])
    return tones


@pytest.mark.usefixtures("one_thread")
def test_neighbours_are_not_sought_for_cut_clips(tones, tmp_path):
    options = ("--dataset", "folder", "--data", tones, "--out", tmp_path / "knn", "--k", "2")
    failed = call(*options)
    assert failed.exit_code == 1
    assert f"15 clips, 1 that cannot be read: low/0.wav ({CUT})" in failed.output
    ran = call(*options, "--allow-incomplete")
    assert ran.exit_code == 0, ran.output
    assert result_in(ran.stdout)["left_out"] == {"low/0.wav": CUT}


def test_a_task_with_a_cut_clip_is_refused(tones):
    with pytest.raises(ClipProblem, match=rf"low/0\.wav is cut short: it {CUT}; get that file anew"):
        clips_of([tones / "low/1.wav", tones / "low/0.wav"])


@pytest.mark.parametrize("options", [(), ("--rate", "8000")], ids=["untouched", "transcoded"])
def test_cut_files_go_into_no_shard(tones, tmp_path, options):
    files = [str(tones / "low/0.wav"), str(tones / "low/1.wav")]
    write_table(tmp_path / "list.tsv", {"filename": files})
    run(tmp_path / "list.tsv", tmp_path / "out", *options)
    assert len(samples_of(tmp_path / "out")) == 1
    assert [reason for _, reason in rejects_of(tmp_path / "out").values()] == [f"cut short: {CUT}"]


@pytest.mark.usefixtures("one_thread")
def test_tags_of_a_cut_file_come_with_a_warning(sound_folder, fitted_checkpoint):
    (sound_folder / "cut.wav").write_bytes(encoded()[:300])
    result = invoke("short.wav", "cut.wav", "--model", fitted_checkpoint)
    assert result.exit_code == 0, result.output
    assert "cut.wav  (0:00.0)" in result.stdout
    assert result.stderr.count("warning:") == 1
    assert f"warning: cut.wav is cut short: it {CUT}" in result.stderr
