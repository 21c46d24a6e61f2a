"""The commands `hear-dasheng pretrain` and `hear-dasheng finetune`.

Only click is imported here; `pretrain/train.py`, which does the work, imports PyTorch when a command runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hear_dasheng.files.failures import Command
from hear_dasheng.files.number_options import FiniteRange, WholeRange

if TYPE_CHECKING:
    from pretrain.training.config import RunConfig


def _training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments that both commands take."""
    for add in reversed(
        (
            click.argument("config", type=click.Path(path_type=Path)),
            click.option(
                "--resume", is_flag=True, help="Go on where the run was stopped; begin if there is none."
            ),
            click.option(
                "--dry_run",
                "--dry-run",
                is_flag=True,
                help="Print parameters, memory and FLOP and exit: code 0 if the run fits, 3 if it does not.",
            ),
            click.option(
                "--device_memory_gib",
                "--device-memory-gib",
                type=FiniteRange(0, 1e6, min_open=True),
                help="With --dry_run: plan for a GPU with this memory, which need not be here.",
            ),
            click.option(
                "--processes",
                type=WholeRange(1, 1_000_000),
                help="With --dry_run: processes, one a device.  [default: the launcher's, else 1]",
            ),
            click.argument("options", nargs=-1, type=click.UNPROCESSED),
        )
    ):
        command = add(command)
    return command


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@_training_options
def pretrain(config: Path, **arguments: Any) -> None:
    """Pretrain a Dasheng encoder as the YAML file CONFIG says.

    Any of its keys can be overridden: --batch_size 8 --optimizer_args.lr 1e-4. Keys and
    their meanings are listed in pretrain/training/config.py, examples are in pretrain/configs/.

    Ctrl-C or SIGTERM saves the state and ends with exit code 128 + the signal's number.
    """
    from pretrain.training.config import PretrainConfig

    _run_or_plan(PretrainConfig, config, **arguments)


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@_training_options
def finetune(config: Path, **arguments: Any) -> None:
    """Fine-tune a Dasheng encoder on labelled shards as the YAML file CONFIG says.

    Any of its keys can be overridden: --init_from CKPT --task single. Keys and their
    meanings are listed in finetune_config.py and config.py in pretrain/training/, examples are in
    pretrain/configs/.

    Ctrl-C or SIGTERM saves the state and ends with exit code 128 + the signal's number.
    """
    from pretrain.training.finetune_config import FinetuneConfig

    _run_or_plan(FinetuneConfig, config, **arguments)


def _run_or_plan(
    kind: type[RunConfig],
    config: Path,
    resume: bool,
    dry_run: bool,
    device_memory_gib: float | None,
    processes: int | None,
    options: tuple[str, ...],
) -> None:
    if not dry_run:
        if device_memory_gib is not None or processes is not None:
            raise click.UsageError("--device_memory_gib and --processes are for --dry_run; add it")
        from pretrain.train import run

        run(kind, config, resume, options)
        return
    from pretrain.dry_run import DOES_NOT_FIT, plan
    from pretrain.training.read_config import ConfigError, read_config

    try:
        lines, fits = plan(read_config(config, options, kind), device_memory_gib, processes)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    click.echo("\n".join(lines))
    if not fits:
        raise SystemExit(DOES_NOT_FIT)
