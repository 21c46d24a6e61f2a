"""What is told of a run while it goes on and at its end: losses, the best, their average."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from finetuning_data import finetune_config, labels_of, pack
from pretraining_data import settings, write_config, write_shards
from process_cases import on_processes
from resume_cases import lines_of, run_until_killed

from hear_dasheng.classifier_checkpoint import load_classifier
from pretrain.augmented_classifier import AugmentedClassifier
from pretrain.reading.clip_labels import ClipLabels, LabelColumn
from pretrain.reading.count_crops import count_crops
from pretrain.shards import CropBatches
from pretrain.train import train
from pretrain.training import journal
from pretrain.training.data import TrainingData, configured_sources
from pretrain.training.encoders import is_among_best
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.processes import Processes
from pretrain.training.read_config import config_of, read_config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("labelled")
    train_data = pack(folder, "train", labels_of({"low": 30, "middle": 30, "high": 1}))
    return train_data, pack(folder, "valid", ["low", "middle", "high"] * 4, seconds=[0.5, 0.7] * 6)


def test_of_equal_scores_the_lower_loss_is_better_and_then_the_earlier_one():
    best = []
    for name, score, loss in [("1", 0.5, 0.9), ("2", 0.8, 0.7), ("3", 0.8, 0.4), ("4", 0.8, 0.7)]:
        assert is_among_best(best, score, name, 3, loss)
    assert [entry[1] for entry in best] == ["3", "2", "4"]
    assert not is_among_best(best, 0.8, "5", 3, 0.7)
    assert is_among_best(best, 0.8, "6", 3, 0.6)
    assert [entry[1] for entry in best] == ["3", "6", "2"]
    earlier = [[0.8, "1"], [0.7, "2"]]  # as states were before they held losses
    assert is_among_best(earlier, 0.8, "3", 2, 0.5)
    assert not is_among_best(earlier, 0.8, "4", 2)
    assert [entry[1] for entry in earlier] == ["3", "1"]


def planned_and_given(config: FinetuneConfig, labels: ClipLabels, n_passes: int) -> tuple[int, float]:
    data = TrainingData(config, Processes(), False, labels)
    given = 0
    for data_pass in range(n_passes):
        data.open(data_pass)
        while batches := data.take(1):
            given += len(batches)
    return data.planned_iterations(), given / n_passes


def test_a_balanced_pass_is_planned_as_long_as_it_is(shards):
    config = finetune_config(
        *shards,
        resampled=False,
        epoch_length=None,
        balanced=True,
        balanced_max_repeats=2,
        batch_size=1,
        epochs=1,
    )
    column = LabelColumn("label", None)
    labels = ClipLabels(column, ("low", "middle", "high"), (61 / 90, 61 / 90, 61 / 3), 2)
    planned, given = planned_and_given(config, labels, 30)
    assert planned == 43  # 60 clips 0.678 times, and one twice; each once would be 61
    assert given == pytest.approx(60 * 61 / 90 + 2, rel=0.05)
    urls = [url for source in configured_sources(config, "train_data") for url in source.urls]
    once = ClipLabels(column, labels.classes)
    assert count_crops(urls, 8_000, 16_000, clip_labels=once) == count_crops(urls, 8_000, 16_000) == 61


def training_lines(run: Path) -> list[dict]:
    return [line for line in lines_of(run) if "loss" in line]


@pytest.mark.parametrize("epoch_length", [3, None])
def test_every_epoch_tells_its_loss(tmp_path, epoch_length):
    write_shards(tmp_path)
    changes = {
        "log_every": 50,
        "epochs": 2,
        "resampled": False,
        "epoch_length": epoch_length,
        "batch_size": 8,
    }
    values = settings(tmp_path, run_dir=str(tmp_path / "run"), **changes, gradient_clip_norm=1.0)
    train(config_of(values), tmp_path / "c.yaml")
    lines = training_lines(tmp_path / "run")
    assert [(line["iteration"], line["epoch"]) for line in lines] == [(3, 0), (6, 1)]
    assert all(line["lr"] > 0 and line["grad_norm"] > 0 for line in lines)


def test_a_run_killed_at_the_end_of_a_pass_tells_the_same(tmp_path):
    write_shards(tmp_path)
    changes = {"log_every": 50, "epochs": 2, "resampled": False, "epoch_length": None, "save_every": 1}
    values = settings(tmp_path, **changes, gradient_clip_norm=1.0, batch_size=8)
    config = write_config(tmp_path / "c.yaml", values)
    train(read_config(config, ["--run_dir", str(tmp_path / "whole")]), config)
    run_until_killed(
        "remove", 3, config, tmp_path / "parted"
    )  # the pass's last state is there, its end is not
    assert not training_lines(tmp_path / "parted")
    train(read_config(config, ["--run_dir", str(tmp_path / "parted")]), config, resume=True)
    assert lines_of(tmp_path / "parted") == lines_of(tmp_path / "whole")


LEARNING = {
    "epochs": 3,
    "epoch_length": 5,
    "n_saved": 3,
    "optimizer_args": {"lr": 2e-3, "weight_decay": 0.01},
}


def validated(run: Path, cv_data: str) -> tuple[float, float]:
    """Loss and accuracy of the run's classifier on whole clips, clip by clip."""
    classifier = load_classifier(run)
    model = AugmentedClassifier(classifier).eval()
    labels = ClipLabels(LabelColumn("label", None), classifier.class_names)
    sources = configured_sources(finetune_config(cv_data, cv_data), "cv_data")
    batches = CropBatches(
        sources,
        batch_size=1,
        chunk_samples=8_000,
        shuffle_crops=0,
        resampled=False,
        seed=0,
        clip_labels=labels,
    )
    losses, hits = [], []
    with torch.no_grad():
        for batch in batches:
            logits = model(batch.waveforms)
            losses.append(torch.nn.functional.cross_entropy(logits, batch.targets).item())
            hits.append(logits.argmax().item() == batch.targets.argmax().item())
    return float(np.mean(losses)), float(np.mean(hits))


def train_in_parts(config: FinetuneConfig, folder: Path) -> None:
    assert train(config, folder / "c.yaml") is None


@pytest.mark.parametrize("n_processes", [1, 2])
def test_the_average_is_validated_too(shards, tmp_path, n_processes):
    run = tmp_path / "run"
    config = finetune_config(*shards, **LEARNING, run_dir=str(run))
    on_processes(train_in_parts, config, tmp_path, count=n_processes)
    lines = lines_of(run)
    assert lines[-1].keys() == {"iteration", "epoch", "averaged_valid_loss", "averaged_valid_accuracy"}
    loss, accuracy = validated(run, shards[1])
    assert lines[-1]["averaged_valid_loss"] == pytest.approx(loss, rel=1e-5)
    assert lines[-1]["averaged_valid_accuracy"] == pytest.approx(accuracy)
    scores = {line["epoch"]: line for line in lines if "valid_loss" in line}
    best = min(scores.values(), key=lambda line: (-line["valid_accuracy"], line["valid_loss"], line["epoch"]))
    log = (run / "train.log").read_text()
    assert f"averaged: valid_loss {lines[-1]['averaged_valid_loss']:.4f}, valid_accuracy" in log
    told = f"epoch_{best['epoch']:04d}, the best alone: valid_loss {best['valid_loss']:.4f}, valid_accuracy"
    assert told in log
    assert f"is a tagger, hear-dasheng tag FILES --model {run}, and its encoder a HEAR checkpoint" in log
    if n_processes == 1:
        train(config, tmp_path / "c.yaml", resume=True)
        assert lines_of(run) == lines, "the average is told once"


def test_the_bar_keeps_its_unit(tmp_path, monkeypatch):
    shown = []

    class Bar(journal.tqdm):
        rate = 0.01
        is_measured = False

        @property
        def format_dict(self):
            return {**super().format_dict, "rate": self.rate if self.is_measured else None}

        def set_postfix_str(self, text, refresh=True):
            shown.append(text.rpartition(", ")[2])

    monkeypatch.setattr(journal, "tqdm", Bar)
    write_shards(tmp_path)
    values = settings(tmp_path, epochs=1, epoch_length=4, warmup_iters=0, run_dir=str(tmp_path / "run"))

    def step(self, *arguments):
        original(self, *arguments)
        self.bar.is_measured = True
        self.bar.rate *= 1_000

    original = journal.Journal.step
    monkeypatch.setattr(journal.Journal, "step", step)
    train(config_of(values), tmp_path / "c.yaml")
    assert shown[0].startswith("lr "), "nothing is known of the speed yet"
    assert shown[1:] == ["30 s of audio/s", "30,000 s of audio/s", "30,000,000 s of audio/s"]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"rate": None, "n": 5, "initial": 5, "elapsed": 0.0}, "lr 1.00e-03"),
        ({"rate": None, "n": 5, "initial": 5, "elapsed": 2.0}, "lr 1.00e-03"),
        ({"rate": None, "n": 7, "initial": 5, "elapsed": 4.0}, "5.0 s of audio/s"),
        ({"rate": 3.0, "n": 7, "initial": 5, "elapsed": 4.0}, "30 s of audio/s"),
    ],
)
def test_the_speed_is_told_once_it_is_measured(tmp_path, monkeypatch, state, told):
    shown = []

    class Bar(journal.tqdm):
        @property
        def format_dict(self):
            return {**super().format_dict, **state}

        def set_postfix_str(self, text, refresh=True):
            shown.append(text.rpartition(", ")[2])

    monkeypatch.setattr(journal, "tqdm", Bar)
    subject = journal.Journal(tmp_path, SimpleNamespace(is_main_process=True), 5, 9, "training")
    subject.step(0.5, 1e-3, 10.0)
    subject.close()
    assert shown == [told]
