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

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from eval_recipes import provenance
from eval_recipes.datasets.catalogue import (
    OWN,
    READERS,
    folder_name,
    own_identity,
    published_datasets,
    read_dataset,
)
from eval_recipes.datasets.clips import ClipList, DatasetProblem, Faults
from eval_recipes.model_arguments import model_option, parse_options
from eval_recipes.neighbours.choices import METRICS, TEMPERATURE, WEIGHTS, Choices
from hear_dasheng.files.failures import Command
from hear_dasheng.files.number_options import FiniteRange, WholeRange


@click.command("knn", cls=Command)
@click.argument("module")
@model_option
@click.option("--dataset", "name", required=True, metavar="NAME", help=f"{', '.join((*READERS, *OWN))}.")
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="The data set's folder; of `folder` that of the classes' folders; of `list` the CSV or TSV table.",
)
@click.option(
    "--name",
    "own_name",
    metavar="NAME",
    help="Of your own data, in folders and reports [default: from --data, with a hash of its path].",
)
@click.option("--k", default=10, show_default=True, type=WholeRange(), help="Neighbours that vote.")
@click.option("--weights", default="uniform", show_default=True, type=click.Choice(WEIGHTS))
@click.option(
    "--temperature",
    default=TEMPERATURE,
    show_default=True,
    type=FiniteRange(0, 1e9, min_open=True),
    help="Of softmax weights.",
)
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
@click.option("--label-column", default="label", show_default=True, help="Of a list: the column of classes.")
@click.option(
    "--redo", is_flag=True, help="Embed all clips anew (to go on with a stopped run, leave it out)."
)
def knn(
    module: str,
    model: str | None,
    name: str,
    data: Path,
    own_name: str | None,
    out: Path,
    model_options: str,
    device: str,
    allow_incomplete: bool,
    label_column: str,
    redo: bool,
    **choices: Any,
) -> None:
    """Classify a data set by nearest neighbours among MODULE's embeddings, without training.

    \b
    --dataset folder   <class>/*.wav, or train/<class>/*.wav and test/<class>/*.wav
    --dataset list     a table with a header, separated by commas (.csv) or tabs (.tsv):
      filename         or file, path, fname: relative to the table, or absolute
      label            the class; --label-column takes another column
      split            if there is one: train, test; valid is left out
      fold             if there is one, and no split: each fold is asked for among the others
    With neither, each clip is asked for among all others.
    """
    from eval_recipes.embedding.module import import_module
    from eval_recipes.neighbours.classify import check_k, classify, outvoted
    from eval_recipes.neighbours.embedded_clips import Embedder, embedded_clips, model_folder
    from eval_recipes.neighbours.result_files import result_of, write_results

    chosen, started = Choices(**choices), time.monotonic()
    embedder = Embedder(module, model, parse_options(model_options), device)
    _check_device(device)
    with _said_plainly():
        import_module(module)  # a misspelt name is told before the data set is looked at
        identity = embedder.identity() | own_identity(name, data)
        folder = out / model_folder(identity) / folder_name(name, data, own_name)

        def read(faults: Faults) -> ClipList:
            return read_dataset(name, data, allow_incomplete, label_column, own_name, faults)

        def check(dataset: ClipList) -> None:
            check_k(dataset, chosen.k)
            _say_what_it_is(dataset)

        dataset, embeddings = embedded_clips(
            read, folder, embedder, identity, redo=redo, tell=click.echo, check=check
        )
        try:
            found = classify(dataset, embeddings, chosen, device=device, progress=True)
        except ValueError as problem:
            raise click.ClickException(f"{dataset.name}: {problem}") from problem
        result = result_of(dataset, _title(name, dataset, label_column), found)
        result["warning"] = outvoted(dataset, chosen.k)
        result["identity"] = identity | {"labels": dataset.labels_hash()} | chosen.identity()
        result |= provenance.circumstances(time.monotonic() - started)
        click.echo(summary(result))
        if result["warning"]:
            click.echo(f"  {result['warning']}", err=True)
        click.echo(str(write_results(folder, chosen, dataset, result, found)))


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Report problems of the data and the module in a line, without a traceback."""
    from eval_recipes.embedding.clips import ClipProblem
    from eval_recipes.embedding.module import ModuleProblem
    from eval_recipes.neighbours.embedded_parts import StoredProblem

    try:
        yield
    except (DatasetProblem, ModuleProblem, ClipProblem, StoredProblem) as problem:
        raise click.ClickException(str(problem)) from problem


def _say_what_it_is(dataset: ClipList) -> None:
    counts = {part: sum(clip.part == part for clip in dataset.clips) for part in dataset.parts}
    parts = ", ".join(f"{part} {count}" for part, count in counts.items() if part)
    click.echo(
        f"{dataset.name}: {len(dataset.clips)} clips of {len(dataset.classes)} classes"
        + (f" ({parts})" if parts else "")
    )
    for deviation in dataset.deviations:
        click.echo(f"  not the whole data set: {deviation}", err=True)


def _title(name: str, dataset: ClipList, label_column: str) -> str:
    if name in OWN:
        return (
            dataset.name if label_column == "label" or name != "list" else f"{dataset.name}: {label_column}"
        )
    return published_datasets()[name].title


def summary(result: dict[str, Any]) -> str:
    """One line about a result."""
    low, high = (100 * end for end in result["interval_95"])
    spread = result["std_over_folds"]
    over = "" if spread is None else f" ± {100 * spread:.1f} over {result['n_folds']} folds"
    marked = ", of an incomplete data set" if result["deviations"] else ""
    n_clips = result["n_clips"]
    return (
        f"accuracy {100 * result['accuracy']:.1f} %{over} (95 % interval {low:.1f} to {high:.1f}), "
        f"chance {100 * result['chance']['most_frequent_class']:.1f} % (always the most frequent class), "
        f"{n_clips} clip{'s' * (n_clips != 1)}, {result['protocol']}{marked}"
    )


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise click.BadParameter(f"--device {device!r} cannot be used here: {reason}") from error
