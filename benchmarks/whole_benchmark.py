"""All of HEAR at a small scale through `embed`, `score` and `report`, and what that says of its true size.

Embedding is extrapolated by seconds of audio, at each task's own rate. Scoring is extrapolated by
matrix products: those of the small tasks' trainings, times how many more rows the true tasks have, at
the rate of a task of 3000 rows that is scored beside them; probes on real data may need several times
as many epochs as on these tones, or fewer, and the forming of events is not in it. Disk: what the small
folders take, times the same factors.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import torch
from hear_layout import lay_out
from scoring import protocol_tflop

from eval_recipes import synthetic_embeddings


def run(*arguments: str) -> float:
    """Wall seconds of a command of ours."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "hear_dasheng.cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def bytes_of(folder: Path) -> int:
    """What a folder's files take on the disk, whole blocks counted."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def tflop_of(embedded: Path) -> float:
    """Products of all trainings behind a task's scores."""
    scores = json.loads((embedded / "test.predicted-scores.json").read_text())
    trainings = [t | t["hparams"] for seed in scores["per_seed"] for t in seed["trainings"]]
    return protocol_tflop(embedded, trainings)


def scoring_rate(folder: Path, dim: int, how: list[str]) -> float:
    """TFLOP a second of `score` on a task large enough for its steps to be full."""
    task = synthetic_embeddings.multilabel(folder, clips=(2000, 500, 500), classes=50, dim=dim, noise=6.0)
    run("score", str(task), "--grid-points", "2", *how)
    seconds = json.loads((task / "hear-dasheng.predictions.json").read_text())["seconds"]
    return tflop_of(task) / seconds


def extrapolate(tasks: Path, embedded: Path, times: dict[str, float], tflop_per_s: float) -> None:
    """Print each task's figures at its true size, and their sums."""
    names = ("audio, h", "embed, h", "score, h", "audio, GB", "embeddings, GB")
    totals = dict.fromkeys(names, 0.0)
    print(f"{'task':<36} {'x':>7} " + " ".join(f"{name:>15}" for name in names))
    for folder, factor in sorted(times.items()):
        profile = json.loads((embedded / folder / "profile.embeddings.json").read_text())
        figures = {
            "audio, h": factor * profile["audio_seconds"] / 3600,
            "embed, h": factor * profile["time_elapsed"] / 3600,
            "score, h": factor * tflop_of(embedded / folder) / tflop_per_s / 3600,
            "audio, GB": factor * bytes_of(tasks / folder) / 1e9,
            "embeddings, GB": factor * bytes_of(embedded / folder) / 1e9,
        }
        totals = {name: totals[name] + figures[name] for name in names}
        print(f"{folder:<36} {factor:7.1f} " + " ".join(f"{figures[name]:15.3f}" for name in names))
    print(f"{'all of HEAR':<36} {'':>7} " + " ".join(f"{totals[name]:15.2f}" for name in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="base", choices=["tiny", "base", "0.6B", "1.2B"])
    parser.add_argument("--scale", type=float, default=0.004)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--score-device", default="cpu")
    arguments = parser.parse_args()
    measure.use_cores(arguments.cores)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{measure.machine()}; {device}; {arguments.size}, {arguments.precision}, scale {arguments.scale}")
    how = ["--device", arguments.score_device, "--precision", arguments.precision]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        times = lay_out(root / "tasks", arguments.scale)
        model, out = str(root / "model"), str(root / "embeddings")
        run("init", arguments.size, model)
        options = json.dumps({"precision": arguments.precision})
        folders = ["--tasks-dir", str(root / "tasks"), "--out", out, "--model-options", options]
        embedding_s = run("embed", "hear_dasheng", "--model", model, *folders)
        (embedded,) = Path(out).iterdir()
        scoring_s = run("score", str(embedded), *how)
        report_s = run("report", str(embedded), "--out", str(root / "report"))
        print(f"whole commands: embed {embedding_s:.0f} s, score {scoring_s:.0f} s, report {report_s:.0f} s")
        dimensions = json.loads(next(embedded.rglob("test.embedding-dimensions.json")).read_text())
        rate = scoring_rate(root / "calibration", dimensions[1], how)
        print(f"score does {1000 * rate:.0f} GFLOP/s on 3000 rows")
        extrapolate(root / "tasks", embedded, times, rate)


if __name__ == "__main__":
    main()
