"""`hear-dasheng embed` against heareval's own runner: the same module on a task whose clips differ in
length, base.

Whole commands, in turns, each a process of its own on the same cores. Lengths are drawn log-uniformly
from 0.3 to 30 s, as they might be in FSD50K, unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
import soundfile


def write_task(folder: Path, clips: int, longest_s: float) -> float:
    """A scene task of noise, three splits; returns its seconds of audio."""
    rng = np.random.default_rng(0)
    lengths_s = np.geomspace(0.3, longest_s, clips)
    rng.shuffle(lengths_s)
    for split, share in zip(("train", "valid", "test"), np.array_split(lengths_s, 3), strict=True):
        audio = folder / "16000" / split
        audio.mkdir(parents=True)
        for index, seconds in enumerate(share):
            samples = 0.1 * rng.standard_normal(int(16_000 * seconds))
            soundfile.write(audio / f"{index:03d}.wav", samples, 16_000, subtype="PCM_16")
        labels = {f"{index:03d}.wav": ["a"] for index in range(len(share))}
        (folder / f"{split}.json").write_text(json.dumps(labels))
    (folder / "labelvocabulary.csv").write_text("idx,label\n0,a\n1,b\n")
    metadata = {
        "task_name": "ragged",
        "embedding_type": "scene",
        "prediction_type": "multilabel",
        "split_mode": "trainvaltest",
        "sample_duration": None,
        "evaluation": ["mAP"],
        "splits": ["train", "valid", "test"],
    }
    (folder / "task_metadata.json").write_text(json.dumps(metadata))
    return float(lengths_s.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=150)
    parser.add_argument("--longest", type=float, default=30.0, help="seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    measure.use_cores(arguments.cores)
    print(measure.machine())
    with tempfile.TemporaryDirectory() as scratch, measure.random_base_checkpoint() as checkpoint:
        root = Path(scratch)
        seconds = write_task(root / "tasks" / "ragged", arguments.clips, arguments.longest)
        print(f"{arguments.clips} clips, {seconds / 60:.1f} minutes")
        model = ["hear_dasheng", "--model", str(checkpoint), "--tasks-dir", "tasks"]

        def run(*command: str) -> None:
            shutil.rmtree(root / "embeddings", ignore_errors=True)
            everything = [sys.executable, "-m", "hear_dasheng.cli", *command]
            subprocess.run(everything, cwd=root, check=True, capture_output=True)

        def official() -> None:
            run("heareval", "embeddings", *model, "--quiet")

        taken = measure.alternate(
            {"heareval": official, "embed": lambda: run("embed", *model)}, arguments.rounds
        )
        measure.report(taken, "heareval")


if __name__ == "__main__":
    main()
