"""Shards on HTTP and S3 servers, on good and on bad days."""

from __future__ import annotations

import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from shard_cases import all_keys, crop_batches, is_same, keys_of, write_shards, write_tar

from pretrain.reading import open_shard
from pretrain.reading.tar_members import audio_members
from pretrain.shards import NoUsableAudio

# fork, since Python 3.12
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

FILES = [[1, 2.5, 0.3] * 3, [4, 1, 2] * 3]


class Server:
    """An HTTP server for one folder, whose behaviour tests can change.

    Attributes:
        respond: called with each request before it is answered; returns an HTTP status to fail with, or None.
        has_ranges: whether it gives parts of files.
        requests: how many there were for each (method, file name).
        is_cut: whether the answer breaks off.
        n_cut: how many did.
        n_bytes: sent in whole answers.
    """

    def __init__(self, folder) -> None:
        self.folder = folder
        self.respond: Callable[[str, str], int | None] = lambda method, name: None
        self.has_ranges = True
        self.requests: Counter[tuple[str, str]] = Counter()
        self.is_cut: Callable[[], bool] = lambda: False
        self.n_cut = 0
        self.n_bytes = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                outer.answer(self)

            do_GET = do_HEAD

            def log_message(self, *_):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.handle_error = lambda *_: None  # clients that hang up
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"
        self.thread = Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = request.path.split("?")[0].lstrip("/")
        self.requests[request.command, name] += 1
        status = self.respond(request.command, name)
        if status is None and not (self.folder / name).is_file():
            status = 404
        if status is not None:
            request.send_error(status)
            return
        data = (self.folder / name).read_bytes()
        wanted = re.match(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if wanted and self.has_ranges:
            start, end = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            data = data[start : end + 1]
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command == "GET" and self.is_cut():
            self.n_cut += 1
            request.wfile.write(data[: len(data) // 2])
            request.close_connection = True
        elif request.command == "GET":
            request.wfile.write(data)
            self.n_bytes += len(data)

    def close(self) -> None:
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    write_shards(tmp_path, FILES)
    server = Server(tmp_path)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(open_shard, "WAITS_S", (0.01, 0.01, 0.01))


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("has_ranges", [True, False])
def test_http(server, n_workers, has_ranges, monkeypatch):
    server.has_ranges = has_ranges
    monkeypatch.setattr(open_shard, "BLOCK_BYTES", 1000)  # several requests for a shard
    batches = crop_batches([f"{server.url}/{{0..1}}.tar?token=secret"], n_workers=n_workers)
    keys = keys_of(batches)
    assert sorted(keys) == sorted(all_keys(FILES))
    assert not batches.skipped_total
    if n_workers == 0:
        assert keys == all_keys(FILES)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_nothing_is_fetched_twice(server, tmp_path, has_ranges, monkeypatch):
    """Members are larger than every buffer here."""
    monkeypatch.setattr(open_shard, "BLOCK_BYTES", 1 << 18)
    server.has_ranges = has_ranges
    large = write_tar(tmp_path / "large.tar", [(f"{n}.wav", bytes(100_000 + n)) for n in range(10)])
    for _ in range(2):  # the first time shows whether there are ranges
        server.n_bytes = 0
        server.requests.clear()
        members = list(audio_members(f"{server.url}/large.tar", lambda index: index != 4))
        assert [len(member.data) for member in members] == [100_000 + n for n in range(10) if n != 4]
    assert server.n_bytes <= large.stat().st_size
    assert server.requests["GET", "large.tar"] <= (5 if has_ranges else 1)


@pytest.mark.parametrize("has_ranges", [True, False])
def test_remote_files_seek(server, tmp_path, has_ranges, monkeypatch):
    monkeypatch.setattr(open_shard, "BLOCK_BYTES", 50_000)
    server.has_ranges = has_ranges
    content = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "x").write_bytes(content)
    with open_shard.open_shard(f"{server.url}/x") as file:
        for place in (0, 200_000, 100_000, 100_001, 299_999, 5):
            file.seek(place)
            assert file.read(70_000) == content[place : place + 70_000]


def test_http_after_http_in_the_parent(server):
    """Workers are forked from a process whose fsspec already runs its thread."""
    first = list(crop_batches([f"{server.url}/{{0..1}}.tar"]))
    assert len(first) > 2
    assert sorted(keys_of(crop_batches([f"{server.url}/{{0..1}}.tar"], n_workers=2))) == sorted(
        keys_of(first)
    )


@pytest.mark.parametrize("status", [503, 500, 429])
@pytest.mark.parametrize("method", ["HEAD", "GET", "any"])
def test_passing_failures_are_not_noticed(server, status, method):
    failures_left = {"HEAD": 3, "GET": 3}

    def respond(command, name):
        if method in (command, "any") and failures_left[command]:
            failures_left[command] -= 1
            return status
        return None

    server.respond = respond
    batches = crop_batches([f"{server.url}/{{0..1}}.tar"])
    assert keys_of(batches) == all_keys(FILES)
    assert not batches.skipped_total


@pytest.mark.parametrize("has_ranges", [True, False])
def test_broken_connections_are_read_on(server, monkeypatch, has_ranges):
    """Every second answer breaks off in its middle; reading goes on where it was."""
    monkeypatch.setattr(open_shard, "BLOCK_BYTES", 4000)
    server.has_ranges = has_ranges
    server.is_cut = lambda: sum(n for (command, _), n in server.requests.items() if command == "GET") % 2 == 1
    batches = crop_batches([f"{server.url}/{{0..1}}.tar"])
    assert keys_of(batches) == all_keys(FILES)
    assert server.n_cut > 0
    assert not batches.skipped_total


@pytest.mark.parametrize(("status", "n_tries"), [(404, 1), (403, 1), (503, 4)])
def test_lasting_failures_are_skipped(server, status, n_tries):
    server.respond = lambda command, name: status if name == "0.tar" else None
    batches = crop_batches([f"{server.url}/{{0..1}}.tar"])
    assert keys_of(batches) == [key for key in all_keys(FILES) if key.startswith("1")]
    assert batches.skipped_total == {"shard unreadable": 1}
    assert server.requests["GET", "0.tar"] == n_tries


def test_no_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/0.tar"
        with pytest.raises(
            NoUsableAudio, match="1 shard unreadable; for example 0.tar: OSError: cannot read .*Connect"
        ):
            list(crop_batches([url]))


def test_stalled_server_does_not_hang(server, monkeypatch):
    monkeypatch.setattr(open_shard, "STALL_S", 0.2)
    monkeypatch.setattr(open_shard, "WAITS_S", ())
    is_over = Event()

    def respond(command, name):
        if command == "GET" and name == "0.tar":
            is_over.wait(20)

    server.respond = respond
    start_s = time.monotonic()
    try:
        keys = keys_of(crop_batches([f"{server.url}/{{0..1}}.tar"]))
    finally:
        is_over.set()
    assert keys == [key for key in all_keys(FILES) if key.startswith("1")]
    assert time.monotonic() - start_s < 5


@pytest.mark.parametrize("has_ranges", [True, False])
def test_resuming_over_http(server, has_ranges):
    server.has_ranges = has_ranges
    options = {"shuffle_crops": 4, "batch_size": 3}
    data = [f"{server.url}/{{0..1}}.tar"]
    batches = crop_batches(data, **options)
    whole, states = [], []
    for batch in batches:
        whole.append(batch)
        states.append(batches.state_dict())
    for done in (2, 5, 8):
        resumed = crop_batches(data, **options)
        resumed.load_state_dict(states[done - 1])
        assert is_same(list(resumed), whole[done:])


@pytest.fixture
def bucket(monkeypatch) -> Iterator:
    """A bucket on a local S3 server, which the environment names as it would a real one's."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="audio")
    yield client
    client.close()
    server.stop()


@pytest.mark.parametrize("n_workers", [0, 2])
def test_s3(bucket, tmp_path, n_workers):
    write_shards(tmp_path, FILES)
    for number in range(2):
        bucket.upload_file(str(tmp_path / f"{number}.tar"), "audio", f"train/{number}.tar")
    batches = crop_batches(["s3://audio/train/{0..2}.tar"], n_workers=n_workers)
    assert sorted(keys_of(batches)) == sorted(all_keys(FILES))
    assert batches.skipped_total == {"shard unreadable": 1}
