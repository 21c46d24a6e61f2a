"""A module and a data set -> its checked clips with their embeddings; files that cannot be read are found."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
from jaxtyping import Float
from numpy import ndarray
from tqdm import tqdm

from eval_recipes import provenance
from eval_recipes.datasets.audio_files import decoding_fault, faults
from eval_recipes.datasets.clips import ClipList, Faults
from eval_recipes.embedding.clips import ClipProblem, scene_embeddings
from eval_recipes.embedding.module import HearModule, load_module
from eval_recipes.neighbours.stored_embeddings import Batches, stored_embeddings, stored_keys

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
        if self.model and not os.path.exists(self.model):
            _ = self._loaded  # or the revision that a name stands for may not be known
        return provenance.model_identity(self.module, self.model, self.options)

    @cached_property
    def _loaded(self) -> HearModule:
        return load_module(self.module, self.model, self.options, self.device)

    def __call__(self, paths: list[Path]) -> Batches:
        """Embed files, with a bar; the model is loaded for it."""
        if self._loaded.has_weights and not self.model:
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

    Headers of clips that are not embedded yet are read before the first is embedded. Where a clip turns out
    later to be broken, all that are left are decoded, so that the data set is refused, or gone on with, once.

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
    found = {}

    def by_header(files: Mapping[str, Path]) -> dict[str, str]:
        found.update(faults({key: path for key, path in files.items() if key not in known}))
        return found

    dataset = read(by_header)
    check(dataset)
    try:
        return dataset, stored_embeddings(folder, dataset.files, embed, identity, redo=redo, tell=tell)
    except ClipProblem:
        known = stored_keys(folder, identity)
        left = {key: path for key, path in dataset.files.items() if key not in known}
        broken = faults(left, decoding_fault, what="looking for broken files")
        if not broken:
            raise
    dataset = read(lambda files: found | broken)
    check(dataset)
    return dataset, stored_embeddings(folder, dataset.files, embed, identity, tell=tell)
