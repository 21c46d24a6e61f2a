"""Another try, when it can help and as late as the server asks."""

from __future__ import annotations

import email.utils
import errno
import http.client
import logging
import re
import socket
import time
import urllib.error
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""Tries in a row that bring nothing new; a try that brings bytes begins the count again."""

LONGEST_PAUSE_S = 15 * 60
"""A server that asks for a longer pause is left alone for good."""

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 30.0
BUSY = (408, 425, 429)
"""Refusals of the kind 4xx that pass; the others do not."""

THIS_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.EFBIG}
"""Errors of writing, which no further try mends."""

Result = TypeVar("Result")
wait_s = time.sleep


class DownloadError(OSError):
    """A file could not be fetched."""


def pause_asked_for_s(retry_after: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for; None if it asks for nothing.

    >>> pause_asked_for_s("120")
    120.0
    >>> pause_asked_for_s("Wed, 21 Oct 2015 07:28:00 GMT")  # long past
    0.0
    """
    if retry_after is None:
        return None
    if re.fullmatch(r"\s*\d+\s*", retry_after):
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def persist(url: str, attempt: Callable[[], Result], arrived: Callable[[], int] = lambda: 0) -> Result:
    """Call `attempt` until it succeeds, cannot succeed, or brings nothing new too often.

    Args:
        url: for messages.
        attempt: raises OSError or HTTPException when it fails.
        arrived: bytes here so far; they tell whether a failed attempt brought any.
    """
    failures, most = 0, arrived()
    first = most
    while True:
        try:
            return attempt()
        except (OSError, http.client.HTTPException) as error:
            if arrived() > most:
                failures, most = 0, arrived()
            failures += 1
            pause_s = _pause_s(error, failures)
            is_offline = isinstance(getattr(error, "reason", None), socket.gaierror) and most == first
            if is_offline or _is_final(error) or failures >= ATTEMPTS or pause_s > LONGEST_PAUSE_S:
                raise
            logger.warning("%s: %s; trying again in %.1f s", url, reason(error), pause_s)
            wait_s(pause_s)


def _is_final(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return 400 <= error.code < 500 and error.code not in BUSY
    return isinstance(error, DownloadError) or getattr(error, "errno", None) in THIS_DISK


def _pause_s(error: Exception, failures: int) -> float:
    """What the server asks for, or the first pause, doubled with each failure, up to the last."""
    if isinstance(error, urllib.error.HTTPError):
        asked_s = pause_asked_for_s(error.headers.get("Retry-After"))
        if asked_s is not None:
            return asked_s
    return min(FIRST_PAUSE_S * 2.0 ** (failures - 1), LAST_PAUSE_S)


def reason(error: Exception) -> str:
    """What went wrong, in words, never empty."""
    if isinstance(error, urllib.error.HTTPError):
        asked = error.headers.get("Retry-After")
        return f"{error}" + (f" (it asks to be left alone until or for {asked})" if asked else "")
    return str(error) or type(error).__name__
