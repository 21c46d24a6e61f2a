"""The stream of training batches of one process: pass after pass, and where it stands."""

from __future__ import annotations

import logging
import math
from collections import Counter
from itertools import islice
from typing import Any

from pretrain.reading.clip_labels import ClipLabels
from pretrain.reading.count_crops import count_crops
from pretrain.reading.sources import Source, parse_sources
from pretrain.shards import Batch, CropBatches, NoUsableAudio
from pretrain.training.config import RunConfig
from pretrain.training.processes import Processes
from pretrain.training.read_config import ConfigError

logger = logging.getLogger(__name__)


def configured_sources(config: RunConfig, key: str) -> list[Source]:
    """The shards of `train_data` or `cv_data`.

    Raises:
        ConfigError: an entry of another form, or a local shard that does not exist.
    """
    try:
        return parse_sources(getattr(config, key))
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"{key}: {error}") from error


class TrainingData:
    """This process's share of `train_data`.

    Args:
        config: names the data, crops and batches.
        processes: of the run.
        is_for_gpu: give batches in page-locked memory.
        labels: what to read beside the clips, if anything.

    Raises:
        ConfigError: the data cannot be read so.
    """

    def __init__(
        self, config: RunConfig, processes: Processes, is_for_gpu: bool, labels: ClipLabels | None = None
    ) -> None:
        self.config, self.processes = config, processes
        self.labels = labels
        self.sources = configured_sources(config, "train_data")
        if not config.resampled and any(source.weight != 1 for source in self.sources):
            raise ConfigError(
                "train_data has weights, but with `resampled: false` every crop is given once; "
                "leave them out, or set `resampled: true` and an epoch_length"
            )
        self.batches = CropBatches(
            self.sources,
            batch_size=config.batch_size,
            chunk_samples=config.chunk_samples,
            sample_rate_hz=config.sample_rate,
            shuffle_crops=config.crop_shuffle,
            resampled=config.resampled,
            seed=config.seed,
            rank=processes.rank,
            n_ranks=processes.count,
            n_workers=config.num_workers,
            pin_memory=is_for_gpu,
            clip_labels=labels,
            max_member_bytes=config.max_member_mib << 20,
        )
        self._skipped_before: Counter[str] = Counter()

    @property
    def n_shards(self) -> int:
        """Shards of all sources."""
        return sum(len(source.urls) for source in self.sources)

    def planned_iterations(self) -> int:
        """Of the whole run; where an epoch is one pass, as headers promise and `balanced` repeats."""
        config = self.config
        if config.epoch_length is not None:
            return config.epochs * config.epoch_length
        urls = [url for source in self.sources for url in source.urls]
        own_crops = count_crops(
            urls[self.processes.rank :: self.processes.count],
            config.chunk_samples,
            config.sample_rate,
            clip_labels=self.labels,
            max_member_bytes=config.max_member_mib << 20,
            shows_progress=self.processes.rank == 0,
        )
        (crops,) = self.processes.sums([own_crops])
        clips = config.batch_size * config.gradient_accumulation * self.processes.count
        return config.epochs * max(1, math.ceil(crops / clips))

    def open(self, data_pass: int) -> None:
        """Begin a pass.

        Args:
            data_pass: its number; the shuffles depend on it.
        """
        self.batches.set_pass(data_pass)
        self._start(is_begun=False)

    def resume(self, data_pass: int, position: Any, iteration: int, skipped: dict[str, int]) -> None:
        """Resume a pass; all processes must call this.

        A position fits only the shards, processes and workers that it was taken with. If the position of
        any process is lost, all begin the pass again, since they share its shards. The iteration then becomes
        part of the seeds, or training would repeat the stream's first crops after each such change.

        Args:
            data_pass: its number.
            position: what `position` gave; None if this process has none.
            iteration: the training run's.
            skipped: what had been left out before, on all processes.
        """
        self.batches.set_pass(data_pass)
        lost = self._why_position_is_lost(position)
        (n_lost,) = self.processes.sums([bool(lost)])
        if n_lost:
            logger.warning(
                "The current pass over the data begins again, with new shuffles for iteration %d: %s",
                iteration,
                lost or "another process has lost its position",
            )
            self.batches.start_anew(iteration)
            self._skipped_before = Counter(skipped)
        else:
            self._skipped_before = Counter(position.get("skipped_before", {}))
        self._start(is_begun=not n_lost)

    def _why_position_is_lost(self, position: Any) -> str:
        """Load a position; return why it cannot be used, or nothing."""
        if position is None:
            return "this process has no saved position, so the run had fewer processes"
        try:
            self.batches.load_state_dict(position)
        except ValueError as error:
            return str(error)
        return ""

    def _start(self, is_begun: bool) -> None:
        self._stream = iter(self.batches)
        self._clips_of_pass = int(is_begun)

    def take(self, n_batches: int) -> list[Batch]:
        """The next batches; fewer, or none, where this process's share of the pass ends."""
        return list(islice(self._stream, n_batches))

    def count(self, clips: float) -> None:
        """Note how many clips all processes have taken together.

        Raises:
            NoUsableAudio: the pass is over, and there was not one.
        """
        self._clips_of_pass += clips
        if not self._clips_of_pass:
            left_out = self.skipped() or "nothing, the shards are empty"
            self.processes.raise_first(
                NoUsableAudio(
                    f"not one clip of train_data {self.config.train_data} could be used; left out: {left_out}"
                )
            )

    def position(self) -> Any:
        """Where this process stands: after the last batch that was taken."""
        return self.batches.state_dict() | {"skipped_before": dict(self._skipped_before)}

    def skipped(self) -> dict[str, int]:
        """What all processes have left out since the run began, by reason; all must call this."""
        return dict(self._skipped_before + self.processes.merged(self.batches.skipped_total))
