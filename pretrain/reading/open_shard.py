"""A shard's path, URL or command -> a file object that neither stalls nor gives up at the first failure."""

from __future__ import annotations

import io
import logging
import os
import selectors
import signal
import subprocess
import time
from typing import IO, Any

from pretrain.reading.sources import PIPE, is_remote, local_path

logger = logging.getLogger(__name__)

CONNECT_S = 20
STALL_S = 60
"""Seconds without a byte after which a server or a command counts as failed."""
WAITS_S = (1.0, 4.0, 15.0)
"""Pauses before a failed read from a server is tried again."""
BLOCK_BYTES = 8 << 20
"""Read from a server at a time."""
BUFFER_BYTES = 1 << 16
TRANSIENT_STATUS = (408, 425, 429)
"""HTTP errors of the 4xx kind that may pass."""
_SERVERS_WITHOUT_RANGES: set[str] = set()
"""Learnt once, as each try would fetch the start of a shard in vain."""


def open_shard(url: str) -> io.BufferedReader:
    """Open a shard for reading.

    Args:
        url: a local path, a `pipe:` command, or anything that fsspec opens.

    Returns:
        A file object; commands' output cannot seek. Remote files are opened at the first read.

    Raises:
        OSError: there is no such file, or it may not be read. Reading raises it too: for
            servers after several tries, and for a command that fails.
    """
    if url.startswith(PIPE):
        return io.BufferedReader(_CommandOutput(url.removeprefix(PIPE)), BUFFER_BYTES)
    if is_remote(url):
        return io.BufferedReader(_RemoteFile(url), BUFFER_BYTES)
    return open(os.path.expanduser(local_path(url)), "rb")


class _CommandOutput(io.RawIOBase):
    """What a shell command writes; closing this ends the command."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command
        self._process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    @property
    def _output(self) -> IO[bytes]:
        return self._process.stdout

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:
        if not self._selector.select(STALL_S):
            raise TimeoutError(f"{self._command!r} wrote nothing for {STALL_S} s")
        n_bytes = self._output.readinto(target)
        if not n_bytes and self._process.wait(STALL_S):
            raise OSError(f"{self._command!r} ended with status {self._process.returncode}")
        return n_bytes

    def close(self) -> None:
        if not self.closed:
            self._selector.close()
            self._output.close()
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        super().close()


class _RemoteFile(io.RawIOBase):
    """A file on a server, which is opened again where a read failed, and then read on.

    Servers that cannot give parts of a file are read from its start to the part that is wanted.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._position = 0
        self._file: Any = None
        self._server = url[: url.find("/", url.find("://") + 3)]
        self._is_stream = self._server in _SERVERS_WITHOUT_RANGES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("servers need not tell a file's length")
        self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        return self._position

    def readinto(self, target: memoryview) -> int:
        for wait_s in (*WAITS_S, None):
            try:
                data = self._read(len(target))
                break
            except Exception as error:  # each protocol has exceptions of its own
                self._drop()
                if wait_s is None or is_permanent(error):
                    raise OSError(f"cannot read {self._url}: {describe(error)}") from error
                logger.info(
                    "Reading %s failed (%s), trying again in %g s", self._url, describe(error), wait_s
                )
                time.sleep(wait_s)
        target[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._drop()
        super().close()

    def _read(self, n_bytes: int) -> bytes:
        if self._file is None:
            self._file = _open_remote(self._url, self._is_stream)
            self._is_stream = self._file.size is None
        try:
            self._go_to(self._position)
            return self._file.read(n_bytes)
        except ValueError as error:
            if self._is_stream or "range requests" not in str(error):
                raise
        self._drop()
        self._is_stream = True
        _SERVERS_WITHOUT_RANGES.add(self._server)
        return self._read(n_bytes)

    def _go_to(self, position: int) -> None:
        if not self._is_stream:
            self._file.seek(position)
            return
        if self._file.tell() > position:
            self._drop()
            self._file = _open_remote(self._url, is_stream=True)
        while (missing := position - self._file.tell()) > 0:
            if not self._file.read(min(missing, BLOCK_BYTES)):
                raise EOFError(f"ended after {self._file.tell()} bytes, {position} were there before")

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _open_remote(url: str, is_stream: bool) -> Any:
    import fsspec

    system, path = fsspec.url_to_fs(url, **_options(url))
    if is_stream:
        return system.open(path, "rb", block_size=0)
    return system.open(path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")


def _options(url: str) -> dict[str, Any]:
    """Time limits, beside what the user set in fsspec's configuration."""
    from fsspec.config import conf

    protocol = url.split("://")[0]
    if protocol in ("http", "https"):
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=STALL_S)
        given = conf.get("http", {}).get("client_kwargs", {})
        return {"client_kwargs": {"timeout": limits, "trust_env": True, **given}}
    if protocol in ("s3", "s3a"):
        given = conf.get("s3", {}).get("config_kwargs", {})
        return {"config_kwargs": {"connect_timeout": CONNECT_S, "read_timeout": STALL_S, **given}}
    return {}


def is_permanent(error: BaseException) -> bool:
    """Whether another try is vain: the file is not there, or not for us."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec's HTTP calls every failure so at first
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in TRANSIENT_STATUS
    return isinstance(error, FileNotFoundError | PermissionError | ImportError | NotImplementedError)


def describe(error: BaseException) -> str:
    """An error in one line; some have no text of their own."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
