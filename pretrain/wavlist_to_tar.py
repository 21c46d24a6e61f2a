"""The console command `wavlist_to_tar`: audio files on a list -> webdataset shards.

Its arguments are the published tool's; what it adds is in the help text.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hear_dasheng.files.failures import Command
from hear_dasheng.files.number_options import MOST_WORKERS, WholeRange

if TYPE_CHECKING:  # both the workers and --help start without what these import
    from pretrain.packing.manifest import Manifest
    from pretrain.packing.ordered_pool import WorkerDied
    from pretrain.packing.pack import Packed

EXIT_STOPPED = 130
"""What shells give for Ctrl-C."""
GO_ON = "The shards finished so far are kept; the same command goes on from them."
GO_ON_WITHOUT = "The shards finished so far are kept; the same command without --overwrite goes on from them."
NAMED_FILES = 5


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "input_filelist", metavar="LIST", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.argument("outputdir", metavar="OUTDIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "-s",
    "--size_per_file",
    "--size-per-file",
    default=10_000,
    show_default=True,
    type=WholeRange(),
    help="Audio files in a shard.",
)
@click.option(
    "-n",
    "--n_workers",
    "--n-workers",
    default=4,
    show_default=True,
    type=WholeRange(0, MOST_WORKERS),
    help="Processes that transcode, or threads that copy; 0 or 1: none but this.",
)
@click.option(
    "--filename_column",
    "--filename-column",
    default="filename",
    show_default=True,
    help="The column that names the audio files; all others become JSON.",
)
@click.option("-d", "--delim", default="\t", help="What separates the columns.  [default: a tab]")
@click.option("--compress", "is_compressed", is_flag=True, help="Write .tar.gz, not .tar.")
@click.option(
    "--write_json",
    "--write-json",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the index that `wids` reads at random.",
)
@click.option("--seed", default=0, show_default=True, type=WholeRange(0, 2**32 - 1), help="Of the shuffle.")
@click.option(
    "--shuffle/--no-shuffle",
    "is_shuffled",
    default=True,
    show_default=True,
    help="Shuffle the whole list, or keep its order.",
)
@click.option(
    "--rate",
    "rate_hz",
    type=WholeRange(4_000, 192_000),
    help="Transcode to mono at this rate in Hz, as FLAC unless --format says else.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["flac", "wav", "ogg", "mp3"]),
    help="Transcode to mono, 16 bit.",
)
@click.option(
    "--overwrite", "is_overwriting", is_flag=True, help="Delete the earlier shards of this list first."
)
def main(
    input_filelist: Path,
    outputdir: Path,
    size_per_file: int,
    n_workers: int,
    filename_column: str,
    delim: str,
    is_compressed: bool,
    write_json: Path | None,
    seed: int,
    is_shuffled: bool,
    rate_hz: int | None,
    file_format: str | None,
    is_overwriting: bool,
) -> None:
    """Write the audio files on LIST, a table with a header, to tar shards in OUTDIR.

    \b
    OUTDIR/LIST_0000000.tar    the shards; each sample is KEY.wav (or flac, ...)
                               and, if LIST has other columns, KEY.json
    OUTDIR/LIST_rejects.tsv    files that are in no shard, each with the reason
    OUTDIR/LIST_manifest.json  files, seconds, bytes and SHA-256 of each shard

    The order is shuffled over the whole list. KEY is the file's name up to its last
    dot, other dots as "_"; names that occur twice get a hash of the path appended.
    Relative paths start at the current folder, or else at LIST's. A file that is
    listed twice is stored once.

    Without --rate and --format, bytes are copied as they are: each file's header
    must be readable, but the audio after it is not decoded. With them, whatever
    soundfile reads is decoded, mixed to mono, resampled with soxr and clipped.

    A run that was stopped goes on when the same command is given again: finished
    shards are known by name and size, and what they rejected is not tried again.
    """
    from pretrain.packing.pack import Options, pack
    from pretrain.packing.transcode import Target, check_target

    target = Target(rate_hz, file_format)
    try:
        check_target(target)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    seed_or_none = seed if is_shuffled else None
    options = Options(size_per_file, filename_column, delim, is_compressed, seed_or_none, target)
    go_on = GO_ON_WITHOUT if is_overwriting else GO_ON
    with _ends_told(outputdir, n_workers, go_on), _sigterm_like_ctrl_c():
        packed = pack(input_filelist, outputdir, options, n_workers, is_overwriting)
        if write_json:
            _write_index(write_json, packed.manifest, outputdir)
    _report(packed, outputdir)


@contextmanager
def _ends_told(out: Path, n_workers: int, go_on: str) -> Iterator[None]:
    """Whatever ends a run early, said in a line with what to do next."""
    from pretrain.packing.file_list import ListProblem
    from pretrain.packing.manifest import ResumeProblem
    from pretrain.packing.ordered_pool import WorkerDied

    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"Stopped. {go_on}", err=True)
        sys.exit(EXIT_STOPPED)
    except WorkerDied as error:
        raise click.ClickException(f"{_worker_died(error, n_workers)} {go_on}") from error
    except (ListProblem, ResumeProblem) as error:
        raise click.ClickException(str(error)) from error
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"needs the package {error.name}; in the checkout: pip install '.[pretraining]'"
        ) from error
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "Free some space" if is_full else "Put that right"
        raise click.ClickException(f"{out}: {error}. {remedy}. {go_on}") from error


def _report(packed: Packed, out: Path) -> None:
    manifest, rejects = packed.manifest, packed.rejects
    rows = manifest.source["rows"]
    told = f"{len(rejects)} of {_counted(rows, 'file')} rejected ({rejects.summary()}); see {rejects.path}"
    if not manifest.samples:
        raise click.ClickException(f"no shard written: {told}")
    kept = f", {packed.n_kept_shards} of them from before" if packed.n_kept_shards else ""
    click.echo(
        f"{out}: {_counted(len(manifest.shards), 'shard')}{kept}, "
        f"{_counted(manifest.samples, 'file')}, {manifest.seconds / 3600:.4g} hours of audio"
    )
    if rejects:
        click.echo(told, err=True)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _write_index(path: Path, manifest: Manifest, out: Path) -> None:
    """The index as `wids` reads it and the published tool writes it."""
    from hear_dasheng.files.atomic import write_atomically

    shards = [
        {"url": str(out / shard.file), "nsamples": shard.written.samples} for shard in manifest.in_order
    ]
    write_atomically(path, json.dumps({"wids_version": 1, "shardlist": shards}))


def _worker_died(error: WorkerDied, n_workers: int) -> str:
    names = [job.filename for job in error.in_flight]
    more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
    told = f", perhaps over one of {', '.join(names[:NAMED_FILES])}{more}" if names else ""
    return (
        f"a worker process was killed or crashed{told}. "
        f"If memory ran out, use fewer than {n_workers} workers (-n). If it happens again with -n 2, a file "
        f"crashes the decoder: move it away, it will be listed as rejected."
    )


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main(prog_name="wavlist_to_tar")
