"""`hear-dasheng score` against the official kit: wall time of the whole command on the same embeddings.

Both are run alternately, each as a process of its own, bound to the same cores. How long trainings are
before they stop early is a matter of the random weights, so beside the wall time stands what it came to: the
products of all trained and validated rows (`TFLOP`), and the rate. The roofline is the time that those
products would take at the rate of one large matrix product, by 1.3, and 4 s.
"""

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import machine, matrix_peak_gflops, use_cores

from eval_recipes import synthetic_embeddings as synthetic

HIDDEN = 1024
KINDS = {
    "multiclass": lambda folder: synthetic.multiclass(
        folder, clips=400, folds=5, classes=50, dim=768, noise=6.0
    ),
    "multilabel": lambda folder: synthetic.multilabel(
        folder, clips=(2000, 500, 500), classes=50, dim=768, noise=6.0
    ),
    "event": lambda folder: synthetic.events(
        folder, files=(24, 6, 12), seconds=30, classes=11, dim=768, noise=6.0
    ),
}


def rows(folder: Path, splits: list[str]) -> int:
    """How many embeddings some splits have."""
    return sum(json.loads((folder / f"{s}.embedding-dimensions.json").read_text())[0] for s in splits)


def protocol_tflop(folder: Path, trainings: list[dict]) -> float:
    """Products of all trainings: forward and both gradients (not of embeddings); validation forward."""
    metadata = json.loads((folder / "task_metadata.json").read_text())
    features = json.loads((folder / f"{metadata['splits'][0]}.embedding-dimensions.json").read_text())[1]
    labels = len((folder / "labelvocabulary.csv").read_text().splitlines()) - 1
    is_folds = "fold00" in metadata["splits"]
    total = 0
    for training in trainings:
        deeper = HIDDEN * HIDDEN * (training["hidden_layers"] - 1) + HIDDEN * labels
        first = features * HIDDEN
        train, valid = ["train"], ["valid"]
        if is_folds:
            train, valid = metadata["splits"][2:], metadata["splits"][1:2]  # folds are of one size
        total += 2 * rows(folder, train) * training["epochs"] * (2 * first + 3 * deeper)
        total += 2 * rows(folder, valid) * training["validations"] * (first + deeper)
    return total / 1e12


def run(command: list[str], cwd: Path) -> tuple[float, float]:
    """Wall and processor seconds of a command."""
    environment = dict(os.environ, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1", PYTHONWARNINGS="ignore")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command, cwd=cwd, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_ours(folder: Path, precision: str) -> tuple[float, float, float, float]:
    """Wall and processor seconds, TFLOP, score."""
    command = [
        sys.executable,
        "-m",
        "hear_dasheng.cli",
        "score",
        str(folder),
        "--redo",
        "--precision",
        precision,
    ]
    wall, cpu = run(command, folder.parent)
    scores = json.loads((folder / "test.predicted-scores.json").read_text())
    trainings = [t | t["hparams"] for seed in scores["per_seed"] for t in seed["trainings"]]
    return wall, cpu, protocol_tflop(folder, trainings), score_of(scores)


def run_kit(folder: Path) -> tuple[float, float, float, float]:
    """The same of heareval, whose logs tell how long it trained."""
    (folder / "prediction-done.json").unlink(missing_ok=True)
    logs = folder.parent / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    wall, cpu = run([sys.executable, "-m", "heareval.predictions.runner", folder.name], folder.parent)
    trainings = []
    for log in logs.rglob("metrics.csv"):
        with log.open() as opened:
            table = list(csv.DictReader(opened))
        validations = [int(row["epoch"]) for row in table if row.get("val_loss")]
        layers = next(
            int(line.split(":")[1])
            for line in (log.parent / "hparams.yaml").read_text().splitlines()
            if line.startswith("hidden_layers:")
        )
        last = max(validations) + 1
        trainings.append({"hidden_layers": layers, "epochs": last, "validations": len(validations)})
    scores = json.loads((folder / "test.predicted-scores.json").read_text())
    return wall, cpu, protocol_tflop(folder, trainings), score_of(scores)


def score_of(scores: dict) -> float:
    return (
        scores["aggregated_scores"]["test_score_mean"]
        if "aggregated_scores" in scores
        else scores["test"]["test_score"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cores", type=lambda text: [int(core) for core in text.split(",")])
    parser.add_argument("--without-kit", action="store_true", help="only ours, against the roofline")
    arguments = parser.parse_args()
    use_cores(2)
    if arguments.cores:
        os.sched_setaffinity(0, arguments.cores)
    print(machine())
    peaks = {"fp32": matrix_peak_gflops(torch.float32), "bf16": matrix_peak_gflops(torch.bfloat16)}
    print("one large product, GFLOP/s:", {name: round(rate) for name, rate in peaks.items()})
    contestants = {"ours fp32": "fp32", "ours bf16": "bf16"} | (
        {} if arguments.without_kit else {"heareval": None}
    )
    with tempfile.TemporaryDirectory() as scratch:
        for kind in arguments.kinds or KINDS:
            folder = KINDS[kind](Path(scratch, kind))
            for round_ in range(arguments.rounds):
                results = {}
                for name, precision in contestants.items():
                    wall, cpu, tflop, score = run_ours(folder, precision) if precision else run_kit(folder)
                    results[name] = (wall, tflop)
                    line = f"{kind} round {round_} {name:<10} {wall:7.1f} s wall {cpu:7.1f} s processor"
                    line += f"  {tflop:7.2f} TFLOP {1000 * tflop / wall:6.0f} GFLOP/s  score {score:.4f}"
                    if precision:
                        bar = 1.3 * 1000 * tflop / peaks[precision] + 4
                        line += f"  roofline {bar:6.1f} s ({wall / bar:.2f})"
                    print(line, flush=True)
                for name in [n for n in results if "heareval" in results and n != "heareval"]:
                    (wall, tflop), (kit_wall, kit_tflop) = results[name], results["heareval"]
                    per_flop = kit_wall / kit_tflop / (wall / tflop)
                    print(
                        f"{kind} round {round_} {name}: {kit_wall / wall:.2f} x, per TFLOP {per_flop:.2f} x",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
