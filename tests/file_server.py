"""A local stand-in for Zenodo that cuts, corrupts, throttles, changes and refuses."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit


class FileServer(ThreadingHTTPServer):
    """Serves files by name wherever they are asked for; its attributes say how it misbehaves.

    Attributes:
        files: contents by name; `content` is what any other name gets.
        checksums: told by the record's metadata instead of the true ones.
        sizes: the same for sizes.
        cut_after: bytes sent before each of the next connections breaks.
        stall_after: bytes sent before each of the next connections sends no more for a second.
        refusals: status and headers of the next answers to requests for files.
        status: of all further ones.
        ranges: whether parts can be asked for.
        tells_length: whether an answer says how long it is; without, its end is the connection's.
        bytes_per_s: how fast it sends; None for as fast as it can.
        requests: path and Range header of each request so far.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.content, self.etag = b"", '"one"'
        self.checksums: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.cut_after: list[int] = []
        self.stall_after: list[int] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.status, self.ranges, self.tells_length, self.bytes_per_s = 200, True, True, None
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def file_requests(self) -> list[tuple[str, str | None]]:
        return [(path, wanted) for path, wanted in self.requests if not path.startswith("/api/")]

    def metadata(self) -> bytes:
        """Of the record, in the form of Zenodo's own."""
        entries = [
            {
                "key": name,
                "size": self.sizes.get(name, len(content)),
                "checksum": self.checksums.get(name, "md5:" + hashlib.md5(content).hexdigest()),
            }
            for name, content in self.files.items()
        ]
        return json.dumps({"id": 7, "files": entries}).encode()


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        if self.path.startswith("/api/records/"):
            self.answer(200, server.metadata(), {})
            return
        if server.refusals or server.status != 200:
            status, headers = server.refusals.pop(0) if server.refusals else (server.status, {})
            self.answer(status, b"no", headers)
            return
        name = PurePosixPath(unquote(urlsplit(self.path).path)).name
        content, start = server.files.get(name, server.content), 0
        if server.ranges and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if self.headers.get("If-Range", server.etag) != server.etag:
                start = 0
            if start >= len(content):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
        part = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.answer(206 if start else 200, content[start:], {"ETag": server.etag} | part, is_file=True)

    def answer(self, status, body, headers, is_file=False):
        self.send_response(status)
        length = {"Content-Length": str(len(body))} if self.server.tells_length or not is_file else {}
        for name, value in (length | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if is_file and self.server.cut_after:
            body = body[: self.server.cut_after.pop(0)]
            self.close_connection = True
        try:
            self.send(body, is_file)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client was killed or gave up, as some tests want

    def send(self, body, is_file):
        server = self.server
        if is_file and server.stall_after:
            first = server.stall_after.pop(0)
            self.wfile.write(body[:first])
            time.sleep(1)
            body = body[first:]
        if not is_file or server.bytes_per_s is None:
            self.wfile.write(body)
            return
        step = server.bytes_per_s // 20
        for first in range(0, len(body), step):
            self.wfile.write(body[first : first + step])
            time.sleep(0.05)

    def log_message(self, *_):
        pass


@contextmanager
def running_server() -> Iterator[FileServer]:
    """A server for the time of a `with`."""
    server = FileServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
