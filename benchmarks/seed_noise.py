"""Do `hear-dasheng score` and the official kit score alike? Many seeds of both on the same small tasks.

Prints both means and the 95 % interval of their difference in points. heareval's own functions are called
after seeding; its files stay as they are. A seed draws the same grid points in both, and differences are
taken seed by seed. Grids are heareval's, with the hidden width and the
number of epochs cut down through the task's metadata, alike for both, so that ten seeds take minutes.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import random
import shutil
import statistics
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from measure import machine
from scipy import stats

from eval_recipes import score
from eval_recipes import synthetic_embeddings as synthetic
from eval_recipes.scoring.grid import OFFICIAL_SEED

CUT_DOWN = {"task_specific_param_grid": {"hidden_dim": [128], "max_epochs": [60]}}
KINDS = {
    "multiclass": lambda folder: synthetic.multiclass(
        folder, clips=1500, folds=3, classes=10, dim=64, noise=4.0, evaluation_params=CUT_DOWN
    ),
    "multilabel": lambda folder: synthetic.multilabel(
        folder, clips=(600, 500, 1000), classes=8, dim=64, noise=4.0, evaluation_params=CUT_DOWN
    ),
    "event": lambda folder: synthetic.events(
        folder, files=(16, 16, 32), seconds=15, classes=4, dim=64, noise=2.5, evaluation_params=CUT_DOWN
    ),
}


def primary(scores: dict) -> float:
    return 100 * scores.get("aggregated_scores", scores.get("test", {})).get(
        "test_score_mean" if "aggregated_scores" in scores else "test_score"
    )


def ours(folder: Path, seeds: int, grid_points: int, precision: str) -> list[float]:
    flags = {
        "seeds": seeds,
        "grid": "default",
        "grid_points": grid_points,
        "precision": precision,
        "device": "cpu",
    }
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        content = score.score_folder(folder, flags, pool)
    return [primary(seed) for seed in content["per_seed"]]


def kits(folder: Path, seeds: int, grid_points: int) -> list[float]:
    import heareval.predictions.task_predictions as kit

    dimensions = next(folder.glob("*.embedding-dimensions.json"))
    found = []
    for seed in range(OFFICIAL_SEED, OFFICIAL_SEED + seeds):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            kit.task_predictions(
                embedding_path=Path(folder.name),
                embedding_size=json.loads(dimensions.read_text())[1],
                grid_points=grid_points,
                gpus=None,
                in_memory=True,
                deterministic=False,
                grid="default",
                logger=logging.getLogger("kit"),
            )
        found.append(primary(json.loads((folder / "test.predicted-scores.json").read_text())))
        shutil.rmtree("logs")
    return found


def spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):6.2f} ± {statistics.stdev(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--grid-points", type=int, default=4)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    logging.disable(logging.WARNING)  # Lightning profiles every training
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for kind in arguments.kinds or KINDS:
            folder = KINDS[kind](Path(scratch, kind))
            reference = kits(folder, arguments.seeds, arguments.grid_points)
            print(f"{kind:<11} heareval   {spread(reference)}", flush=True)
            for precision in ("fp32", "bf16"):
                found = ours(folder, arguments.seeds, arguments.grid_points, precision)
                interval = stats.ttest_rel(found, reference).confidence_interval(0.95)
                difference = statistics.fmean(found) - statistics.fmean(reference)
                print(f"{kind:<11} ours {precision}  {spread(found)}  difference {difference:+.2f}", end="")
                print(f" [{interval.low:+.2f}, {interval.high:+.2f}]", flush=True)
        os.chdir("/")


if __name__ == "__main__":
    main()
