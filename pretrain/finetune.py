"""The command `hear-dasheng finetune`, alias `python -m pretrain.finetune`.

The trainer is pretraining's; `pretrain/training/classification.py` is what differs.
On several processes: `accelerate launch -m pretrain.finetune CONFIG.yaml`.
"""

from __future__ import annotations

from pathlib import Path

import click

from hear_dasheng.files.failures import Command
from pretrain.train import run
from pretrain.training.finetune_config import FinetuneConfig


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on where the run was stopped; begin if there is none.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def finetune(config: Path, resume: bool, options: tuple[str, ...]) -> None:
    """Fine-tune a Dasheng encoder on labelled shards as the YAML file CONFIG says.

    Any of its keys can be overridden: --init_from CKPT --task single. Keys and their
    meanings are listed in finetune_config.py and config.py in pretrain/training/, examples are in
    pretrain/configs/.

    Ctrl-C or SIGTERM saves the state and ends with exit code 128 + the signal's number.
    """
    run(FinetuneConfig, config, resume, options)


if __name__ == "__main__":
    finetune(prog_name="python -m pretrain.finetune")
