"""How many crops a pass over shards gives, as their audio files' headers promise."""

from __future__ import annotations

import io
from collections.abc import Sequence

import soundfile
from tqdm import tqdm

from pretrain.reading.clip_labels import ClipLabels
from pretrain.reading.tar_members import MAX_MEMBER_BYTES, ShardFault, audio_members


def count_crops(
    urls: Sequence[str],
    chunk_samples: int,
    sample_rate_hz: int,
    *,
    clip_labels: ClipLabels | None = None,
    max_member_bytes: int = MAX_MEMBER_BYTES,
    shows_progress: bool = False,
) -> float:
    """Count without decoding; files that fail to decode later are counted too.

    Args:
        urls: shards.
        chunk_samples: samples of a crop.
        sample_rate_hz: of the crops.
        clip_labels: how often each clip is given, on the average of many passes; None: once.
        max_member_bytes: larger members are left out, as the reader does.
        shows_progress: with a bar.

    Raises:
        UnusableLabels: the repeats depend on labels, and a clip's are missing or of no class.
    """
    total = 0.0
    is_balanced = clip_labels is not None and clip_labels.repeats is not None
    for url in tqdm(urls, desc="counting crops", unit="shard", disable=not shows_progress):
        try:
            for member in audio_members(
                url, lambda index: True, with_labels=is_balanced, max_bytes=max_member_bytes
            ):
                if member.fault is not None:
                    continue
                crops = _crops_promised(member.data, chunk_samples, sample_rate_hz)
                if is_balanced:
                    crops *= clip_labels.mean_copies(
                        clip_labels.target(member.labels, f"{url}/{member.name}")
                    )
                total += crops
        except ShardFault:
            continue  # the reader will skip the same, and say so
    return total


def _crops_promised(encoded: bytes, chunk_samples: int, sample_rate_hz: int) -> int:
    try:
        header = soundfile.info(io.BytesIO(encoded))
    except soundfile.LibsndfileError:
        return 0
    if not header.frames:
        return 0
    return max(1, round(header.frames * sample_rate_hz / header.samplerate) // chunk_samples)
