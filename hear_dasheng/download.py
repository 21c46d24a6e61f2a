"""A published name, a URL or a Hub id -> a checkpoint on this disk.

Hub ids go through huggingface_hub and its cache (`HF_HOME`). URLs and published
names go to torch.hub's folder of checkpoints (`TORCH_HOME`), where the package
`dasheng` keeps the published files as well. `safe_download` resumes, shows its progress
and checks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import socket
import urllib.parse
import urllib.request
from pathlib import Path

from hear_dasheng.files.atomic import write_atomically
from hear_dasheng.files.strict_json import JsonProblem, read_json_object
from safe_download.checksum import has_checksum, parse_checksum
from safe_download.http_file import download
from safe_download.patience import DownloadError
from safe_download.zenodo import file_behind

logger = logging.getLogger(__name__)

ZENODO_RECORD = "https://zenodo.org/records/11511780/files"
AUDIOSET_RECORD = "https://zenodo.org/records/13315686/files"
PUBLISHED = {
    "dasheng_base": f"{ZENODO_RECORD}/dasheng_base.pt?download=1",
    "dasheng_06B": f"{ZENODO_RECORD}/dasheng_06b.pt?download=1",
    "dasheng_12B": f"{ZENODO_RECORD}/dasheng_12b.pt?download=1",
    "dasheng_audioset": f"{AUDIOSET_RECORD}/dasheng_audioset_mAP497.pt?download=1",
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("config.json", "model.safetensors")


def locate(name: str | Path) -> Path:
    """The local path of a checkpoint, downloaded first if it is not on this disk.

    Args:
        name: a path, a published name (`dasheng_base`, `dasheng_06B`, `dasheng_12B`, `dasheng_audioset`),
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
    from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE

    is_offline = not _is_known(ENDPOINT)  # else the Hub's client would try for half a minute
    try:
        paths = [Path(hf_hub_download(repo_id, file, local_files_only=is_offline)) for file in HUB_FILES]
    except Exception as error:  # the Hub's client raises its HTTP library's errors too
        reason = " ".join(str(error).split()).rstrip(".")
        why = f"{ENDPOINT} is not known to this network" if is_offline else reason
        raise DownloadError(
            f"there is no file or folder {repo_id!r} (seen from {Path.cwd()}), and as a Hugging Face "
            f"id it cannot be fetched: {why}. Without a network, put "
            f"{' and '.join(HUB_FILES)} of {repo_id} into a folder and pass that, "
            f"or fill the Hub cache at {HF_HUB_CACHE}"
        ) from error
    return paths[0].parent


def _is_known(url: str) -> bool:
    """Whether a server's name is; behind a proxy, which alone may know it, it is taken to be."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, None)
    except OSError:
        return False
    return True


def cache_folder() -> Path:
    """Where downloaded files are kept: torch.hub's folder of checkpoints."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def cached_path(url: str) -> Path:
    """Return where the file behind a URL is kept.

    The name has a digest of the whole URL: its last component alone would give one URL another URL's weights.
    Only published files are kept under their own names, which the package `dasheng` uses, too.
    """
    last = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if url in PUBLISHED.values():
        return cache_folder() / last
    name = Path(re.sub(r"[^\w.-]", "_", last))
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return cache_folder() / f"{name.stem[:80]}-{digest}{name.suffix[:20]}"


def fetch(url: str) -> Path:
    """Return the file behind a URL, downloaded once; later calls find it in the cache.

    Args:
        url: http or https; the checksum of `#sha256=...` or `#md5=...` is verified at every call.

    Raises:
        DownloadError: it cannot be had or is damaged, or another file has a published file's name; the
            message says which file to put where.
    """
    address, _, fragment = url.partition("#")
    target = cached_path(address if address in PUBLISHED.values() else url)
    try:
        checksum = ":".join(parse_checksum(fragment.replace("=", ":", 1))) if fragment else None
        if target.is_file():
            if address in PUBLISHED.values():
                verify_published(target, address, checksum)
                return target
            if checksum is None or has_checksum(target, checksum):
                return target
            logger.warning("%s does not have the checksum of %s; downloading it again", target, url)
            target.unlink()
        return _downloaded(address, target, checksum)
    except (OSError, ValueError) as error:
        file = "" if address in str(error) else f"cannot fetch {address}: "
        raise DownloadError(
            f"{file}{str(error).rstrip('.')}. Without a network, put the file at {target} or pass its path"
        ) from error


def _downloaded(address: str, target: Path, checksum: str | None) -> Path:
    """Download a file, or return an earlier version's copy if a checksum proves that it is the same."""
    in_record = None if checksum else file_behind(address)
    checksum = checksum or (in_record.checksum if in_record else None)
    if not checksum:
        logger.warning("no checksum is known for %s; only its size is checked", address)
    earlier = target.with_name(Path(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name or ".")
    if checksum and earlier.is_file() and has_checksum(earlier, checksum):
        return earlier
    download(address, target, checksum, in_record.size_bytes if in_record else None)
    if address in PUBLISHED.values():
        _note_verified(target, checksum)
    return target


def verify_published(path: Path, url: str, checksum: str | None = None) -> None:
    """Check once that a cached file is the published one, and not another of its name.

    The package `dasheng` and earlier versions of ours keep files there without a check, the latter from any
    URL. What has been verified is noted beside the file. Where the record cannot be read, a warning says so.

    Args:
        path: the cached file.
        url: of the published file.
        checksum: of the file, if the user knows it; None: the record's.

    Raises:
        DownloadError: it is another file.
    """
    if checksum:
        if not has_checksum(path, checksum):
            raise DownloadError(
                f"{path} is not {url}: its {checksum.partition(':')[0]} differs; move it away"
            )
        return
    if _is_noted(path):
        return
    try:
        if not _is_known(url):
            raise DownloadError("its server is not known to this network")
        in_record = file_behind(url, is_quick=True)
    except DownloadError as error:
        logger.warning("%s is used as it is: that it is %s cannot be verified (%s)", path, url, error)
        return
    if in_record is None:
        return
    size = path.stat().st_size
    if size != in_record.size_bytes or not has_checksum(path, in_record.checksum):
        raise DownloadError(
            f"{path} is not {url}: it has {size} bytes, the published file {in_record.size_bytes}, or "
            "another content; move it away, and the published file is downloaded"
        )
    _note_verified(path, in_record.checksum)


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified.json")


def _is_noted(path: Path) -> bool:
    """Return whether a file is unchanged since it was verified."""
    try:
        note, found = read_json_object(_note_of(path)), path.stat()
    except (OSError, JsonProblem):
        return False
    return (note.get("bytes"), note.get("mtime_ns")) == (found.st_size, found.st_mtime_ns)


def _note_verified(path: Path, checksum: str | None) -> None:
    found = path.stat()
    note = {"checksum": checksum, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    try:
        write_atomically(_note_of(path), json.dumps(note) + "\n")
    except OSError as error:
        logger.info("%s was verified, and will be again: no note can be left beside it (%s)", path, error)
