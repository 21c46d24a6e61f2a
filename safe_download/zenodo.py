"""A Zenodo record -> its files: names, sizes, checksums, addresses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from safe_download.http_file import read_json
from safe_download.patience import DownloadError

HOST = "https://zenodo.org"


@dataclass(frozen=True)
class RecordFile:
    """A file of a record.

    Attributes:
        name: inside the record.
        url: of its content.
        size_bytes: of its content.
        checksum: `md5:<hex digits>`.
    """

    name: str
    url: str
    size_bytes: int
    checksum: str


def record_files(record: int, host: str = HOST, *, is_quick: bool = False) -> dict[str, RecordFile]:
    """All files of a record by name, as its own metadata tell them.

    Args:
        record: its number.
        host: where it lies; a mirror's or a test server's address does as well.
        is_quick: give up after one try of a few seconds.

    Raises:
        DownloadError: the metadata cannot be had, or are of another form.
    """
    host = host.rstrip("/")
    address = f"{host}/api/records/{record}"
    metadata = read_json(address, is_quick=is_quick)
    try:
        return {
            file["key"]: RecordFile(
                file["key"],
                f"{host}/records/{record}/files/{quote(file['key'])}?download=1",
                int(file["size"]),
                str(file["checksum"]),
            )
            for file in metadata["files"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DownloadError(
            f"{address} does not list files with key, size and checksum, as Zenodo's records do ({error!r})"
        ) from error


def file_behind(url: str, *, is_quick: bool = False) -> RecordFile | None:
    """The record's file that a URL of Zenodo's form stands for; None for URLs of another form.

    Args:
        url: of the file.
        is_quick: give up after one try of a few seconds.

    Raises:
        DownloadError: the record cannot be read or lists no such file.
    """
    match = re.fullmatch(r"(https?://[^/]+)/records/(\d+)/files/([^/?]+)(\?.*)?", url)
    if match is None:
        return None
    host, record, name = match[1], int(match[2]), unquote(match[3])
    files = record_files(record, host, is_quick=is_quick)
    if name not in files:
        raise DownloadError(f"record {record} lists no file {name}")
    return files[name]
