"""Fine-tuning's config, classes, learning rates and metrics: known answers, and errors with remedies."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from finetuning_data import SMALL_MODEL, finetune_config, labels_of, pack

from hear_dasheng.audioset import audioset_names
from hear_dasheng.classifier_checkpoint import load_classifier
from hear_dasheng.export import export, new_encoder
from pretrain.reading.clip_labels import ClipLabels, LabelColumn, UnusableLabels
from pretrain.shards import NoUsableAudio
from pretrain.training.class_list import agreed_labels, named_classes
from pretrain.training.classification import Classification
from pretrain.training.clip_metrics import accuracy, mean_average_precision, of_whole_clips
from pretrain.training.finetune_config import FinetuneConfig
from pretrain.training.optimizers import new_optimizer
from pretrain.training.processes import Processes
from pretrain.training.read_config import ConfigError, read_config

LABELS = ClipLabels(LabelColumn("label", None), ("a", "b", "c"))


def config(**changes) -> FinetuneConfig:
    return finetune_config("a.tar", "b.tar", **changes)


def test_every_key_is_explained():
    source = (REPOSITORY / "pretrain/training/finetune_config.py").read_text()
    source += (REPOSITORY / "pretrain/training/config.py").read_text()
    lines = source.splitlines()
    for field in dataclasses.fields(FinetuneConfig):
        line = next(i for i, text in enumerate(lines) if text.startswith(f"    {field.name}:"))
        assert lines[line + 1].strip().startswith('"""'), f"{field.name} is not explained"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratio": 0.5}, "there is no key 'mask_ratio'"),
        ({"model": None}, "model is None and init_from None; give one of them"),
        ({"init_from": "x.pt"}, "model is 'dasheng_tiny' and init_from 'x.pt'; give one of them"),
        ({"score_function": ["mAP", 1.0]}, "score_function is mAP, but task single has none"),
        ({"task": "multi", "score_function": ["accuracy", 1.0]}, "accuracy, but task multi has none"),
        ({"task": "multi", "label_smoothing": 0.1}, "for task single; give --label_smoothing 0 or"),
        ({"task": "many"}, "task is 'many': it must be 'single' or 'multi'"),
        ({"mixup": 0}, "mixup is 0: it must be greater than 0"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
        ({"time_shift": 0.7}, "time_shift is 0.7"),
        ({"balanced_max_repeats": 0}, "balanced_max_repeats is 0"),
        ({"epoch_length": None}, "epoch_length is null, but resampled data never end"),
    ],
)
def test_impossible_values_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError) as error:
        config(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_shipped_config_is_for_either_task(task):
    subject = read_config("finetune_tiny", ["--task", task], FinetuneConfig)
    assert (subject.task, subject.label_smoothing) == (task, 0.1 if task == "single" else 0)
    if task == "multi":
        with pytest.raises(ConfigError, match=r"label_smoothing is 0\.2, but is for task single; give"):
            read_config("finetune_tiny", ["--task", task, "--label_smoothing", "0.2"], FinetuneConfig)


@pytest.mark.parametrize("is_named", [False, True])
def test_several_labels_are_not_taken_for_one(tmp_path, is_named):
    shards = pack(tmp_path, "train", ["low", "low;high"], seconds=0.05)
    (tmp_path / "run").mkdir()
    (tmp_path / "classes.txt").write_text("low\nhigh\n")
    named = {"classes": str(tmp_path / "classes.txt"), "balanced": True} if is_named else {}
    message = r"train_000[01]\.wav is labelled 'low;high' .*_separator ';', .* give --task multi; .* one name"
    with pytest.raises(UnusableLabels, match=message):
        agreed_labels(finetune_config(shards, shards, **named), tmp_path / "run", Processes())
    several = finetune_config(shards, shards, task="multi", **named)
    assert set(agreed_labels(several, tmp_path / "run", Processes()).classes) == {"low", "high"}


@pytest.mark.parametrize("remedy", ["separator", "classes"])
def test_a_name_may_hold_the_separator_if_it_is_said(tmp_path, remedy):
    shards = pack(tmp_path, "train", ["low", "low;high"], seconds=0.05)
    (tmp_path / "run").mkdir()
    (tmp_path / "classes.txt").write_text("low\nlow;high\n")
    said = {"separator": {"label_separator": "//"}, "classes": {"classes": str(tmp_path / "classes.txt")}}
    subject = finetune_config(shards, shards, balanced=True, **said[remedy])
    assert agreed_labels(subject, tmp_path / "run", Processes()).classes == ("low", "low;high")


def test_any_checkpoint_gives_the_size_and_dropout_may_be_added(tmp_path):
    folder = export(new_encoder("tiny"), tmp_path / "ours")
    start = {"init_from": str(folder), "model": None}
    model = Classification(config(**start, model_args={"drop_rate": 0.1}), LABELS).new_model()
    assert (model.encoder.config.dim, model.encoder.config.dropout) == (192, 0.1)
    expected = new_encoder("tiny").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.encoder.state_dict().items())
    with pytest.raises(ConfigError, match="but the config describes"):
        Classification(config(**start, model_args={"mlp_ratio": 2}), LABELS).new_model()
    with pytest.raises(ConfigError, match="chunk_length 11.0 s gives 275 tokens"):
        Classification(config(**start, model_args={}, chunk_length=11.0), LABELS).new_model()


def test_each_layer_has_its_own_rate():
    depth, decay = 3, 0.5
    subject = config(layer_decay=decay, no_decay_on_vectors=True, model_args=SMALL_MODEL | {"depth": depth})
    model = Classification(subject, LABELS).new_model()
    rate_of, decay_of = {}, {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in new_optimizer(model, subject).param_groups:
        for parameter in group["params"]:
            assert id(parameter) in names
            rate_of[names[id(parameter)]] = group["lr_scale"]
            decay_of[names[id(parameter)]] = group["weight_decay"]
    assert len(rate_of) == len(names)
    for name, rate in rate_of.items():
        name = name.removeprefix("classifier.")
        if name.startswith("encoder.blocks."):
            assert rate == decay ** (depth - int(name.split(".")[2])), name
        elif name.startswith(("encoder.norm", "outputlayer")):
            assert rate == 1, name
        else:
            assert rate == decay ** (depth + 1), name
    assert decay_of["classifier.encoder.time_pos_embed"] == decay_of["classifier.outputlayer.1.bias"] == 0
    assert decay_of["classifier.outputlayer.1.weight"] > 0


def test_a_frozen_encoder_learns_nothing_and_keeps_its_statistics():
    subject = config(freeze_encoder=True)
    model = Classification(subject, LABELS).new_model().train()
    learning = [
        parameter for group in new_optimizer(model, subject).param_groups for parameter in group["params"]
    ]
    assert {id(p) for p in learning} == {id(p) for p in model.classifier.outputlayer.parameters()}
    assert not model.encoder.init_bn.training
    assert model.classifier.outputlayer.training


def test_classes_found_in_shards_are_counted_and_kept(tmp_path):
    counts = {"low": 3, "high": 5, "middle": 2}
    shards = pack(tmp_path, "train", labels_of(counts), seconds=0.05, clips_per_shard=4)
    (tmp_path / "run").mkdir()
    subject = finetune_config(shards, shards, balanced=True)
    labels = agreed_labels(subject, tmp_path / "run", Processes())
    assert labels.classes == ("high", "low", "middle")
    assert labels.repeats == pytest.approx((10 / 3 / 5, 10 / 3 / 3, 10 / 3 / 2))
    kept = json.loads((tmp_path / "run/classes.json").read_text())
    assert (kept["classes"], kept["clips_of_class"], kept["clips"]) == (
        ["high", "low", "middle"],
        [5, 3, 2],
        10,
    )


def test_classes_that_are_numbers_stay_in_order(tmp_path):
    shards = pack(tmp_path, "train", ["10", "9", "2"], seconds=0.05)
    (tmp_path / "run").mkdir()
    assert agreed_labels(finetune_config(shards, shards), tmp_path / "run", Processes()).classes == (
        "2",
        "9",
        "10",
    )


def test_named_classes_keep_their_order_and_unknown_labels_are_told(tmp_path):
    (tmp_path / "classes.txt").write_text("low\nhigh\nnone of these\n")
    assert named_classes(str(tmp_path / "classes.txt")) == ("low", "high", "none of these")
    assert named_classes("audioset") == audioset_names()
    shards = pack(tmp_path, "train", ["low", "middle"], seconds=0.05)
    (tmp_path / "run").mkdir()
    subject = finetune_config(shards, shards, balanced=True, classes=str(tmp_path / "classes.txt"))
    told = (
        r"train_0000000\.tar/train_0001\.wav is labelled 'middle', which is none of the 3 classes \('low', "
    )
    with pytest.raises(NoUsableAudio, match=told):
        agreed_labels(subject, tmp_path / "run", Processes())


def test_labels_of_validation_clips_are_checked_before_training(tmp_path):
    train_data = pack(tmp_path, "train", ["low", "middle"], seconds=0.05)
    cv_data = pack(tmp_path, "valid", ["low", "high"], seconds=0.05)
    (tmp_path / "run").mkdir()
    told = r"valid_0000000\.tar/valid_0001\.wav is labelled 'high', which is none of the 2"
    with pytest.raises(NoUsableAudio, match=told):
        agreed_labels(finetune_config(train_data, cv_data), tmp_path / "run", Processes())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "give a text file with a class a line"),
        ("", "names no class"),
        ("a\nb\na\n", "names 'a' twice"),
    ],
)
def test_files_of_classes_that_are_none_are_refused(tmp_path, text, message):
    path = tmp_path / "classes.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        named_classes(str(path))


def test_precision_is_averaged_over_the_classes_that_occur():
    from sklearn.metrics import average_precision_score

    generator = np.random.default_rng(0)
    targets = (generator.random((200, 12)) < 0.1).astype(np.float32)
    logits = np.round(generator.standard_normal((200, 12)) + targets, 1)  # with ties
    targets[:, [3, 7]] = 0
    value, n_left_out = mean_average_precision(logits, targets)
    occurring = [number for number in range(12) if number not in (3, 7)]
    assert n_left_out == 2
    assert value == average_precision_score(targets[:, occurring], logits[:, occurring], average="macro")
    perfect = mean_average_precision(targets, targets)
    assert perfect == (1.0, 2)
    # one positive at place 2 of 4, by hand: precision 1/2 at the only recall step
    assert mean_average_precision(np.array([[4.0], [3], [2], [1]]), np.array([[0.0], [1], [0], [0]])) == (
        0.5,
        0,
    )
    with pytest.raises(NoUsableAudio, match="no clip of cv_data has any of the classes"):
        mean_average_precision(logits, np.zeros_like(targets))


def test_a_clips_scores_are_the_mean_of_its_crops_whatever_their_order():
    keys = ["s.tar/b.wav#0", "s.tar/a#1.wav#0", "s.tar/b.wav#1"]
    logits = np.array([[1.0, 0.0], [5.0, 5.0], [3.0, 2.0]], np.float32)
    targets = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    for order in ([0, 1, 2], [2, 0, 1]):
        means, truth = of_whole_clips([keys[i] for i in order], logits[order], targets[order])
        assert means.tolist() == [[5, 5], [2, 1]]
        assert truth.tolist() == [[0, 1], [1, 0]]
    assert accuracy(means, truth) == 0.5


def test_classifiers_of_audiosets_classes_are_also_written_in_the_published_form(tmp_path):
    labels = ClipLabels(LabelColumn("labels", ";"), audioset_names())
    objective = Classification(config(task="multi", classes="audioset"), labels)
    classifier = objective.result_of(objective.new_model())
    objective.write(classifier, tmp_path / "last")
    for path in (tmp_path / "last", tmp_path / "last.pt"):
        written = load_classifier(path, num_heads=SMALL_MODEL["num_heads"])
        assert written.class_names == audioset_names()
        assert torch.equal(written.outputlayer[1].weight, classifier.outputlayer[1].weight)
    other = Classification(config(), LABELS)
    other.write(other.result_of(other.new_model()), tmp_path / "three")
    assert not (tmp_path / "three.pt").exists()
