"""A URL -> a file on this disk, in as many tries as the network needs.

A download grows as `<name>.part`, goes on from what has arrived, is checked (size,
and checksum where one is known) and takes its name only when it is whole.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from safe_download.checksum import has_checksum, parse_checksum
from safe_download.patience import DownloadError, persist, reason

logger = logging.getLogger(__name__)

TIMEOUT_S = 30
QUICK_TIMEOUT_S = 5
BLOCK_BYTES = 1 << 20


def download(url: str, target: Path, checksum: str | None = None, size_bytes: int | None = None) -> None:
    """Fetch a URL into a file, or go on where an earlier call was stopped.

    Processes that want the same file wait for each other, and one fetches it.

    Args:
        url: http or https.
        target: the file; it is there already, or appears whole.
        checksum: `<algorithm>:<hex digits>`; None if none is known.
        size_bytes: the whole file's size; None if it is not known.

    Raises:
        DownloadError: the server refuses or stays silent, or what arrived is not the
            file that the checksum belongs to. What is not proven wrong is kept.
        ValueError: the checksum is of an unknown kind.
    """
    from filelock import FileLock

    part = target.with_name(target.name + ".part")
    algorithm, digits = parse_checksum(checksum) if checksum else ("", "")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{part}.lock"):
        if target.is_file():  # another process was faster
            return
        logger.info("downloading %s to %s", url, target)
        try:
            persist(url, lambda: _download_once(url, part, size_bytes), lambda: _size_of(part))
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(
                f"cannot download {url}: {reason(error)}. What has arrived is kept, and the next try "
                "goes on from there"
            ) from error
        if checksum and not has_checksum(part, checksum):
            part.unlink()
            raise DownloadError(
                f"{url} arrived damaged: its {algorithm} is not {digits}. It was deleted; try again"
            )
        part.replace(target)
    _validator_file(part).unlink(missing_ok=True)


def read_json(url: str, *, is_quick: bool = False) -> Any:
    """Return the JSON document behind a URL.

    Args:
        url: http or https.
        is_quick: try once, for a few seconds, instead of retrying as a download does.

    Raises:
        DownloadError: it cannot be had, or is no JSON.
    """

    def read() -> bytes:
        request = urllib.request.Request(url, headers={"User-Agent": "hear_dasheng"})
        with urllib.request.urlopen(request, timeout=QUICK_TIMEOUT_S if is_quick else TIMEOUT_S) as response:
            return response.read()

    try:
        return json.loads(read() if is_quick else persist(url, read))
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"cannot read {url}: {reason(error)}") from error
    except ValueError as error:
        raise DownloadError(f"{url} is no JSON document: {error}") from error


def _validator_file(part: Path) -> Path:
    """Holds the ETag of the file that `part` is the beginning of."""
    return part.with_name(part.name + ".etag")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download_once(url: str, part: Path, size_bytes: int | None) -> None:
    """Fetch what `part` lacks, in one connection."""
    have = _size_of(part)
    if size_bytes is not None and have >= size_bytes:
        if have == size_bytes:
            return
        part.unlink()
        have = 0
    response = _open(url, part, have)
    if response is None:
        return
    with response:
        have, total = _extent(response, have)
        if total is not None and size_bytes is not None and total != size_bytes:
            raise DownloadError(f"the server has {total} bytes where {size_bytes} were announced")
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):
            _validator_file(part).write_text(etag)
        else:
            _validator_file(part).unlink(missing_ok=True)
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem)
        with bar, part.open("ab" if have else "wb") as file:
            while block := response.read1(BLOCK_BYTES):  # what is there; a stall loses nothing
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    expected = size_bytes if total is None else total
    if expected is not None and _size_of(part) != expected:
        raise OSError(f"the connection ended after {_size_of(part)} of {expected} bytes")


def _open(url: str, part: Path, have: int) -> http.client.HTTPResponse | None:
    """Ask for the bytes from `have` on; None if the server says that there are no more."""
    headers = {"User-Agent": "hear_dasheng"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _validator_file(part).exists():
            headers["If-Range"] = _validator_file(part).read_text()
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "").strip() == f"bytes */{have}":
            return None
        part.unlink()  # the server's file is not longer than what we have: begin anew
        raise OSError(f"the server has no bytes after {have}") from error


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where a response begins (0, or `have`), and the size of the whole file if it is told."""
    length = response.headers.get("Content-Length")
    if response.status != 206:
        return 0, None if length is None else int(length)
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if told and int(told[1]) != have:
        raise OSError(f"the server sent bytes from {told[1]} on where those from {have} on were asked for")
    if told and told[2] != "*":
        return have, int(told[2])
    return have, None if length is None else have + int(length)
