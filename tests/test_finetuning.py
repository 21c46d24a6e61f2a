"""A whole fine-tuning run: what it learns, and what it leaves behind."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import noise, run_command
from finetuning_data import (
    EVERYTHING,
    PITCHES_HZ,
    SMALL_MODEL,
    finetune_config,
    pack,
    settings,
    tone,
    write_unequal_classes,
)
from pretraining_data import write_config
from resume_cases import lines_of
from safetensors.torch import load_file

from hear_dasheng import get_scene_embeddings, load_model
from hear_dasheng.classifier_checkpoint import load_classifier
from hear_dasheng.encoder import Encoder
from hear_dasheng.encoder_config import EncoderConfig
from hear_dasheng.export import export
from hear_dasheng.tagger import Tagger
from pretrain.finetune import finetune
from pretrain.reading.clip_labels import UnusableLabels
from pretrain.reading.skip_log import NoUsableAudio
from pretrain.train import objective_of, train
from pretrain.training.build import new_accelerator
from pretrain.training.class_list import agreed_labels
from pretrain.training.classification import Classification
from pretrain.training.optimizer_step import OptimizerStep
from pretrain.training.optimizers import new_optimizer
from pretrain.training.processes import Processes
from pretrain.training.schedule import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")

LEARNING = {"epochs": 4, "epoch_length": 25, "optimizer_args": {"lr": 2e-3, "weight_decay": 0.01}}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> tuple[str, str]:
    return write_unequal_classes(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory) -> Path:
    """A complete run with everything switched on."""
    folder = tmp_path_factory.mktemp("finetuning")
    options = EVERYTHING | LEARNING | {"ema_decay": 0.5, "n_saved": 2, "run_dir": str(folder / "run")}
    assert train(finetune_config(*shards, **options), folder / "c.yaml") is None
    return folder / "run"


def test_three_tones_are_learned(run):
    accuracies = [line["valid_accuracy"] for line in lines_of(run) if "valid_accuracy" in line]
    assert len(accuracies) == 4
    assert max(accuracies) >= 0.8
    losses = [line["valid_loss"] for line in lines_of(run) if "valid_loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["", "averaged", "last", "ema"])
def test_what_is_left_loads_as_tagger_and_as_hear_model(run, name):
    classifier = load_classifier(run / name)
    assert classifier.class_names == ("high", "low", "middle")
    assert not classifier.is_multi_label
    model = load_model(run / name)
    assert get_scene_embeddings(noise(2, 1.0), model).shape == (2, SMALL_MODEL["embed_dim"])
    encoder = classifier.encoder.state_dict()
    assert all(torch.equal(value, encoder[key]) for key, value in model.encoder.state_dict().items())


def test_the_tagger_tells_tones_apart(run):
    tagger = Tagger(load_classifier(run))
    clips = torch.stack([torch.from_numpy(tone([name], 77 + i)).float() for i, name in enumerate(PITCHES_HZ)])
    chosen = [tagger.class_names[number] for number in tagger(clips).argmax(1)]
    assert sum(a == b for a, b in zip(chosen, PITCHES_HZ, strict=True)) >= 2


def test_the_best_are_chosen_by_accuracy_and_averaged(run):
    scores = {line["epoch"]: line["valid_accuracy"] for line in lines_of(run) if "valid_accuracy" in line}
    kept = sorted(int(path.name.removeprefix("epoch_")) for path in (run / "best").iterdir())
    assert (
        sorted((scores[epoch] for epoch in kept), reverse=True) == sorted(scores.values(), reverse=True)[:2]
    )
    states = [load_file(run / f"best/epoch_{epoch:04d}/model.safetensors") for epoch in kept]
    for name, value in load_file(run / "model.safetensors").items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2, rtol=1e-6, atol=1e-7)


def test_metrics_and_pictures_tell_the_story(run):
    training = [line for line in lines_of(run) if "loss" in line]
    assert [line["iteration"] for line in training][:3] == [2, 4, 6]
    assert (run / "pictures/loss.png").stat().st_size > 10_000
    log = (run / "train.log").read_text()
    assert "84 clips of 3 classes, from 12 of each to 48" in log
    assert "3 classes ('high', 'low', 'middle')" in log


def test_several_labels_a_clip_are_learned_too(tmp_path):
    labels = ["low", "middle", "high", "low;high", "middle;low", "high;middle"]
    train_data, cv_data = pack(tmp_path, "train", labels * 12), pack(tmp_path, "valid", labels * 4)
    (tmp_path / "classes.txt").write_text("high\nlow\nmiddle\nabsent\n")
    options = {"task": "multi", "classes": str(tmp_path / "classes.txt"), "run_dir": str(tmp_path / "run")}
    train(finetune_config(train_data, cv_data, **options, **LEARNING), tmp_path / "c.yaml")
    scores = [line for line in lines_of(tmp_path / "run") if "valid_map" in line]
    assert max(line["valid_map"] for line in scores) > 0.75  # chance: 0.5
    assert {line["classes_without_clips"] for line in scores} == {1}
    classifier = load_classifier(tmp_path / "run")
    assert classifier.is_multi_label
    assert classifier.class_names[-1] == "absent"


def test_a_linear_probe_leaves_the_encoder_as_it_was(shards, tmp_path):
    torch.manual_seed(5)
    encoder = Encoder(EncoderConfig(dim=48, depth=2, heads=2)).eval()
    start = export(encoder, tmp_path / "start")
    options = {"model": None, "model_args": {}, "init_from": str(start), "freeze_encoder": True}
    subject = finetune_config(*shards, **options, epochs=1, run_dir=str(tmp_path / "run"))
    train(subject, tmp_path / "c.yaml")
    after = load_classifier(tmp_path / "run/last")
    assert all(torch.equal(v, encoder.state_dict()[k]) for k, v in after.encoder.state_dict().items())
    first = Classification(subject, agreed_labels(subject, tmp_path / "run", Processes())).new_model()
    assert not torch.equal(after.outputlayer[1].weight, first.classifier.outputlayer[1].weight)


def test_bfloat16_finds_nearly_the_same(shards, tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        run = tmp_path / precision
        train(finetune_config(*shards, epochs=1, precision=precision, run_dir=str(run)), tmp_path / "c.yaml")
        losses += [line["valid_loss"] for line in lines_of(run) if "valid_loss" in line]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_one_step_is_that_of_plain_torch(shards, tmp_path):
    subject = finetune_config(*shards, layer_decay=0.5, optimizer_args={"lr": 1e-2, "weight_decay": 0.1})
    objective = objective_of(subject, tmp_path, Processes())
    accelerator = new_accelerator(subject, tmp_path)
    ours, plain = objective.new_model().train(), objective.new_model().train()
    model, optimizer = accelerator.prepare(ours, new_optimizer(ours, subject))
    schedule = Schedule(1e-2, 1, is_constant=True)
    step = OptimizerStep(objective, accelerator, model, ours, optimizer, schedule, None, Processes())
    batch = objective.silence()
    batch.keys, batch.targets = list("wxyz"), torch.eye(3)[[0, 1, 2, 1]]
    batch.waveforms = torch.stack([torch.from_numpy(tone(["low"], seed)).float() for seed in range(4)])
    report = step(0, [batch], 4)

    parts = {"encoder.blocks.0.": 0.25, "encoder.blocks.1.": 0.5, "encoder.norm.": 1, "outputlayer.": 1}
    groups = []
    for name, parameter in plain.classifier.named_parameters():
        scale = next((part for prefix, part in parts.items() if name.startswith(prefix)), 0.125)
        groups.append({"params": [parameter], "lr": 1e-2 * scale})
    loss = torch.nn.functional.cross_entropy(
        plain.classifier(plain.log_mel(batch.waveforms)), torch.tensor([0, 1, 2, 1])
    )
    loss.backward()
    torch.optim.AdamW(groups, weight_decay=0.1).step()
    assert report.loss_sum() / 4 == pytest.approx(loss.item(), rel=1e-6)
    theirs = plain.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=2e-6, msg=name)


def test_labels_that_are_missing_are_told(shards, tmp_path):
    with pytest.raises(UnusableLabels, match="no column 'class', but 'label'; choose with label_column"):
        train(
            finetune_config(*shards, label_column="class", run_dir=str(tmp_path / "a")), tmp_path / "c.yaml"
        )
    (tmp_path / "classes.txt").write_text("low\nhigh\n")
    options = {"classes": str(tmp_path / "classes.txt"), "run_dir": str(tmp_path / "b")}
    with pytest.raises(NoUsableAudio, match=r"is labelled 'middle', which is none of the 2 classes"):
        train(finetune_config(*shards, **options), tmp_path / "c.yaml")


def test_the_command_trains_and_reports_errors_without_a_traceback(shards, tmp_path):
    values = settings(*shards, epochs=1, epoch_length=2, warmup_iters=0)
    config = str(write_config(tmp_path / "c.yaml", values))
    result = run_command("finetune", config, "--run_dir", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert load_classifier(tmp_path / "run").class_names == ("high", "low", "middle")
    options = ["--run_dir", str(tmp_path / "other"), "--label_column", "tag"]
    result = CliRunner().invoke(finetune, [config, *options])
    assert result.exit_code == 1
    assert "Error: " in result.output
    assert "no column 'tag'" in result.output
