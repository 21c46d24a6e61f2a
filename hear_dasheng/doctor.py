"""`hear-dasheng doctor`: does this machine compute what it should, and how fast?

Packages register their checks as entry points (`hear_dasheng/compute/checks.py` has their form);
`hear_dasheng/diagnosis/record.py` documents the fields of `--json`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hear_dasheng.files.failures import Command
from hear_dasheng.files.number_options import FiniteRange

if TYPE_CHECKING:
    from hear_dasheng.compute.checks import Request
    from hear_dasheng.diagnosis.devices import PrecisionTrial
    from hear_dasheng.diagnosis.examination import Examination

SIZES = "tiny,base,0.6B,1.2B"
PRECISIONS = "fp32,tf32,bf16"
QUICK_SIZES, QUICK_SECONDS = "tiny", 0.3
DEFAULT_SECONDS = 2.0
MOST_SECONDS = 3600.0


@click.command(cls=Command)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto (the first GPU, or else the CPU), cpu, cuda, cuda:1, mps.",
)
@click.option(
    "--sizes", help=f"Sizes to measure, separated by commas; the smallest is compared.  [default: {SIZES}]"
)
@click.option("--precision", default=PRECISIONS, show_default=True, help="Precisions, separated by commas.")
@click.option(
    "--seconds",
    type=FiniteRange(0, MOST_SECONDS, min_open=True),
    help="Time of one measurement; sizes that need more for one clip are skipped.  "
    f"[default: {DEFAULT_SECONDS:g}]",
)
@click.option("--quick", is_flag=True, help="The size tiny alone, with short measurements.")
@click.option("--no-throughput", is_flag=True, help="Compare, and measure no speed.")
@click.option("--json", "json_path", metavar="FILE", help="Write a record; - writes it instead of the text.")
def doctor(
    device: str,
    sizes: str | None,
    precision: str,
    seconds: float | None,
    quick: bool,
    no_throughput: bool,
    json_path: str | None,
) -> None:
    """Check that this machine computes what it should, and measure how fast.

    Lists versions and devices, compares embeddings, a training step's gradients and probe scoring on DEVICE
    with plain fp32 torch on the CPU, and measures throughput and memory. The exit code is 1 if an error
    exceeds its bound.
    """
    from hear_dasheng.diagnosis import devices, layout, record

    request = _request(
        device,
        (QUICK_SIZES if quick else SIZES) if sizes is None else sizes,
        precision,
        seconds or (QUICK_SECONDS if quick else DEFAULT_SECONDS),
    )
    _check_writable(json_path)
    start = time.monotonic()
    trials = devices.try_precisions(request.device)
    found = _examine(request, trials, measures_speed=not no_throughput)
    content = record.new_record(request, trials, found, time.monotonic() - start)
    if json_path == "-":
        click.echo(record.to_json(content), nl=False)
    else:
        click.echo(layout.as_text(content), nl=False)
        if json_path is not None:
            _write(Path(json_path), record.to_json(content))
    if not found.has_passed:
        raise SystemExit(1)


def _request(device: str, sizes: str, precision: str, seconds: float) -> Request:
    """Check the options and choose the device."""
    from hear_dasheng.compute.checks import Request
    from hear_dasheng.compute.measure import free_bytes
    from hear_dasheng.diagnosis.devices import DeviceError, choose_device
    from hear_dasheng.sizes import SIZES as KNOWN_SIZES

    chosen_sizes = _listed("--sizes", sizes, list(KNOWN_SIZES))
    chosen_precisions = _listed("--precision", precision, PRECISIONS.split(","))
    try:
        chosen = choose_device(device)
    except DeviceError as error:
        raise click.ClickException(str(error)) from error
    return Request(chosen, chosen_sizes, chosen_precisions, seconds, free_bytes(chosen))


def _listed(option: str, text: str, known: list[str]) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"{name!r} is none of {', '.join(known)}; separate several by commas", param_hint=option
            )
    return tuple(name for name in known if name in names)


def _examine(request: Request, trials: list[PrecisionTrial], measures_speed: bool) -> Examination:
    from tqdm import tqdm

    from hear_dasheng.diagnosis.examination import Examiner, load_checks

    checks, unavailable = load_checks()
    refused = {
        trial.precision: trial.reason or "does not work on this device"
        for trial in trials
        if not trial.works and trial.precision != "fp32"
    }
    examiner = Examiner(checks, request, refused, measures_speed)
    with tqdm(examiner.steps(), unit="check", leave=False, disable=None) as bar:
        for description, step in bar:
            bar.set_description(description)
            step()
    examiner.found.unavailable |= unavailable
    return examiner.found


def _check_writable(json_path: str | None) -> None:
    """Refuse a file that cannot be written before minutes of work, not after."""
    if json_path is None or json_path == "-":
        return
    path = Path(json_path)
    if path.is_dir():
        raise click.BadParameter(f"{json_path!r} is a folder; name a file", param_hint="--json")
    if not path.parent.is_dir():
        raise click.BadParameter(f"the folder of {json_path!r} is not there; create it", param_hint="--json")


def _write(path: Path, text: str) -> None:
    from hear_dasheng.files.atomic import write_atomically

    try:
        write_atomically(path, text)
    except OSError as error:
        reason = error.strerror or error
        raise click.ClickException(
            f"--json {str(path)!r} cannot be written: {reason}; choose another place"
        ) from error
