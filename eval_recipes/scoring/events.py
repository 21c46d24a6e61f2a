"""Probabilities of frames -> events: a median filter, a threshold, a shortest duration.

The median of a window exceeds the threshold exactly if enough of its values do, so the
filter is a count over a cumulative sum, for all files and labels at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

THRESHOLD = 0.5

Postprocessing = tuple[tuple[str, Any], ...]
"""Settings as heareval writes them: (("median_filter_ms", 250), ("min_duration", 125))."""

DEFAULT_GRID: dict[str, list[Any]] = {"median_filter_ms": [250], "min_duration": [125, 250]}


@dataclass(frozen=True)
class Events:
    """Events of many files.

    Attributes:
        file: index of the file.
        label: index of the label.
        start_s: onset in seconds.
        end_s: offset in seconds.
    """

    file: Int[ndarray, " events"]
    label: Int[ndarray, " events"]
    start_s: Float[ndarray, " events"]
    end_s: Float[ndarray, " events"]

    def __len__(self) -> int:
        return len(self.file)


def true_events(
    listed: dict[str, list[dict[str, Any]]], files: list[str], label_to_index: dict[str, int]
) -> Events:
    """The true events of `files`; a label outside the vocabulary gets an index that nothing has."""
    index_of = {file: index for index, file in enumerate(files)}
    rows = [
        (
            index_of[file],
            label_to_index.get(str(event["label"]), -1),
            event["start"] / 1000.0,
            event["end"] / 1000.0,
        )
        for file, events in listed.items()
        if file in index_of
        for event in events
    ]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return Events(columns[:, 0].astype(int), columns[:, 1].astype(int), columns[:, 2], columns[:, 3])


class FrameTimeline:
    """The frames of some files in order of time, and windows over them.

    Args:
        frames: file name and time in ms of each row of predictions. If a file has a time
            twice, the last row counts.
    """

    def __init__(self, frames: list[tuple[str, float]]) -> None:
        self.files = list(dict.fromkeys(file for file, _ in frames))
        index_of = {file: index for index, file in enumerate(self.files)}
        file = np.array([index_of[name] for name, _ in frames])
        time_ms = np.array([time for _, time in frames], dtype=np.float64)
        order = np.lexsort((np.arange(len(frames)), time_ms, file))
        is_last = np.ones(len(order), dtype=bool)
        is_last[:-1] = (np.diff(file[order]) != 0) | (np.diff(time_ms[order]) != 0)
        self.row = order[is_last]
        self.file, self.time_ms = file[self.row], time_ms[self.row]
        self.first = np.searchsorted(self.file, np.arange(len(self.files) + 1))
        self._windows: dict[float, tuple[ndarray, ndarray, ndarray]] = {}

    def events(
        self,
        probabilities: Float[ndarray, "rows labels"],
        *,
        threshold: float = THRESHOLD,
        median_filter_ms: float = 150,
        min_duration: float = 60.0,
    ) -> Events:
        """Find events: runs of frames above the threshold that last `min_duration` ms or more.

        The defaults are heareval's, for a task that sets only one of them.
        """
        is_on = (probabilities > threshold)[self.row]
        if median_filter_ms:
            is_on = self._median(is_on, median_filter_ms)
        edge = np.zeros(len(is_on), dtype=bool)
        edge[self.first[:-1]] = True
        is_start, is_end = is_on.copy(), is_on.copy()
        is_start[1:] &= ~is_on[:-1] | edge[1:, None]
        is_end[:-1] &= ~is_on[1:] | edge[1:, None]
        label, start = np.nonzero(is_start.T)
        end = np.nonzero(is_end.T)[1]
        kept = self.time_ms[end] - self.time_ms[start] >= min_duration
        label, start, end = label[kept], start[kept], end[kept]
        return Events(self.file[start], label, self.time_ms[start] / 1000.0, self.time_ms[end] / 1000.0)

    def _median(self, is_on: Bool[ndarray, "frames labels"], filter_ms: float) -> Bool[ndarray, ...]:
        if filter_ms not in self._windows:
            self._windows[filter_ms] = self._window(filter_ms)
        padded, begin, width = self._windows[filter_ms]
        count = np.zeros((len(padded) + 1, is_on.shape[1]), dtype=np.int32)
        np.cumsum(is_on[padded], axis=0, dtype=np.int32, out=count[1:])
        return count[begin + width] - count[begin] >= (width - width // 2)[:, None]

    def _window(self, filter_ms: float) -> tuple[ndarray, ndarray, ndarray]:
        """Frames with each file mirrored at its ends; where each frame's window begins; its width."""
        padded, begin, widths, length = [], [], [], 0
        for first, last in zip(self.first[:-1], self.first[1:], strict=True):
            frames = last - first
            width = 1
            if frames > 1:
                width = max(1, round(filter_ms / float(np.mean(np.diff(self.time_ms[first:last])))))
            place = np.arange(-(width // 2), frames + width - width // 2 - 1) % (2 * frames)
            padded.append(first + np.minimum(place, 2 * frames - 1 - place))
            begin.append(length + np.arange(frames))
            widths.append(np.full(frames, width))
            length += len(place)
        return np.concatenate(padded), np.concatenate(begin), np.concatenate(widths)
