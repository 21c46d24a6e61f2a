"""Pictures of a run: what the model reconstructs, and how its loss falls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from hear_dasheng.figure_text import plain_text
from hear_dasheng.patches import patchify, take_tokens
from pretrain.masked_autoencoder import MaskedAutoencoder, deviation
from pretrain.masking import Mask
from pretrain.training.run_folder import written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANGE_DB = 80.0
"""Levels further below the loudest are drawn alike."""
RATES = {
    "knn_accuracy": "accuracy of the kNN probe",
    "valid_map": "mean average precision",
    "valid_accuracy": "accuracy",
}
"""What validation tells beside the loss, between 0 and 1."""
RATE_COLORS = ("tab:green", "tab:red", "tab:purple")


@torch.no_grad()
def reconstruct(
    model: MaskedAutoencoder, waveforms: Float[Tensor, "clips samples"], mask: Mask
) -> dict[str, Float[Tensor, "clips mels frames"]]:
    """Log-mel spectrograms in dB: the original, what the encoder sees of it, and the prediction.

    The model predicts normalised patches; each gets the mean and the deviation of
    the true patch, which the model never predicts. Hidden patches are NaN in what the encoder sees.
    """
    mel = model.spectrogram(waveforms)
    patches = patchify(mel, *model.patch_size)
    hidden = take_tokens(patches, mask.masked)
    predictions = model.decoder(model.encoder(mel, kept=mask.kept), mask).float()
    predicted = predictions * deviation(hidden) + hidden.mean(dim=-1, keepdim=True)
    places = mask.masked[:, :, None].expand_as(hidden)
    pictures = {
        "original": patches,
        "what the encoder sees": patches.scatter(1, places, torch.nan),
        "reconstruction": patches.scatter(1, places, predicted),
    }
    return {name: unpatchify(image, model.patch_size, mel.shape[1]).cpu() for name, image in pictures.items()}


def unpatchify(
    patches: Float[Tensor, "clips tokens values"], patch_size: tuple[int, int], n_mels: int
) -> Float[Tensor, "clips mels frames"]:
    """Put patches back together: the inverse of `patchify`, but for what filled no patch."""
    mels, frames = patch_size
    bands = n_mels // mels
    clips, tokens, _ = patches.shape
    moments = tokens // bands
    grid = patches.reshape(clips, bands, moments, mels, frames)
    return grid.permute(0, 1, 3, 2, 4).reshape(clips, bands * mels, moments * frames)


def draw_reconstructions(
    spectrograms: dict[str, Float[Tensor, "clips mels frames"]],
    names: list[str],
    frame_s: float,
    title: str,
    path: Path,
) -> None:
    """A PNG with a row a clip: original, what the encoder sees, reconstruction.

    Args:
        spectrograms: from `reconstruct`.
        names: of the clips.
        frame_s: seconds from a frame to the next.
        title: over all of it.
        path: of the PNG.
    """
    rows, columns = len(names), len(spectrograms)
    with _png(path, 4.6 * columns, 0.7 + 1.9 * rows) as figure:
        figure.suptitle(title)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for row, name in enumerate(names):
            loudest = spectrograms["original"][row].max().item()
            for column, (kind, images) in enumerate(spectrograms.items()):
                axis, image = axes[row, column], images[row]
                axis.set_facecolor("lightgrey")
                drawn = axis.imshow(
                    image.numpy(),
                    origin="lower",
                    aspect="auto",
                    cmap="magma",
                    vmin=loudest - RANGE_DB,
                    vmax=loudest,
                    extent=(0, image.shape[1] * frame_s, 0, image.shape[0]),
                    interpolation="nearest",
                )
                if row == 0:
                    axis.set_title(kind)
                if row == rows - 1:
                    axis.set_xlabel("time in s")
            axes[row, 0].set_ylabel("mel band")
            axes[row, -1].annotate(
                _shortened(name),
                (0.99, 0.04),
                xycoords="axes fraction",
                ha="right",
                color="white",
                fontsize=7,
            )
            figure.colorbar(drawn, ax=list(axes[row]), label="level in dB")


def _shortened(name: str, length: int = 48) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]


def draw_loss_curve(metrics: list[dict[str, Any]], loss_name: str, path: Path) -> None:
    """A PNG of training and validation loss over the iterations, and of what else validation tells."""
    with _png(path, 8, 4.5) as figure:
        axis = figure.subplots()
        for key, label, style in (("loss", "training", "-"), ("valid_loss", "validation", "o-")):
            points = [(line["iteration"], line[key]) for line in metrics if key in line]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=label, markersize=4)
        axis.set_xlabel("iteration")
        axis.set_ylabel(loss_name)
        axis.grid(alpha=0.3)
        shown = {key: label for key, label in RATES.items() if any(key in line for line in metrics)}
        other = axis.twinx() if shown else None
        for key, color in zip(shown, RATE_COLORS, strict=False):
            points = [(line["iteration"], line[key]) for line in metrics if key in line]
            other.plot(*zip(*points, strict=True), "s--", color=color, label=RATES[key], markersize=4)
        if other is not None:
            other.set_ylabel(", ".join(shown.values()), color=RATE_COLORS[0])
        if axis.lines:
            axis.legend()


@contextmanager
def _png(path: Path, width_in: float, height_in: float) -> Iterator[Figure]:
    """Yield a figure that needs no display and becomes a PNG when the block ends."""
    from matplotlib.figure import Figure

    with plain_text():
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure
        with written(path) as partial:
            figure.savefig(partial, format="png", dpi=110)
