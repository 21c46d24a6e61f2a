"""A module and a data set -> its checked clips with their embeddings; files that cannot be read are found."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
from jaxtyping import Float
from numpy import ndarray
from tqdm import tqdm

from eval_recipes import provenance
from eval_recipes.datasets.audio_files import decoding_fault, faults
from eval_recipes.datasets.clips import ClipList, Faults
from eval_recipes.embedding.clips import ClipProblem, RefusedClip, scene_embeddings
from eval_recipes.embedding.module import HearModule, load_module
from eval_recipes.neighbours.stored_embeddings import Batches, stored_embeddings, stored_keys

MOST_REFUSED = 100
"""Clips refused one after another, with none embedded in between, after which the module is to blame."""
LONGEST_CHECKPOINT_NAME = 90
"""Bytes of a checkpoint's name within a folder's name, which takes 255 bytes."""


@dataclass(frozen=True)
class Embedder:
    """What makes embeddings.

    Attributes:
        module: a HEAR module's name.
        model: a checkpoint; None: the module's own choice.
        options: of its `load_model`.
        device: where it computes.
    """

    module: str
    model: str | None
    options: dict[str, Any]
    device: str

    def identity(self) -> dict[str, Any]:
        """What embeddings are made from, but for the clips.

        Raises:
            ModuleProblem: the model is no path, and cannot be loaded by its name.
        """
        found = None
        if not (self.model and os.path.exists(self.model)):
            found = self._loaded.checkpoint_path  # only loading shows which file a name stands for
        return provenance.model_identity(self.module, self.model, self.options, found)

    @property
    def sample_rate_hz(self) -> int:
        """The module's sample rate in Hz; the module is loaded for it."""
        return self._loaded.sample_rate_hz

    @cached_property
    def _loaded(self) -> HearModule:
        return load_module(self.module, self.model, self.options, self.device)

    def __call__(self, paths: list[Path]) -> Batches:
        """Embed files, with a bar; the model is loaded for it."""
        if not self.model and self._loaded.checkpoint_path is None:
            click.echo(f"{self.module} has {provenance.UNIDENTIFIED}", err=True)
        with tqdm(total=len(paths), unit=" clips", desc="embedding", disable=None) as bar:
            for indices, vectors in scene_embeddings(self._loaded, paths):
                yield indices, vectors
                bar.update(len(indices))


def model_folder(identity: dict[str, Any]) -> str:
    """The module's name, its weights' hash or name, its options' hash; of hashes the first digits."""
    parts = [identity["module"], re.sub(r"[^\w.]+", "-", provenance.in_short(identity["checkpoint"], 8))]
    if len(parts[1].encode()) > LONGEST_CHECKPOINT_NAME:  # of a URL, say
        digest = hashlib.sha256(identity["checkpoint"].encode()).hexdigest()[:8]
        parts[1] = f"{parts[1][:20]}-{digest}"
    if identity["options"]:
        written = json.dumps(identity["options"], sort_keys=True)
        parts.append(f"options-{hashlib.sha256(written.encode()).hexdigest()[:8]}")
    return "-".join(part for part in parts if part)


def embedded_clips(
    read: Callable[[Faults], ClipList],
    folder: Path,
    embed: Callable[[list[Path]], Batches],
    identity: dict[str, Any],
    *,
    redo: bool,
    tell: Callable[[str], None],
    check: Callable[[ClipList], None] = lambda dataset: None,
) -> tuple[ClipList, Float[ndarray, "clips features"]]:
    """A data set whose every clip is embedded.

    Headers of clips that are not embedded yet are read before the first is embedded. If a clip turns out
    later to be broken, all that are left are decoded, so that the data set is refused, or used without
    them, once. Clips that only the module refuses are left out one by one.

    Args:
        read: reads the data set, given what finds out which files cannot be used.
        folder: of the embeddings.
        embed: see `stored_embeddings`.
        identity: see `stored_embeddings`.
        redo: embed all anew.
        tell: gets a line on what was found.
        check: looks at the data set before anything is embedded.

    Raises:
        DatasetProblem, ClipProblem, ModuleProblem, StoredProblem: from each of these.
    """
    known = set() if redo else stored_keys(folder, identity)
    found: dict[str, str] = {}

    def by_header(files: Mapping[str, Path]) -> dict[str, str]:
        found.update(faults({key: path for key, path in files.items() if key not in known}))
        return found

    def found_again(files: Mapping[str, Path]) -> dict[str, str]:
        return found

    dataset = read(by_header)
    check(dataset)
    is_decoded, n_refused_in_a_row = False, 0
    while True:
        try:
            return dataset, stored_embeddings(folder, dataset.files, embed, identity, redo=redo, tell=tell)
        except ClipProblem as problem:
            redo, before, known = False, known, stored_keys(folder, identity)
            left = {key: path for key, path in dataset.files.items() if key not in known}
            broken = {} if is_decoded else _broken(left, embed)
            is_decoded = True
            broken |= {
                key: problem.reason
                for key, path in left.items()
                if isinstance(problem, RefusedClip) and path == problem.path and key not in broken
            }
            n_refused_in_a_row = n_refused_in_a_row + 1 if known == before else 0
            if not broken or n_refused_in_a_row > MOST_REFUSED:
                raise
            found |= broken
        dataset = read(found_again)
        check(dataset)


def _broken(files: Mapping[str, Path], embed: object) -> dict[str, str]:
    """Return why files cannot be embedded, by their keys, after decoding all of them."""
    rate_hz = embed.sample_rate_hz if isinstance(embed, Embedder) else None
    return faults(files, partial(decoding_fault, rate_hz=rate_hz), what="looking for broken files")
