"""Runs of `hear-dasheng knn` inside the test's own process."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from eval_recipes.knn import knn

MODULE = "eval_recipes.baselines.log_mel"


def call(*arguments: object, module: str = MODULE) -> Result:
    return CliRunner().invoke(knn, [module, *map(str, arguments)])


def result_path(output: str) -> Path:
    return Path(output.strip().splitlines()[-1])


def result_in(output: str) -> dict:
    return json.loads(result_path(output).read_text())
