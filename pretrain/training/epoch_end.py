"""What happens after an epoch: validation, pictures, the probe, and the encoders that stay."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hear_dasheng.encoder import Encoder
from pretrain.masked_autoencoder import MaskedAutoencoder, autoencoder_of_state
from pretrain.reading.sources import parse_sources
from pretrain.shards import CropBatches
from pretrain.training import encoders
from pretrain.training.config import PretrainConfig
from pretrain.training.journal import Journal, read_metrics
from pretrain.training.knn_probe import knn_accuracy, labelled_files
from pretrain.training.pictures import draw_loss_curve, draw_reconstructions, reconstruct
from pretrain.training.processes import Processes
from pretrain.training.state import Progress
from pretrain.training.validation import mask_of_keys, validation_loss

logger = logging.getLogger(__name__)

LAST, AVERAGED, EMA = "last", "averaged", "ema"
PICTURES = "pictures"


class EpochEnd:
    """Looks at the model between epochs; all processes must call its methods together."""

    def __init__(
        self,
        config: PretrainConfig,
        run_dir: Path,
        accelerator: Accelerator,
        processes: Processes,
        bare_model: MaskedAutoencoder,
    ) -> None:
        self.config, self.run_dir = config, run_dir
        self.accelerator, self.processes = accelerator, processes
        self.encoder_config = bare_model.encoder.config
        self.n_tokens = bare_model.n_tokens(config.chunk_samples)
        self.batches = self._validation_batches(config.batch_size, processes, config.num_workers)
        self.knn_files = labelled_files(config.knn_data) if config.knn_data else []

    def _validation_batches(self, batch_size: int, processes: Processes, n_workers: int) -> CropBatches:
        return CropBatches(
            parse_sources(self.config.cv_data),
            batch_size=batch_size,
            chunk_samples=self.config.chunk_samples,
            sample_rate_hz=self.config.sample_rate,
            shuffle_crops=0,
            resampled=False,
            seed=self.config.seed,
            rank=processes.rank,
            n_ranks=processes.count,
            n_workers=n_workers,
        )

    def __call__(
        self, model: nn.Module, ema: AveragedModel | None, progress: Progress, journal: Journal
    ) -> None:
        """Validate after `progress.epoch` epochs, and write what is to be kept."""
        config, started = self.config, time.monotonic()
        scores: dict[str, float] = {}
        if progress.epoch % config.valid_every == 0:
            scores["valid_loss"] = validation_loss(
                model, self.batches, config, self.n_tokens, self.accelerator, self.processes
            )
        copy = self._copy_on_main(model)
        if copy is not None:
            self._write_last(copy.encoder)
            if self.knn_files and progress.epoch % config.knn_every == 0:
                device = str(self.accelerator.device)
                scores["knn_accuracy"] = knn_accuracy(self.run_dir, self.knn_files, device)
            self._keep_if_among_the_best(copy.encoder, scores, progress)
            if ema is not None:
                encoders.write_encoder(ema.module, self.run_dir / EMA)
            if scores:
                shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
                logger.info("Epoch %d of %d: %s", progress.epoch, config.epochs, shown)
                seconds = round(time.monotonic() - started, 2)
                journal.write(progress.iteration, epoch=progress.epoch, validation_s=seconds, **scores)
            self._draw(copy, scores, progress)
        self.accelerator.wait_for_everyone()

    def _copy_on_main(self, model: nn.Module) -> MaskedAutoencoder | None:
        """The whole model on the first process's CPU, however it is distributed."""
        state = self.accelerator.get_state_dict(model)
        if not self.accelerator.is_main_process:
            return None
        return autoencoder_of_state(state, self.encoder_config, self.config.size)

    def _keep_if_among_the_best(
        self, encoder: Encoder, scores: Mapping[str, float], progress: Progress
    ) -> None:
        name, sign = self.config.score_function
        score = scores.get({"Loss": "valid_loss", "kNN": "knn_accuracy"}[name])
        epoch = f"epoch_{progress.epoch:04d}"
        if score is None or not encoders.is_among_best(
            progress.best, sign * score, epoch, self.config.n_saved
        ):
            return
        encoders.write_encoder(encoder, self.run_dir / encoders.BEST / epoch)

    def _write_last(self, encoder: Encoder) -> None:
        encoders.write_encoder(encoder, self.run_dir / LAST)
        encoders.publish(self.run_dir / LAST, self.run_dir)

    def write_last(self, model: nn.Module) -> None:
        """Write the encoder as it is now, in the middle of an epoch."""
        copy = self._copy_on_main(model)
        if copy is not None:
            self._write_last(copy.encoder)

    def _draw(self, model: MaskedAutoencoder, scores: Mapping[str, float], progress: Progress) -> None:
        folder = self.run_dir / PICTURES
        draw_loss_curve(read_metrics(self.run_dir), folder / "loss.png")
        if not self.config.picture_clips or "valid_loss" not in scores:
            return
        batch = next(iter(self._validation_batches(self.config.picture_clips, Processes(), 0)))
        mask = mask_of_keys(batch.keys, self.n_tokens, self.config)
        spectrograms = reconstruct(model, batch.waveforms, mask)
        title = (
            f"epoch {progress.epoch}, iteration {progress.iteration}, "
            f"validation loss {scores['valid_loss']:.4f}"
        )
        frame_s = self.encoder_config.mel.hop_samples / self.config.sample_rate
        draw_reconstructions(
            spectrograms, batch.keys, frame_s, title, folder / f"epoch_{progress.epoch:04d}.png"
        )

    def finish(self, progress: Progress) -> None:
        """Average the best encoders, and make that average the run's encoder."""
        if not self.accelerator.is_main_process:
            return
        folders = [self.run_dir / encoders.BEST / name for _, name in progress.best]
        chosen = self.run_dir / LAST
        if folders:
            chosen = folders[0]
            if self.config.average_final_model:
                chosen = self.run_dir / AVERAGED
                encoders.write_encoder(encoders.average(folders), chosen)
                logger.info(
                    "Averaged the %d best encoders: %s", len(folders), ", ".join(f.name for f in folders)
                )
        encoders.publish(chosen, self.run_dir)
        logger.info("Done. The run's encoder (from %s) is a HEAR checkpoint: %s", chosen.name, self.run_dir)
