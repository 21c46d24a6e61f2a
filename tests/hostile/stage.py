"""What the commands of the campaign work on: checkpoints, sounds, a data set, an embedded and scored task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from click.testing import CliRunner
from task_archives import task_files, write_tar

from eval_recipes.embed import embed
from eval_recipes.knn import knn
from eval_recipes.score import score
from hear_dasheng.classifier import new_classifier
from hear_dasheng.classifier_checkpoint import export_classifier
from hear_dasheng.export import export, new_encoder

MODULE = "eval_recipes.baselines.log_mel"
RATE_HZ = 16_000
TASK = "tones-v1-small"
METADATA = {
    "task_name": "tones",
    "version": "v1",
    "mode": "small",
    "embedding_type": "scene",
    "prediction_type": "multiclass",
    "split_mode": "trainvaltest",
    "sample_duration": 0.3,
    "evaluation": ["top1_acc"],
    "splits": ["train", "valid", "test"],
}


def tone(frequency_hz: float, seconds: float = 0.3) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)


def succeed(command, *arguments: object) -> None:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def write_dataset(folder: Path, clips: int = 4) -> Path:
    for number, label in enumerate(("low", "high")):
        (folder / label).mkdir(parents=True)
        for clip in range(clips):
            soundfile.write(folder / label / f"{clip}.wav", tone(300 + 2000 * number + 20 * clip), RATE_HZ)
    return folder


def write_task(folder: Path, clips: int = 6) -> None:
    folder.mkdir(parents=True)
    (folder / "task_metadata.json").write_text(json.dumps(METADATA))
    (folder / "labelvocabulary.csv").write_text("idx,label\n0,low\n1,high\n")
    for split in METADATA["splits"]:
        (folder / str(RATE_HZ) / split).mkdir(parents=True)
        labels = {f"{split}{clip}.wav": ["high" if clip % 2 else "low"] for clip in range(clips)}
        (folder / f"{split}.json").write_text(json.dumps(labels))
        for clip, name in enumerate(labels):
            samples = tone(300 + 2000 * (clip % 2) + 30 * clip)
            soundfile.write(folder / str(RATE_HZ) / split / name, samples, RATE_HZ)


def build(folder: Path) -> Path:
    """Make everything below a folder."""
    encoder = new_encoder("tiny")
    export(encoder, folder / "tiny")
    export(encoder, folder / "tiny.pt", "published")
    export_classifier(new_classifier(new_encoder("tiny"), ("low", "high")), folder / "tagger")
    soundfile.write(folder / "a.wav", tone(440, 1.0), RATE_HZ)
    soundfile.write(folder / "b.wav", tone(880, 1.0), RATE_HZ)
    write_dataset(folder / "data")
    write_task(folder / "tasks" / TASK)
    write_tar(folder / "beeps.tar.gz", task_files())
    succeed(embed, MODULE, "--tasks-dir", folder / "tasks", "--out", folder / "embeddings")
    succeed(score, folder / "embeddings" / MODULE, "--grid", "faster", "--grid-points", 1)
    succeed(knn, MODULE, "--dataset", "folder", "--data", folder / "data", "--k", 1, "--out", folder / "knn")
    return folder
