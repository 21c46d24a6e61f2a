"""Downloads against a server that stalls, lies, changes and asks for patience."""

import email.utils
import errno
import hashlib
import time

import pytest
from file_server import running_server
from hypothesis import given
from hypothesis import strategies as st

from safe_download import http_file, patience
from safe_download.checksum import has_checksum
from safe_download.http_file import download, read_json
from safe_download.patience import DownloadError, pause_asked_for_s
from safe_download.zenodo import file_behind, record_files

CONTENT = bytes(range(256)) * 4_000


@pytest.fixture
def server():
    with running_server() as server:
        server.files = {"a.bin": CONTENT}
        yield server


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were made, in seconds; nobody waits."""
    made = []
    monkeypatch.setattr(patience, "wait_s", made.append)
    return made


@pytest.fixture
def target(tmp_path):
    return tmp_path / "folder" / "a.bin"


MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


def test_a_file_arrives_alone(server, target):
    download(f"{server.url}/a.bin", target, MD5, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert {entry.name for entry in target.parent.iterdir()} <= {"a.bin", "a.bin.part.lock"}


@given(st.integers(0, 10**6))
def test_seconds_in_retry_after(seconds):
    assert pause_asked_for_s(f" {seconds} ") == seconds


@given(st.integers(-1_000, 10_000))
def test_dates_in_retry_after(seconds):
    asked = pause_asked_for_s(email.utils.formatdate(time.time() + seconds, usegmt=True))
    assert asked == pytest.approx(max(0, seconds), abs=2)


@pytest.mark.parametrize("header", [None, "", "soon", "-3", "Wed, 99 Foo 2015"])
def test_headers_that_ask_for_nothing(header):
    assert pause_asked_for_s(header) is None


def test_a_busy_server_is_left_alone_as_long_as_it_asks(server, target, pauses):
    server.refusals = [(429, {"Retry-After": "7"}), (503, {"Retry-After": "11"}), (500, {})]
    download(f"{server.url}/a.bin", target, MD5)
    assert pauses == [7, 11, patience.FIRST_PAUSE_S * 4]
    assert target.read_bytes() == CONTENT


def test_a_server_that_asks_for_hours_is_given_up(server, target, pauses):
    server.refusals = [(429, {"Retry-After": "7200"})]
    with pytest.raises(DownloadError, match=r"429.*asks to be left alone.*7200"):
        download(f"{server.url}/a.bin", target, MD5)
    assert pauses == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_refusals_for_good_are_believed_at_once(server, target, pauses, status):
    server.status = status
    with pytest.raises(DownloadError, match=str(status)):
        download(f"{server.url}/a.bin", target, MD5)
    assert len(server.file_requests) == 1


def test_pauses_grow_and_end(server, target, pauses):
    server.status = 502
    with pytest.raises(DownloadError, match=r"502.*What has arrived is kept"):
        download(f"{server.url}/a.bin", target, MD5)
    assert pauses == [0.5, 1, 2, 4]


def test_only_tries_that_bring_nothing_count(server, target, pauses):
    server.cut_after = [20_000] * 30
    download(f"{server.url}/a.bin", target, MD5)
    assert target.read_bytes() == CONTENT
    assert len(server.file_requests) == 31
    assert set(pauses) == {patience.FIRST_PAUSE_S}


def test_without_ranges_beginnings_that_never_grow_are_given_up(server, target, pauses):
    server.ranges, server.cut_after = False, [20_000] * 30
    with pytest.raises(DownloadError, match="the connection ended after 20000 of 1024000 bytes"):
        download(f"{server.url}/a.bin", target, MD5)
    assert len(server.file_requests) == patience.ATTEMPTS


def test_a_stalled_connection_is_left_and_resumed(server, target, pauses, monkeypatch):
    monkeypatch.setattr(http_file, "TIMEOUT_S", 0.2)
    server.stall_after = [300_000]
    download(f"{server.url}/a.bin", target, MD5)
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.file_requests] == [None, "bytes=300000-"]


def test_a_whole_beginning_is_not_fetched_again(server, target):
    target.parent.mkdir()
    part = target.with_name("a.bin.part")
    part.write_bytes(CONTENT)
    download(f"{server.url}/a.bin", target, MD5, len(CONTENT))
    assert not server.requests  # the size was known
    target.rename(part)
    download(f"{server.url}/a.bin", target, MD5)
    assert len(server.requests) == 1  # the server said that there is no more
    assert target.read_bytes() == CONTENT


def test_a_beginning_that_is_too_long_is_dropped(server, target):
    target.parent.mkdir()
    target.with_name("a.bin.part").write_bytes(CONTENT * 2)
    download(f"{server.url}/a.bin", target, MD5, len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_a_beginning_of_something_else_is_found_out(server, target):
    target.parent.mkdir()
    target.with_name("a.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="arrived damaged"):
        download(f"{server.url}/a.bin", target, MD5, len(CONTENT))
    assert not target.exists()
    download(f"{server.url}/a.bin", target, MD5, len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_another_size_than_announced_is_told_before_the_bytes_come(server, target, pauses):
    with pytest.raises(DownloadError, match="1024000 bytes where 999 were announced"):
        download(f"{server.url}/a.bin", target, MD5, 999)
    assert len(server.requests) == 1


def test_a_connection_that_ends_early_without_having_told_a_length_is_resumed(server, target, pauses):
    server.tells_length, server.cut_after = False, [300_000]
    download(f"{server.url}/a.bin", target, MD5, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.file_requests] == [None, "bytes=300000-"]


def test_a_weak_etag_is_no_reason_to_begin_anew(server, target, pauses):
    server.etag, server.cut_after = 'W/"one"', [300_000]
    download(f"{server.url}/a.bin", target, MD5)
    assert [wanted for _, wanted in server.file_requests] == [None, "bytes=300000-"]


def test_a_full_disk_is_not_tried_again(server, target, pauses, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(http_file.os, "fsync", full)
    with pytest.raises(DownloadError, match="No space left on device"):
        download(f"{server.url}/a.bin", target, MD5)
    assert pauses == []


def test_checksums_of_unknown_kinds_are_refused_before_anything_is_fetched(server, target):
    for checksum in ("crc32:00", "md5:xyz", "d41d8cd98f00b204e9800998ecf8427e"):
        with pytest.raises(ValueError, match=f"unknown checksum '{checksum}'"):
            download(f"{server.url}/a.bin", target, checksum)
    assert not server.requests


@given(st.binary(max_size=3_000), st.sampled_from(["md5", "sha1", "sha256", "sha512"]))
def test_checksums_are_hashlibs(tmp_path_factory, content, algorithm):
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    assert has_checksum(path, f"{algorithm}:{hashlib.new(algorithm, content).hexdigest().upper()}")
    assert not has_checksum(path, f"{algorithm}:{hashlib.new(algorithm, content + b'.').hexdigest()}")


def test_a_record_tells_names_sizes_and_checksums(server):
    server.files["b c.bin"] = b"1234"
    files = record_files(7, server.url + "/")
    assert (files["a.bin"].size_bytes, files["a.bin"].checksum) == (len(CONTENT), MD5)
    assert files["b c.bin"].url == f"{server.url}/records/7/files/b%20c.bin?download=1"
    assert file_behind(files["b c.bin"].url) == files["b c.bin"]
    assert file_behind(f"{server.url}/other/a.bin") is None
    with pytest.raises(DownloadError, match="record 7 lists no file c.bin"):
        file_behind(f"{server.url}/records/7/files/c.bin")


def test_metadata_of_another_form_are_told(server, monkeypatch):
    monkeypatch.setattr(type(server), "metadata", lambda self: b'{"entries": []}')
    with pytest.raises(DownloadError, match="does not list files with key, size and checksum"):
        record_files(7, server.url)
    monkeypatch.setattr(type(server), "metadata", lambda self: b"<html>")
    with pytest.raises(DownloadError, match="is no JSON document"):
        read_json(f"{server.url}/api/records/7")
