"""Members of shards that claim or hold too much are skipped and counted, in bounded memory."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from shard_cases import CHUNK, RATE_HZ, clip, crop_batches, keys_of, write_tar

from pretrain.reading import tar_members
from pretrain.reading.clip_labels import ClipLabels, LabelColumn
from pretrain.reading.count_crops import count_crops
from pretrain.reading.count_labels import CLIPS, count_labels
from pretrain.reading.decode import decode_crops
from pretrain.reading.tar_members import ShardFault, audio_members

LIMIT = 1 << 20
"""A small bound keeps the bombs small; memory is held against it."""


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, data: bytes) -> bytes:
    return header(name, len(data)) + data + bytes(-len(data) % 512)


GOOD = [member("a.flac", clip(1)), member("z.flac", clip(1, 1))]


def sparse_bomb(path: Path) -> Path:
    """8 GiB that take no room on the disk: a hole."""
    size = 8 << 30
    with path.open("wb") as file:
        file.write(GOOD[0] + header("bomb.wav", size))
        file.seek(size, io.SEEK_CUR)
        file.write(GOOD[1] + bytes(1024))
    return path


def gzip_bomb(path: Path, n_mib: int = 12) -> Path:
    """Zeros, of which gzip keeps a thousandth."""
    with gzip.open(path, "wb") as file:
        file.write(GOOD[0] + header("bomb.wav", n_mib << 20))
        for _ in range(n_mib):
            file.write(bytes(1 << 20))
        file.write(GOOD[1] + bytes(1024))
    return path


def gnu_sparse_bomb(path: Path) -> Path:
    """A file of holes as `tar --sparse` stores it: terabytes in one header."""
    whole = path.with_suffix(".wav")
    with whole.open("wb") as file:
        file.truncate(8 << 30)
    command = ["tar", "--format=gnu", "--sparse", "-cf", path.name, whole.name]
    subprocess.run(command, check=True, cwd=path.parent)
    content = path.read_bytes()
    end = 512 + int(content[124:135], 8)
    path.write_bytes(GOOD[0] + content[:end] + GOOD[1] + bytes(1024))
    whole.unlink()
    return path


@pytest.mark.parametrize("make", [sparse_bomb, gzip_bomb, gnu_sparse_bomb])
@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_bomb_is_skipped_counted_and_needs_no_memory(tmp_path, make, n_workers, caplog):
    path = make(tmp_path / "x.tar")
    batches = crop_batches([str(path)], max_member_bytes=LIMIT, n_workers=n_workers)
    tracemalloc.start()
    keys = keys_of(batches)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(keys) == ["x.tar/a.flac#0", "x.tar/z.flac#0"]
    assert batches.skipped_total == {"too large": 1}
    assert peak < 4 * LIMIT
    if not n_workers:
        assert "has 8192 MiB" in caplog.text or "has 12 MiB" in caplog.text
        assert "members may have 1 MiB; cut it into shorter files, or raise max_member_mib" in caplog.text


def test_by_default_a_gibibyte_is_the_bound(tmp_path):
    batches = crop_batches([str(sparse_bomb(tmp_path / "x.tar"))])
    assert len(keys_of(batches)) == 2
    assert batches.skipped_total == {"too large": 1}


def test_resuming_does_not_read_it_either(tmp_path):
    path = sparse_bomb(tmp_path / "x.tar")
    batches = crop_batches([str(path)], max_member_bytes=LIMIT, batch_size=1, shuffle_crops=4)
    first = next(iter(batches)).keys
    resumed = crop_batches([str(path)], max_member_bytes=LIMIT, batch_size=1, shuffle_crops=4)
    resumed.load_state_dict(batches.state_dict())
    assert sorted(first + keys_of(resumed)) == ["x.tar/a.flac#0", "x.tar/z.flac#0"]
    assert resumed.skipped_total == {"too large": 1}


def test_a_compressed_archive_is_given_up_where_getting_past_a_member_would_take_hours(tmp_path):
    path = gzip_bomb(tmp_path / "x.tar.gz", n_mib=17)
    members = []
    with pytest.raises(ShardFault, match=r"bomb.wav claims 17 MiB, too much to decompress") as fault:
        members.extend(audio_members(str(path), lambda index: True, max_bytes=LIMIT))
    assert fault.value.reason == "shard truncated"
    with pytest.raises(ShardFault, match="claims 17 MiB"):
        list(audio_members(f"pipe:zcat {path}", lambda index: True, max_bytes=LIMIT))


@pytest.mark.parametrize("kind", tar_members.EXTENDED_HEADERS)
def test_extended_headers_are_bounded(tmp_path, kind):
    """tarfile reads long names and pax records whole."""
    size = 64 << 20
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        file.write(GOOD[0] + header("name", size, kind))
        file.truncate(len(GOOD[0]) + 512 + size)
    tracemalloc.start()
    given = []
    with pytest.raises(ShardFault, match="an extended header claims 64 MiB; the most is 1 MiB") as fault:
        given.extend(found.name for found in audio_members(str(path), lambda index: True))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (given, fault.value.reason) == (["a.flac"], "shard truncated")
    assert peak < 2 << 20


@pytest.mark.parametrize("is_json_first", [True, False])
def test_labels_that_are_too_large_leave_their_clip_out(tmp_path, is_json_first):
    large = [("b.flac", clip(1)), ("b.json", b'{"label": "' + b"x" * LIMIT + b'"}')]
    small = [("a.flac", clip(1)), ("a.json", b'{"label": "x"}')]
    path = write_tar(tmp_path / "x.tar", small + (large[::-1] if is_json_first else large))
    column = LabelColumn("label", None)
    labels = ClipLabels(column, ("x",))
    batches = crop_batches([str(path)], clip_labels=labels, max_member_bytes=LIMIT)
    assert keys_of(batches) == ["x.tar/a.flac#0"]
    assert batches.skipped_total == {"too large": 1}
    assert count_labels([str(path)], column, max_member_bytes=LIMIT) == {CLIPS: 1, "x": 1}


def test_counting_leaves_out_what_the_reader_does(tmp_path):
    path = str(sparse_bomb(tmp_path / "x.tar"))
    assert count_crops([path], CHUNK, RATE_HZ, max_member_bytes=LIMIT) == 2


def test_a_flac_bomb_is_decoded_a_crop_at_a_time(tmp_path):
    """Hours of silence in kilobytes: FLAC keeps a constant frame in a few bytes."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", RATE_HZ, channels=1, format="FLAC") as file:
        for _ in range(180):
            file.write(np.zeros(60 * RATE_HZ, np.int16))
    encoded = buffer.getvalue()
    decoded_bytes = 180 * 60 * RATE_HZ * 4
    assert len(encoded) < decoded_bytes / 500
    tracemalloc.start()
    n_crops = sum(1 for _ in decode_crops(encoded, 10 * RATE_HZ, RATE_HZ))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_crops == 180 * 6
    assert peak < 20 * 10 * RATE_HZ * 4 < decoded_bytes / 50
