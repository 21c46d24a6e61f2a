"""Which labels shards hold, and how many clips have each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from pretrain.reading.clip_labels import ClipLabels, LabelColumn
from pretrain.reading.tar_members import MAX_MEMBER_BYTES, ShardFault, audio_members

CLIPS = ""
"""Under which the clips themselves are counted; no label is empty."""


def count_labels(
    urls: Sequence[str],
    column: LabelColumn,
    *,
    known: ClipLabels | None = None,
    max_member_bytes: int = MAX_MEMBER_BYTES,
    shows_progress: bool = False,
) -> Counter[str]:
    """Count without reading audio, where shards can seek; clips that fail to decode later are counted too.

    Args:
        urls: shards.
        column: where their labels stand.
        known: what a label may be; None: anything.
        max_member_bytes: larger members are left out, as the reader does.
        shows_progress: with a bar.

    Returns:
        Clips of each label, and under `CLIPS` all of them.

    Raises:
        UnusableLabels: a clip has none, or one that is not known.
    """
    counts: Counter[str] = Counter()
    for url in tqdm(urls, desc="counting labels", unit="shard", disable=not shows_progress):
        try:
            for member in audio_members(
                url, lambda index: True, with_labels=True, with_audio=False, max_bytes=max_member_bytes
            ):
                if member.fault is not None:
                    continue
                counts[CLIPS] += 1
                clip = f"{url}/{member.name}"
                labels = set(column.labels_of(member.labels, clip))
                if known is not None:
                    known.numbers_of(labels, clip)
                counts.update(labels)
        except ShardFault:
            continue  # the reader will skip the same, and say so
    return counts
