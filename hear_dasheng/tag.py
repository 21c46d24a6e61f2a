"""`hear-dasheng tag`: audio files -> what is heard in them, over time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hear_dasheng.files.failures import Command, shown
from hear_dasheng.files.number_options import MOST_HEADS, FiniteRange, WholeRange

if TYPE_CHECKING:
    from tqdm import tqdm

    from hear_dasheng.tag_record import Record
    from hear_dasheng.tagger import Tagger, Tags

MAX_PANELS = 12
"""Files in one picture."""

ERRORS = (ValueError, OSError)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="dasheng_audioset",
    show_default=True,
    help="A checkpoint with a classifier: path, published name or URL.",
)
@click.option(
    "--step",
    "step_s",
    type=FiniteRange(0, 1e9, min_open=True),
    help="Seconds; by default the encoder's window, 10.08.",
)
@click.option(
    "--top",
    default=5,
    show_default=True,
    type=WholeRange(),
    help="Labels of each step, and of each file in the picture.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write this file.")
@click.option(
    "--plot", "plot_path", type=click.Path(path_type=Path, dir_okay=False), help="Draw this picture."
)
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "tf32", "bf16"]))
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda, cuda:1.")
@click.option(
    "--num-heads",
    type=WholeRange(1, MOST_HEADS),
    help="For a checkpoint that does not tell its attention heads.",
)
def tag(
    files: tuple[Path, ...],
    model: str,
    step_s: float | None,
    top: int,
    json_path: Path | None,
    plot_path: Path | None,
    **options: Any,
) -> None:
    """Print the likeliest labels of FILES over time.

    Any format, rate and number of channels that soundfile reads, of any length. A file that cannot be
    read is named, the others go on, and the exit code is 1. A stopped run goes on with the same --json.
    """
    from hear_dasheng.tag_record import Record, what_tags
    from hear_dasheng.tagger import load_tagger

    files = tuple(dict.fromkeys(files))
    _check_plot(plot_path, len(files))
    try:
        tagger = load_tagger(model, **options)
        tagger.check_step(step_s)
        record = Record(json_path, what_tags(model, tagger, step_s, top, options), top)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    try:
        tags = _tag_each(files, tagger, record, step_s, needs_all=plot_path is not None)
    finally:
        record.save()
    if plot_path is not None and tags:
        from hear_dasheng.tag_plot import draw_tags

        draw_tags(tags, tagger.class_names, plot_path, top)
        click.echo(f"Drawn: {plot_path}")
    if json_path is not None:
        click.echo(f"Written: {json_path}")
    if failed := [file for file in files if shown(file) in record.not_tagged]:
        raise click.ClickException(f"{len(failed)} of {len(files)} files could not be tagged; see above")


def _check_plot(plot_path: Path | None, n_files: int) -> None:
    """Find out before the work whether there can be a picture after it."""
    if plot_path is None:
        return
    if n_files > MAX_PANELS:
        raise click.ClickException(f"--plot draws {MAX_PANELS} files at most, not {n_files}; use --json")
    try:
        import matplotlib.figure
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"--plot needs the package {error.name}; in the checkout: pip install '.[plots]'"
        ) from error
    if plot_path.suffix.lstrip(".").lower() not in ("png", "pdf", "svg"):
        raise click.ClickException(f"--plot {plot_path}: name a .png, .pdf or .svg file")
    if not next(folder for folder in plot_path.parents if folder.exists()).is_dir():
        raise click.ClickException(f"--plot {plot_path}: {plot_path.parent} is no folder and cannot be one")
    del matplotlib


def _tag_each(
    files: Sequence[Path], tagger: Tagger, record: Record, step_s: float | None, needs_all: bool
) -> dict[str, Tags]:
    """Tag files one after another, print a table of each and enter it into the record."""
    from tqdm import tqdm

    from hear_dasheng.tag_record import table
    from whole_audio import shortfall

    all_tags = {}
    for number, file in enumerate(files, 1):
        try:
            entry = None if needs_all else record.entry_of(file)
            if entry is None:
                with tqdm(unit=" s", desc=f"[{number}/{len(files)}]", leave=False, disable=None) as bar:
                    tags = tagger.tag_file(file, step_s, partial(_show, bar))
                entry = record.new_entry(file, tags, tagger.class_names)
                if needs_all:
                    all_tags[shown(file)] = tags
            lacking = shortfall(file)
        except ERRORS as error:
            click.echo(f"not tagged: {error}", err=True)
            record.enter_failure(file, str(error))
        else:
            click.echo(table(entry))
            if lacking:
                click.echo(f"warning: {file} is cut short: it {lacking}", err=True)
            record.enter(entry)
    return all_tags


def _show(bar: tqdm, done_s: float, total_s: float) -> None:
    bar.total = round(total_s, 1)
    bar.update(round(done_s, 1) - bar.n)
