"""How many crops a pass over shards gives, as their audio files' headers promise."""

from __future__ import annotations

import io
from collections.abc import Sequence

import soundfile
from tqdm import tqdm

from pretrain.reading.tar_members import ShardFault, audio_members


def count_crops(
    urls: Sequence[str], chunk_samples: int, sample_rate_hz: int, *, shows_progress: bool = False
) -> int:
    """Count without decoding; files that fail to decode later are counted too.

    Args:
        urls: shards.
        chunk_samples: samples of a crop.
        sample_rate_hz: of the crops.
        shows_progress: with a bar.
    """
    total = 0
    for url in tqdm(urls, desc="counting crops", unit="shard", disable=not shows_progress):
        try:
            for member in audio_members(url, lambda index: True):
                total += _crops_promised(member.data, chunk_samples, sample_rate_hz)
        except ShardFault:
            continue  # the reader will skip the same, and say so
    return total


def _crops_promised(encoded: bytes | None, chunk_samples: int, sample_rate_hz: int) -> int:
    try:
        header = soundfile.info(io.BytesIO(encoded or b""))
    except soundfile.LibsndfileError:
        return 0
    if not header.frames:
        return 0
    return max(1, round(header.frames * sample_rate_hz / header.samplerate) // chunk_samples)
