"""Audio files of any format and length -> embeddings, without a loop in user code.

Files are decoded in threads while the model works, and encoded in groups whose
windows are sorted by length, so that short and long clips share batches at
almost no padding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hear_dasheng.audio import check_audio, read_audio
from hear_dasheng.hear_model import HearModel
from hear_dasheng.mel import SAMPLE_RATE_HZ

GROUP_S = 400.0
"""Seconds of audio encoded together."""
DECODERS = 2
READ_AHEAD = 16


@no_type_check
def scene_embeddings_of_files(
    paths: Iterable[str | Path], model: HearModel, *, progress: bool = True
) -> Float[np.ndarray, "files features"]:
    """One embedding per file, as `get_scene_embeddings` gives for the file alone.

    Args:
        paths: files that soundfile decodes, any sample rate and channel count.
        model: from `load_model`.
        progress: show a bar.

    Raises:
        FileNotFoundError, ValueError: a file is missing, unreadable, empty or not finite.
    """
    paths = _as_list(paths)
    embeddings = np.empty((len(paths), model.scene_embedding_size), np.float32)
    for indices, clips in _groups(paths, model.device, progress):
        embeddings[indices] = model.scene_embeddings(clips).cpu().numpy()
    return embeddings


@no_type_check
def timestamp_embeddings_of_files(
    paths: Iterable[str | Path], model: HearModel, *, progress: bool = True
) -> Iterator[tuple[Float[np.ndarray, "tokens features"], Float[np.ndarray, " tokens"]]]:
    """For each file in order its embeddings and their centres in ms.

    Args and errors are those of `scene_embeddings_of_files`.
    """
    for _, clips in _groups(_as_list(paths), model.device, progress):
        for clip, tokens in zip(clips, model.token_embeddings(clips), strict=True):
            yield tokens.cpu().numpy(), model.timestamps_ms(len(clip)).numpy()


@no_type_check  # a single path is what it looks for
def _as_list(paths: Iterable[str | Path]) -> list[str | Path]:
    if isinstance(paths, str | Path):
        raise TypeError(f"give a list of paths, not one: [{str(paths)!r}]")
    return list(paths)


def _groups(
    paths: Sequence[str | Path], device: torch.device, progress: bool
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Consecutive files, decoded, about `GROUP_S` seconds at a time."""
    waiting = iter(paths)
    decoding: deque[Future[np.ndarray]] = deque()
    with (
        ThreadPoolExecutor(DECODERS) as pool,
        tqdm(total=len(paths), unit=" files", disable=not progress) as bar,
    ):
        indices: list[int] = []
        clips: list[Tensor] = []
        for index, path in enumerate(paths):
            while len(decoding) < READ_AHEAD and (ahead := next(waiting, None)) is not None:
                decoding.append(pool.submit(read_audio, ahead))
            clip = torch.from_numpy(decoding.popleft().result()).to(device)
            try:
                check_audio(clip[None], device)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            indices.append(index)
            clips.append(clip)
            if sum(map(len, clips)) >= GROUP_S * SAMPLE_RATE_HZ or index == len(paths) - 1:
                yield indices, clips
                bar.update(len(indices))
                indices, clips = [], []
