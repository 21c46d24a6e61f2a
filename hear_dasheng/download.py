"""A published name, a URL or a Hub id -> a checkpoint on this disk.

Hub ids go through huggingface_hub and its cache (`HF_HOME`). URLs and published
names go to torch.hub's folder of checkpoints (`TORCH_HOME`), where the package
`dasheng` keeps them as well. `safe_download` resumes, shows its progress and checks.
"""

from __future__ import annotations

import logging
import re
import socket
import urllib.parse
import urllib.request
from pathlib import Path

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


def fetch(url: str) -> Path:
    """Download a file once; later calls find it in the cache.

    Raises:
        DownloadError: it cannot be had or is damaged; the message says which file to put where.
    """
    url, _, fragment = url.partition("#")
    target = cache_folder() / Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if target.is_file():
        return target
    try:
        in_record = None if fragment else file_behind(url)
        checksum = fragment.replace("=", ":", 1) or (in_record.checksum if in_record else None)
        if not checksum:
            logger.warning("no checksum is known for %s; only its size is checked", url)
        download(url, target, checksum, in_record.size_bytes if in_record else None)
    except (OSError, ValueError) as error:
        file = "" if url in str(error) else f"cannot fetch {url}: "
        raise DownloadError(
            f"{file}{str(error).rstrip('.')}. Without a network, put the file at {target} or pass its path"
        ) from error
    return target
