"""Shards of every make, whole and broken: no member is lost, merged or made up."""

from __future__ import annotations

import os
import subprocess
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_cases import clip, write_tar

from pretrain.reading import open_shard
from pretrain.reading.tar_members import Member, ShardFault, audio_members

FILES = [(f"{n:02}.flac", bytes([n]) * (200 + 37 * n)) for n in range(12)]
WHOLE = [Member(index, name, data) for index, (name, data) in enumerate(FILES)]


def read(url, is_wanted=lambda index: True, stop=None) -> tuple[list[Member], str | None]:
    """The members, and the reason if the shard failed after them."""
    members = []
    try:
        for member in audio_members(str(url), is_wanted, stop):
            members.append(member)
    except ShardFault as fault:
        return members, fault.reason
    return members, None


def has_ended(pid_file: Path) -> bool:
    """Whether all processes of this one's group end within 5 s."""
    for _ in range(50):
        states = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True)
        groups = [line.split() for line in states.stdout.splitlines()]
        if not any(group == pid_file.read_text().strip() and state[0] != "Z" for group, state in groups):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize("prefix", ["", "file://", "pipe:cat "])
def test_plain_compressed_and_piped(tmp_path, compression, prefix):
    path = write_tar(tmp_path / "x.tar", FILES, f"w:{compression}")
    assert read(f"{prefix}{path}") == (WHOLE, None)


@pytest.mark.parametrize("prefix", ["", "pipe:cat "])
def test_only_what_is_wanted_is_read(tmp_path, prefix):
    url = f"{prefix}{write_tar(tmp_path / 'x.tar', FILES)}"
    assert read(url, lambda index: index % 3 == 1) == (WHOLE[1::3], None)
    assert read(url, {2, 5}.__contains__, stop=6) == ([WHOLE[2], WHOLE[5]], None)


def test_unwanted_members_are_jumped_over(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "x.tar", [(f"{n}.wav", bytes(1 << 20)) for n in range(30)])
    n_read = 0
    read_whole = open_shard.open_shard

    class Counting:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def read(self, size=-1):
            nonlocal n_read
            data = self.file.read(size)
            n_read += len(data)
            return data

    monkeypatch.setattr("pretrain.reading.tar_members.open_shard", lambda url: Counting(read_whole(url)))
    members, _ = read(path, {29}.__contains__)
    assert [member.index for member in members] == [29]
    assert n_read < 1.1 * (1 << 20)


def test_tars_made_by_hand(tmp_path):
    """Nested folders, dots in stems, upper case, other encodings, what macOS adds, other files."""
    names = [
        "a/b/c.wav",
        "a/b/c.flac",
        "x.1.wav",
        "x.2.wav",
        "UP.WAV",
        "with space.ogg",
        "deep" * 40 + ".mp3",
    ]
    others = ["a/b/._c.wav", "x.json", "notes.txt", "wav", "__meta__"]
    latin = os.fsencode(str(tmp_path / "in")) + b"/caf\xe9.wav"
    (tmp_path / "in/a/b").mkdir(parents=True)
    for name in names + others:
        (tmp_path / "in" / name).write_bytes(name.encode())
    Path(os.fsdecode(latin)).write_bytes(b"latin")
    (tmp_path / "in/folder.wav").mkdir()
    subprocess.run(
        "cd in && find . -print0 | tar --null --no-recursion -cf ../x.tar -T -",
        shell=True,
        check=True,
        cwd=tmp_path,
    )
    members, reason = read(tmp_path / "x.tar")
    assert reason is None
    expected = {f"./{name}": name.encode() for name in names} | {"./caf\\xe9.wav": b"latin"}
    assert {member.name: member.data for member in members} == expected
    assert [member.index for member in members] == list(range(len(expected)))


def test_links_have_no_data(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"a")
    os.link(tmp_path / "a.wav", tmp_path / "b.wav")
    os.symlink("a.wav", tmp_path / "c.wav")
    subprocess.run(["tar", "-cf", "x.tar", "a.wav", "b.wav", "c.wav"], check=True, cwd=tmp_path)
    assert [member.data for member in read(tmp_path / "x.tar")[0]] == [b"a", None, None]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves files open
def test_regular_shards_read_as_webdataset_reads_them(tmp_path):
    path = str(tmp_path / "x.tar")
    with webdataset.TarWriter(path) as writer:
        for number in range(5):
            writer.write({"__key__": f"speaker/{number}", "flac": clip(2, number), "json": {"n": number}})
    theirs = [(f"{s['__key__']}.flac", s["flac"]) for s in webdataset.WebDataset(path, shardshuffle=False)]
    assert [(member.name, member.data) for member in read(path)[0]] == theirs


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "shard unreadable"),
        (b"<html>no tar</html>" * 100, "shard unreadable"),
        (b"\x1f\x8bno gzip", "shard unreadable"),
        (bytes(10240), "shard without audio"),
        (None, "shard unreadable"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "pipe:cat "])
def test_shards_without_anything(tmp_path, content, reason, prefix, capfd):
    if content is not None:
        (tmp_path / "x.tar").write_bytes(content)
    assert read(f"{prefix}{tmp_path / 'x.tar'}") == ([], reason)


def test_members_do_not_add_up(tmp_path):
    """tarfile by itself remembers each, about 2 kB."""
    path = write_tar(tmp_path / "x.tar", [(f"{n}.wav", b"") for n in range(3000)])
    tracemalloc.start()
    n_members = sum(1 for _ in audio_members(str(path), lambda index: True))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_members == 3000
    assert peak < 1_000_000


def test_shard_of_other_files(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.m4a", b"a"), ("b.json", b"{}")])
    with pytest.raises(ShardFault, match=r"none of its 2 members is \.wav/") as fault:
        list(audio_members(str(path), lambda index: True))
    assert fault.value.reason == "shard without audio"


END_OF_MEMBERS = sum(512 + -(-len(data) // 512) * 512 for _, data in FILES)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, END_OF_MEMBERS), is_piped=st.booleans())
def test_members_before_a_cut_are_used(tmp_path_factory, cut, is_piped):
    """Wherever a tar breaks off: all members that are whole, and none other."""
    path = write_tar(tmp_path_factory.mktemp("cut") / "x.tar", FILES)
    with path.open("r+b") as file:
        file.truncate(cut)
    members, reason = read(f"pipe:cat {path}" if is_piped else path)
    with tarfile.open(write_tar(path.with_name("whole.tar"), FILES)) as archive:
        ends = [info.offset_data + info.size for info in archive.getmembers()]
    n_whole = sum(end <= cut for end in ends)
    assert members == WHOLE[:n_whole]
    assert reason == ("shard unreadable" if cut < 512 else "shard truncated")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_never_makes_up_members(tmp_path_factory, data):
    """Spoil any bytes, compressed or not: what comes before them is intact, and nothing else happens."""
    kind = data.draw(st.sampled_from(["", "gz", "xz"]))
    path = write_tar(tmp_path_factory.mktemp("damage") / "x.tar", FILES, f"w:{kind}")
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + 40] = data.draw(st.binary(min_size=1, max_size=40))
    path.write_bytes(content)
    members, reason = read(path)
    assert reason in (None, "shard unreadable", "shard truncated")
    if not kind:
        n_before = sum(_end(member.index) <= place for member in WHOLE)
        assert members[:n_before] == WHOLE[:n_before]


def _end(index: int) -> int:
    return sum(512 + -(-len(data) // 512) * 512 for _, data in FILES[: index + 1])


def test_damaged_header_is_told_apart_from_the_end(tmp_path):
    """tarfile by itself takes a damaged header for the end of the archive."""
    path = write_tar(tmp_path / "x.tar", FILES)
    with path.open("r+b") as file:
        file.seek(_end(4))
        file.write(b"spoilt")
    assert read(path) == (WHOLE[:5], "shard truncated")


def test_failing_commands(tmp_path):
    path = write_tar(tmp_path / "x.tar", FILES)
    members, reason = read(f"pipe:head -c 3000 {path}; exit 3")
    assert (members, reason) == (WHOLE[:3], "shard truncated")
    with pytest.raises(ShardFault, match="'exit 7' ended with status 7") as fault:
        list(audio_members("pipe:exit 7", lambda index: True))
    assert fault.value.reason == "shard unreadable"


def test_silent_command_is_given_up_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(open_shard, "STALL_S", 0.3)
    pid_file = tmp_path / "pid"
    start_s = time.monotonic()
    assert read(f"pipe:echo $$ > {pid_file}; sleep 600; true") == ([], "shard unreadable")
    assert time.monotonic() - start_s < 10
    assert has_ended(pid_file)


def test_command_is_ended_when_nobody_reads_on(tmp_path):
    path = write_tar(tmp_path / "x.tar", FILES)
    pid_file = tmp_path / "pid"
    members = audio_members(f"pipe:echo $$ > {pid_file}; cat {path}; cat /dev/zero", lambda index: True)
    assert next(members) == WHOLE[0]
    members.close()
    assert has_ended(pid_file)
