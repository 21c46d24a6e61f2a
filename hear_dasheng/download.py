"""A published name, a URL or a Hub id -> a checkpoint on this disk.

Hub ids go through huggingface_hub and its cache (`HF_HOME`). URLs and published
names go to torch.hub's folder of checkpoints (`TORCH_HOME`), where the package
`dasheng` keeps them as well. A download resumes, shows its progress, is checked
(size, and checksum where one is known) and takes its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger(__name__)

ZENODO_RECORD = "https://zenodo.org/records/11511780/files"
PUBLISHED = {
    "dasheng_base": f"{ZENODO_RECORD}/dasheng_base.pt?download=1",
    "dasheng_06B": f"{ZENODO_RECORD}/dasheng_06b.pt?download=1",
    "dasheng_12B": f"{ZENODO_RECORD}/dasheng_12b.pt?download=1",
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("config.json", "model.safetensors")

ATTEMPTS = 5
TIMEOUT_S = 30
BLOCK_BYTES = 1 << 20


class DownloadError(OSError):
    """A checkpoint could not be fetched; the message says which file to put where."""


def locate(name: str | Path) -> Path:
    """The local path of a checkpoint, downloaded first if it is not on this disk.

    Args:
        name: a path, a published name (`dasheng_base`, `dasheng_06B`, `dasheng_12B`),
            an http(s) URL (`#sha256=...` or `#md5=...` at its end is verified) or a Hub id.

    Raises:
        FileNotFoundError: neither an existing path nor any of the others.
        DownloadError: it has to be fetched and cannot be.
    """
    text = str(name)
    path = Path(text).expanduser()
    if path.exists():
        return path
    if text in PUBLISHED:
        return fetch(PUBLISHED[text])
    if text.startswith(("http://", "https://")):
        return fetch(text)
    if HUB_ID.fullmatch(text) and path.suffix not in (".pt", ".pth", ".safetensors"):
        return fetch_from_hub(text)
    raise FileNotFoundError(
        f"no checkpoint at {text!r} (seen from {Path.cwd()}); give an existing file or folder, "
        f"one of {', '.join(PUBLISHED)}, a URL, or a Hugging Face id such as mispeech/dasheng-base"
    )


def fetch_from_hub(repo_id: str) -> Path:
    """The folder of a Hub repository's config and weights in the local Hub cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        paths = [Path(hf_hub_download(repo_id, file)) for file in HUB_FILES]
    except Exception as error:  # the Hub's client raises its HTTP library's errors too
        raise DownloadError(
            f"there is no file or folder {repo_id!r} (seen from {Path.cwd()}), and as a Hugging Face "
            f"id it cannot be fetched: {str(error).rstrip('.')}. Without a network, put "
            f"{' and '.join(HUB_FILES)} of {repo_id} into a folder and pass that, "
            f"or fill the Hub cache at {HF_HUB_CACHE}"
        ) from error
    return paths[0].parent


def cache_folder() -> Path:
    """Where downloaded files are kept: torch.hub's folder of checkpoints."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(url: str) -> Path:
    """Download a file once; later calls find it in the cache."""
    from filelock import FileLock

    url, _, fragment = url.partition("#")
    target = cache_folder() / Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with FileLock(f"{part}.lock"):
        if target.is_file():  # another process was faster
            return target
        try:
            logger.info("downloading %s to %s", url, target)
            _download(url, part)
            checksum = fragment.replace("=", ":", 1) or _zenodo_checksum(url)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DownloadError(
                f"cannot download {url}: {error}. What has arrived is kept, and the next try goes "
                f"on from there. Without a network, put the file at {target} or pass its path"
            ) from error
        if checksum:
            _verify(part, checksum, url)
        else:
            logger.warning("no checksum is known for %s; only its size was checked", url)
        part.replace(target)
    _validator_file(part).unlink(missing_ok=True)
    return target


def _validator_file(part: Path) -> Path:
    """Holds the ETag of the file that `part` is the beginning of."""
    return part.with_name(part.name + ".etag")


def _download(url: str, part: Path) -> None:
    """Fill `part`, going on from what it holds, with a few tries."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download_once(url, part)
            return
        except (OSError, http.client.HTTPException) as error:
            is_refused = isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410)
            is_offline = isinstance(getattr(error, "reason", None), socket.gaierror)
            if is_refused or is_offline or attempt == ATTEMPTS:
                raise
            pause_s = min(2.0 ** (attempt - 1) / 2, 8.0)
            logger.warning("%s: %s; trying again in %.1f s", url, error, pause_s)
            time.sleep(pause_s)


def _download_once(url: str, part: Path) -> None:
    validator_file = _validator_file(part)
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "hear_dasheng"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator_file.exists():
            headers["If-Range"] = validator_file.read_text()
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # the server's file is not longer than what we have: begin anew
        raise OSError(f"the server has no bytes after {have}") from error
    with response:
        if response.status != 206:
            have = 0
        if etag := response.headers.get("ETag"):
            validator_file.write_text(etag)
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem)
        with bar, part.open("ab" if have else "wb") as file:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"the connection ended after {size} of {total} bytes")


def _zenodo_checksum(url: str) -> str | None:
    """`md5:...` of a file of a Zenodo record, from the record's own metadata; None elsewhere."""
    match = re.fullmatch(r"(https?://[^/]+)/records/(\d+)/files/([^/?]+)(\?.*)?", url)
    if match is None:
        return None
    host, record, key, _ = match.groups()
    with urllib.request.urlopen(f"{host}/api/records/{record}", timeout=TIMEOUT_S) as response:
        files = json.load(response)["files"]
    checksums = {file["key"]: file["checksum"] for file in files}
    if key not in checksums:
        raise ValueError(f"record {record} lists no file {key}")
    return checksums[key]


def _verify(part: Path, checksum: str, url: str) -> None:
    algorithm, _, expected = checksum.partition(":")
    if algorithm not in ("md5", "sha1", "sha256", "sha512"):
        raise ValueError(f"unknown checksum {checksum!r} for {url}; write #sha256=... or #md5=...")
    digest = hashlib.new(algorithm)
    with part.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != expected.lower():
        part.unlink()
        raise DownloadError(
            f"{url} arrived damaged: its {algorithm} is {digest.hexdigest()}, not {expected}. "
            "It was deleted; try again"
        )
