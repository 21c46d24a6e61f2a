"""Commands about checkpoints: init, info, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hear_dasheng.files.failures import Command
from hear_dasheng.files.number_options import MOST_HEADS, WholeRange
from hear_dasheng.sizes import SIZES

if TYPE_CHECKING:
    from hear_dasheng.classifier import Classifier

SHOWN_CLASSES = 8


@click.command(cls=Command)
@click.argument("size", type=click.Choice(list(SIZES)))
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--seed",
    type=WholeRange(-(2**63), 2**64 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Draws the weights.",
)
def init(size: str, path: Path, seed: int) -> None:
    """Write an untrained checkpoint of SIZE to the new folder PATH."""
    from hear_dasheng.export import export, new_encoder

    try:
        export(new_encoder(size, seed), path)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"An untrained {size} encoder (seed {seed}) is in {path}")


@click.command(cls=Command)
@click.argument("checkpoint")
@click.option(
    "--num-heads",
    type=WholeRange(1, MOST_HEADS),
    help="For a checkpoint that does not tell its attention heads.",
)
def info(checkpoint: str, num_heads: int | None) -> None:
    """Tell what CHECKPOINT (path, published name, Hub id or URL) holds."""
    from hear_dasheng.checkpoint import encoder_of
    from hear_dasheng.checkpoint_files import read_checkpoint
    from hear_dasheng.classifier_checkpoint import classifier_of, has_head
    from hear_dasheng.download import locate
    from hear_dasheng.encoder_config import EncoderConfig
    from hear_dasheng.published_options import encoder_kwargs

    try:
        path = locate(checkpoint)
        content = read_checkpoint(path)
        classifier = classifier_of(*content, num_heads) if has_head(content[1]) else None
        encoder = encoder_of(*content, num_heads) if classifier is None else classifier.encoder
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    config = encoder.config
    shape = (config.dim, config.depth, config.heads)
    size = next(
        (name for name, s in SIZES.items() if (s.dim, s.depth, s.heads) == shape), "none of the table"
    )
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    click.echo(f"{path}")
    click.echo(f"  size {size}: width {config.dim}, depth {config.depth}, {config.heads} heads")
    click.echo(f"  {parameters / 1e6:.1f} million parameters, windows of {config.window_tokens} tokens")
    released = encoder_kwargs(EncoderConfig(*shape)).items()
    others = [
        f"{key}={value}" for key, value in encoder_kwargs(config).items() if (key, value) not in released
    ]
    if others:
        click.echo(f"  other options than the released models': {', '.join(others)}")
    if classifier is not None:
        click.echo(f"  {_head_in_words(classifier)}")


def _head_in_words(classifier: Classifier) -> str:
    names = classifier.class_names
    shown = ", ".join(names[:SHOWN_CLASSES]) + (", ..." if len(names) > SHOWN_CLASSES else "")
    kind = "any number of them at once" if classifier.is_multi_label else "one of them at a time"
    return f"a classifier's head: {len(names)} classes, {kind} ({shown}); hear-dasheng tag uses it"


@click.command(cls=Command)
@click.argument("checkpoint")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["huggingface", "published"]),
    help="A mispeech/dasheng-* folder (default), or the package dasheng's .pt (default for *.pt).",
)
@click.option(
    "--num-heads",
    type=WholeRange(1, MOST_HEADS),
    help="For a checkpoint that does not tell its attention heads.",
)
def export(checkpoint: str, path: Path, layout: str | None, num_heads: int | None) -> None:
    """Rewrite CHECKPOINT (path, published name, Hub id or URL) at PATH in another layout."""
    from hear_dasheng.checkpoint import load_encoder
    from hear_dasheng.download import locate
    from hear_dasheng.export import export as write

    try:
        layout = layout or ("published" if path.suffix == ".pt" else "huggingface")
        write(load_encoder(locate(checkpoint), num_heads), path, layout)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Written to {path} in the {layout} layout")
