"""A glance at the representation while it is trained: nearest neighbours on a few labelled files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float

from hear_dasheng import load_model
from hear_dasheng.embed_files import scene_embeddings_of_files
from pretrain.reading.tar_members import AUDIO_SUFFIXES
from pretrain.training.read_config import ConfigError

NEIGHBOURS = 10


def labelled_files(folder: str | Path) -> list[tuple[Path, str]]:
    """Audio files in a folder per class.

    Raises:
        ConfigError: fewer than two classes, or a class of one file.
    """
    folder = Path(folder)
    try:
        return _labelled_files(folder)
    except OSError as error:
        raise ConfigError(
            f"knn_data {folder} cannot be read: {error.strerror}; name another folder"
        ) from error


def _labelled_files(folder: Path) -> list[tuple[Path, str]]:
    files = [
        (path, path.parent.name)
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in AUDIO_SUFFIXES
    ]
    counts = Counter(label for _, label in files)
    if len(counts) < 2 or min(counts.values()) < 2:
        raise ConfigError(
            f"knn_data {folder} must hold two folders (classes) or more, with two audio files or more each; "
            f"it holds {dict(counts) or 'none'}"
        )
    return files


def probe_options(accelerator: Accelerator) -> dict[str, str]:
    """Return where, and in which precision, a run's first process embeds the probe's files.

    A second encoder must fit beside the training. In the run's precision it takes no more memory than the
    gradients did, which the last step has freed. With FSDP no process ever holds the whole gradient, so the
    probe runs on the CPU.
    """
    if accelerator.is_fsdp2:
        return {"device": "cpu"}
    precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
    return {"device": str(accelerator.device), "precision": precision}


def knn_accuracy(
    checkpoint: Path, files: list[tuple[Path, str]], device: str = "cpu", precision: str = "fp32"
) -> float:
    """Return the part of the files whose nearest others have its own label, by majority.

    Cosine distance between scene embeddings, 10 neighbours (fewer where the smallest class has
    fewer other files), each file against all others.

    Args:
        checkpoint: an encoder's folder.
        files: files and their labels.
        device: where to embed them. Memory that torch has cached on a GPU is released first, so that freed
            gradients and activations make room for the encoder.
        precision: of the encoder, as `load_model` takes it.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    model = load_model(checkpoint, device=device, precision=precision)
    paths, labels = zip(*files, strict=True)
    embeddings = scene_embeddings_of_files(paths, model, progress=False)
    return leave_one_out_accuracy(embeddings, np.array(labels))


def leave_one_out_accuracy(embeddings: Float[np.ndarray, "files features"], labels: np.ndarray) -> float:
    """Accuracy of a majority vote among each row's nearest other rows.

    >>> leave_one_out_accuracy(np.array([[1, 0], [2, 0.1], [0, 1], [0.1, 2]]), np.array(["a", "a", "b", "b"]))
    1.0
    """
    from sklearn.neighbors import NearestNeighbors

    neighbours = min(NEIGHBOURS, min(Counter(labels).values()) - 1)
    _, nearest = NearestNeighbors(n_neighbors=neighbours, metric="cosine").fit(embeddings).kneighbors()
    votes = [Counter(labels[row]).most_common(1)[0][0] for row in nearest]
    return float(np.mean(np.array(votes) == labels))
