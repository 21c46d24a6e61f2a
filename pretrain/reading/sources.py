"""What to read: a config's data lists -> shards, with their weights."""

from __future__ import annotations

import difflib
import glob
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pretrain.reading.braces import expand_braces

logger = logging.getLogger(__name__)

PIPE = "pipe:"
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SHOWN = 4
"""Names in an error message."""


@dataclass(frozen=True)
class Source:
    """Tar shards that share a weight.

    Attributes:
        urls: local paths, URLs that fsspec opens, and `pipe:` commands whose output is a tar.
        weight: how often each of the shards is drawn, relative to other sources'. With equal
            weights every shard of the data is as likely as any other, as in the published trainer.
    """

    urls: tuple[str, ...]
    weight: float = 1.0


def parse_sources(entries: Sequence[str | Mapping[str, Any]] | str | Mapping[str, Any]) -> list[Source]:
    """Expand the entries of `train_data` or `cv_data`, and check what can be checked at once.

    Args:
        entries: each is a string, or a mapping of `urls` (string or list of strings) and
            `weight` (default 1). In the strings `{000..009}` and `{a,b}` are expanded, and
            `*`, `?`, `[...]` and `~` in local paths.

    Returns:
        A source for each entry, in this order.

    Raises:
        ValueError: no entries, an entry of another form, unbalanced braces, a weight that is
            no number above 0, a protocol that fsspec cannot open, or a local path that
            is a folder.
        FileNotFoundError: a local shard does not exist.

    >>> parse_sources(["pipe:cat a_{0..1}.tar", {"urls": "s3://bucket/b.tar", "weight": 2}])
    ... # doctest: +NORMALIZE_WHITESPACE
    [Source(urls=('pipe:cat a_0.tar', 'pipe:cat a_1.tar'), weight=1.0),
     Source(urls=('s3://bucket/b.tar',), weight=2.0)]
    """
    if isinstance(entries, str | Mapping):
        entries = [entries]
    if not entries:
        raise ValueError("the list of data is empty; name tar shards, e.g. shards/train_{0000..0009}.tar")
    sources = [_parse(entry) for entry in entries]
    counts = Counter(url for source in sources for url in source.urls)
    if repeated := [url for url, count in counts.items() if count > 1]:
        logger.warning("Listed more than once, so read more than once: %s", _some(repeated))
    return sources


def shard_labels(urls: Sequence[str]) -> list[str]:
    """Short, distinct names for shards: the last parts of their URLs, as many as it takes.

    Query strings, where access tokens are, are left out.

    >>> shard_labels(["/a/train/0.tar", "https://b/train/1.tar?token=x"])
    ['0.tar', '1.tar']
    >>> shard_labels(["train/0.tar", "test/0.tar", "test/0.tar"])
    ['train/0.tar', 'test/0.tar', 'test/0.tar (2)']
    """
    paths = [re.split(r"[?#]", url)[0] if is_remote(url) else url for url in urls]
    parts = [path.rstrip("/").split("/") for path in paths]
    labels = [path[-1] for path in parts]
    distinct = len(set(urls))
    for n_parts in range(2, max(map(len, parts), default=0) + 1):
        if len(set(labels)) == distinct:
            break
        labels = ["/".join(path[-n_parts:]) for path in parts]
    seen: Counter[str] = Counter()
    for index, label in enumerate(labels):
        seen[label] += 1
        if seen[label] > 1:
            labels[index] = f"{label} ({seen[label]})"
    return labels


def is_remote(url: str) -> bool:
    """Whether fsspec opens this."""
    return "://" in url and not url.startswith((PIPE, "file://"))


def local_path(url: str) -> str:
    """The path of a local shard, which may be written as file://."""
    return url2pathname(urlsplit(url).path) if url.startswith("file://") else url


def _parse(entry: Any) -> Source:
    if isinstance(entry, str):
        entry = {"urls": entry}
    if not isinstance(entry, Mapping):
        raise ValueError(f"{entry!r} names no data; give a path, a URL, or {{urls: ..., weight: ...}}")
    for key in entry:
        if key not in ("urls", "weight"):
            nearest = difflib.get_close_matches(str(key), ("urls", "weight"), n=1, cutoff=0)[0]
            raise ValueError(f"{key!r} in {dict(entry)} is no key of a source; the nearest is {nearest!r}")
    patterns = entry.get("urls", [])
    patterns = [patterns] if isinstance(patterns, str) else patterns
    is_list = isinstance(patterns, Sequence) and all(isinstance(pattern, str) for pattern in patterns)
    if not is_list or not patterns or not all(patterns):
        raise ValueError(f"urls of {dict(entry)} must be a string or a list of strings, none empty")
    return Source(tuple(url for pattern in patterns for url in _expand(pattern)), _weight(entry))


def _weight(entry: Mapping[str, Any]) -> float:
    weight = entry.get("weight", 1.0)
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not (0 < weight < math.inf):
        raise ValueError(f"weight {weight!r} of {entry['urls']!r} must be a number above 0")
    return float(weight)


def _expand(pattern: str) -> list[str]:
    """The shards that one string stands for."""
    if "{" not in pattern or os.path.exists(pattern):  # braceexpand would also drop backslashes
        return _check(pattern)
    urls = expand_braces(pattern)
    missing = [url for url in urls if not _is_there(url)]
    if len(missing) > 1:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(urls)} shards of {pattern!r} do not exist: "
            f"{_some(missing)}{_nearby(missing[0])}"
        )
    return [checked for url in urls for checked in _check(url)]


def _is_there(url: str) -> bool:
    return _is_command_or_remote(url) or bool(_matches(url))


def _is_command_or_remote(url: str) -> bool:
    return url.startswith(PIPE) or is_remote(url)


def _matches(url: str) -> list[str]:
    path = os.path.expanduser(local_path(url))
    return [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))


def _check(url: str) -> list[str]:
    """The one shard, or those that a glob finds."""
    if url.startswith(PIPE):
        if not url.removeprefix(PIPE).strip():
            raise ValueError(f"{url!r} holds no command; write e.g. 'pipe:zcat train_000.tar.gz'")
        return [url]
    if is_remote(url):
        _check_protocol(url)
        return [url]
    paths = _matches(url)
    if not paths:
        raise FileNotFoundError(f"there is no shard {url!r}{_nearby(url)}")
    for path in paths:
        if os.path.isdir(path):
            raise ValueError(
                f"{path!r} is a folder; name the shards in it, e.g. {os.path.join(path, '*.tar')!r}"
            )
    return paths


def _check_protocol(url: str) -> None:
    import fsspec

    protocol = re.split(r"::|://", url)[0]
    try:
        fsspec.get_filesystem_class(protocol)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{url!r} cannot be read: {error}") from error


def _nearby(url: str) -> str:
    """Where a missing path would be, and what is there that it may mean."""
    path = os.path.abspath(os.path.expanduser(local_path(url)))
    folder, missing = os.path.split(path)
    while not os.path.isdir(folder):
        folder, missing = os.path.split(folder)
    names = sorted(os.listdir(folder))
    archives = [name for name in names if name.endswith(ARCHIVES) and not name.startswith(".")]
    subfolders = [name for name in names if os.path.isdir(os.path.join(folder, name)) and name[0] != "."]
    like = archives if missing == os.path.basename(path) else subfolders
    found = difflib.get_close_matches(missing, like, n=SHOWN, cutoff=0.6) or archives
    held = f"holds {_some(found)}" if found else "holds no tar archive" if names else "is empty"
    return f"; the nearest folder that exists, {folder}, {held}. Correct the path or make the shard"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
