"""`hear-dasheng knn`: how well a module's embeddings tell classes apart without any training.

What is known of the paper's protocol (Dinkel et al. 2024, arXiv 2406.06992): the nine data sets, and the
numbers. Not published: k, weights, metric, normalisation, which splits, and what a class is where a
data set leaves that open (words or keywords in Speech Commands, intents or wordings in Fluent Speech
Commands).

What we chose: scene embeddings (a module's mean over time), compared by their cosine, which is the
same as L2-normalising each clip's embedding (not each feature over the data set, as X-ARES does); k = 10;
each neighbour one vote. Training clips are searched in and test clips asked for, with the publishers'
splits; folds are each asked for among the others, and their accuracies averaged; a data set without
either is asked for clip by clip among all others. Validation splits are not used, since nothing is
tuned. So the paper's numbers beside ours are for orientation.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from eval_recipes import provenance
from eval_recipes.datasets.catalogue import OWN, READERS, published_datasets, read_dataset
from eval_recipes.datasets.clips import ClipList, DatasetProblem
from eval_recipes.embedding.clips import ClipProblem, scene_embeddings
from eval_recipes.embedding.module import HearModule, ModuleProblem, load_module
from eval_recipes.model_arguments import model_option, parse_options
from eval_recipes.neighbours.classify import Choices, classify
from eval_recipes.neighbours.distances import METRICS
from eval_recipes.neighbours.result_files import result_of, write_results
from eval_recipes.neighbours.stored_embeddings import Batches, StoredProblem, stored_embeddings
from eval_recipes.neighbours.vote import TEMPERATURE, WEIGHTS

PROBLEMS = (DatasetProblem, ModuleProblem, ClipProblem, StoredProblem)


@click.command("knn")
@click.argument("module")
@model_option
@click.option("--dataset", "name", required=True, metavar="NAME", help=f"{', '.join((*READERS, *OWN))}.")
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="The data set's folder; of `list` the CSV or TSV file.",
)
@click.option("--k", default=10, show_default=True, type=click.IntRange(1), help="Neighbours that vote.")
@click.option("--weights", default="uniform", show_default=True, type=click.Choice(WEIGHTS))
@click.option("--temperature", default=TEMPERATURE, show_default=True, help="Of softmax weights.")
@click.option(
    "--metric",
    default="cosine",
    show_default=True,
    type=click.Choice(METRICS),
    help="The cosine, or Euclidean distances between embeddings as they are.",
)
@click.option("--out", default="knn", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--model-options", default="{}", help="JSON options for load_model.")
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda, cuda:1.")
@click.option("--allow-incomplete", is_flag=True, help="Go on with what is there of the data set; say so.")
@click.option("--label-column", default="label", show_default=True, help="Of a list.")
@click.option("--redo", is_flag=True, help="Embed anew.")
def knn(
    module: str,
    model: str | None,
    name: str,
    data: Path,
    out: Path,
    model_options: str,
    device: str,
    allow_incomplete: bool,
    label_column: str,
    redo: bool,
    **choices: Any,
) -> None:
    """Classify a data set by nearest neighbours among MODULE's embeddings, without training."""
    chosen = Choices(**choices)
    options = parse_options(model_options)
    if not chosen.temperature > 0:
        raise click.BadParameter(f"--temperature is {chosen.temperature}; it must be above 0")
    _check_device(device)
    try:
        dataset = read_dataset(name, data, allow_incomplete, label_column)
        _say_what_it_is(dataset)
        started = time.monotonic()
        is_name = model is not None and not Path(model).exists()  # its revision is known once it is loaded
        named = load_module(module, model, options, device) if is_name else None
        identity = embedding_identity(module, model, options, dataset)
        folder = out / _folder_name(identity) / dataset.name

        def embed(paths: list[Path]) -> Batches:
            loaded = named or load_module(module, model, options, device)
            if loaded.has_weights and not model:
                click.echo(f"{module} has {provenance.UNIDENTIFIED}", err=True)
            return _embed(loaded, paths)

        embeddings = stored_embeddings(folder, dataset.paths, embed, identity, redo=redo, tell=click.echo)
        found = classify(dataset, embeddings, chosen, device=device, progress=True)
    except PROBLEMS as problem:
        raise click.ClickException(str(problem)) from problem
    except ValueError as problem:
        raise click.ClickException(f"{dataset.name}: {problem}") from problem
    result = result_of(dataset, _title(name, dataset), found)
    result["identity"] = identity | {"labels": dataset.labels_hash()} | chosen.identity()
    result |= provenance.circumstances(time.monotonic() - started)
    click.echo(summary(result))
    click.echo(str(write_results(folder, chosen, dataset, result, found)))


def embedding_identity(
    module: str, model: str | None, options: dict[str, Any], dataset: ClipList
) -> dict[str, Any]:
    """What embeddings are made from; of the files their names and sizes count."""
    return provenance.model_identity(module, model, options) | {"files": dataset.files_hash()}


def _folder_name(identity: dict[str, Any]) -> str:
    """The module's name, its weights' hash or name, its options' hash; of hashes the first digits."""
    parts = [identity["module"], re.sub(r"[^\w.]+", "-", provenance.in_short(identity["checkpoint"], 8))]
    if identity["options"]:
        written = json.dumps(identity["options"], sort_keys=True)
        parts.append(f"options-{hashlib.sha256(written.encode()).hexdigest()[:8]}")
    return "-".join(part for part in parts if part)


def _embed(module: HearModule, paths: list[Path]) -> Batches:
    with tqdm(total=len(paths), unit=" clips", desc="embedding", disable=None) as bar:
        for indices, vectors in scene_embeddings(module, paths):
            yield indices, vectors
            bar.update(len(indices))


def _say_what_it_is(dataset: ClipList) -> None:
    counts = {part: sum(clip.part == part for clip in dataset.clips) for part in dataset.parts}
    parts = ", ".join(f"{part} {count}" for part, count in counts.items() if part)
    click.echo(
        f"{dataset.name}: {len(dataset.clips)} clips of {len(dataset.classes)} classes"
        + (f" ({parts})" if parts else "")
    )
    for deviation in dataset.deviations:
        click.echo(f"  not the whole data set: {deviation}", err=True)


def _title(name: str, dataset: ClipList) -> str:
    return published_datasets()[name].title if name in published_datasets() else dataset.name


def summary(result: dict[str, Any]) -> str:
    """One line about a result."""
    low, high = (100 * end for end in result["interval_95"])
    spread = result["std_over_folds"]
    over = "" if spread is None else f" ± {100 * spread:.1f} over {result['n_folds']} folds"
    marked = ", of an incomplete data set" if result["deviations"] else ""
    return (
        f"accuracy {100 * result['accuracy']:.1f} %{over} (95 % interval {low:.1f} to {high:.1f}), "
        f"{result['n_clips']} clips, {result['protocol']}{marked}"
    )


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise click.BadParameter(f"--device {device!r} cannot be used here: {reason}") from error
