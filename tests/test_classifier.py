"""Encoders with a linear head: equal to the published recipe, in both layouts, and bad files refused."""

import json

import pytest
import torch
from conftest import noise
from safetensors.torch import load_file, save_file
from tagging_cases import flat_state, recipe

from hear_dasheng.audioset import audioset_names
from hear_dasheng.checkpoint import load_encoder
from hear_dasheng.checkpoint_files import CheckpointError
from hear_dasheng.classifier import new_classifier
from hear_dasheng.classifier_checkpoint import export_classifier, load_classifier
from hear_dasheng.export import new_encoder
from hear_dasheng.mel import LogMel

NAMES = ("dog", "cat", "rain")


@pytest.fixture
def classifier():
    return new_classifier(new_encoder("tiny", seed=3), NAMES, is_multi_label=False, seed=4)


@pytest.fixture
def state(tiny_oracle):
    return flat_state(tiny_oracle)


def assert_same(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())
    assert (a.class_names, a.is_multi_label) == (b.class_names, b.is_multi_label)


def test_names_of_parameters_are_those_of_the_published_file(classifier, state):
    ours = {name.removeprefix("encoder.") for name in classifier.state_dict()}
    theirs = {name.replace("init_bn.1.", "init_bn.") for name in state if "front_end" not in name}
    assert ours == theirs


def test_audiosets_names():
    names = audioset_names()
    assert len(names) == len(set(names)) == 527
    assert [names[index] for index in (0, 74, 137, 300, 500)] == [
        "Speech",
        "Dog",
        "Music",
        "Vehicle",
        "Silence",
    ]


def test_the_published_layout_is_loaded_with_audiosets_names(tmp_path, state, tiny_oracle):
    torch.save(state, tmp_path / "mAP497.pt")
    classifier = load_classifier(tmp_path / "mAP497.pt")
    assert classifier.class_names == audioset_names()
    clip = noise(1, 4)
    mel = LogMel()(clip)[:, :, :400]
    expected = recipe(tiny_oracle, state, clip)
    with torch.no_grad():
        ours = classifier.probabilities(classifier(mel))
    assert expected.std() > 0.1
    assert (ours - expected).abs().max() <= 1e-5


def test_export_of_audiosets_classes_is_the_published_layout(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    classifier = load_classifier(tmp_path / "a.pt")
    export_classifier(classifier, tmp_path / "b.pt", "published")
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again.items() if "mel" not in name)
    assert_same(load_classifier(tmp_path / "b.pt"), classifier)


def test_a_folder_keeps_names_and_kind(tmp_path, classifier):
    folder = export_classifier(classifier, tmp_path / "new")
    assert_same(load_classifier(folder), classifier)
    encoder = load_encoder(folder)
    assert all(torch.equal(v, encoder.state_dict()[k]) for k, v in classifier.encoder.state_dict().items())
    with pytest.raises(FileExistsError, match="exists already"):
        export_classifier(classifier, folder)


def test_the_published_layout_refuses_other_classes(tmp_path, classifier):
    with pytest.raises(ValueError, match=r"means AudioSet's 527; write these 3 classes"):
        export_classifier(classifier, tmp_path / "x.pt", "published")
    assert not list(tmp_path.iterdir())


def test_padding_does_not_count(classifier):
    mel = LogMel()(noise(1, 2))[:, :, :200]
    padded = torch.cat([mel, torch.full((1, 64, 80), 30.0)], dim=2)
    is_valid = torch.arange(70)[None] < 50
    with torch.no_grad():
        alone, beside = classifier(mel), classifier(padded, is_valid)
        assert (classifier(padded) - alone).abs().max() > 1e-3
    assert (beside - alone).abs().max() <= 1e-5


def test_one_among_all_sums_to_one(classifier):
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.allclose(classifier.probabilities(logits), logits.softmax(-1))
    classifier.is_multi_label = True
    assert torch.allclose(classifier.probabilities(logits), logits.sigmoid())


def test_every_weight_has_a_gradient(classifier):
    classifier.requires_grad_(True).train()
    classifier(LogMel()(noise(2, 1))[:, :, :100]).square().sum().backward()
    # a key's bias moves all scores of a query alike, so that gradients of it alone vanish
    assert all(parameter.grad.abs().max() > 0 for parameter in classifier.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: [s.pop(k) for k in list(s) if "outputlayer" in k], "holds an encoder and no classifier"),
        (lambda s: s.pop("outputlayer.1.bias"), "incomplete: it has no outputlayer.1.bias"),
        (
            lambda s: s.update({"outputlayer.1.weight": torch.ones(527, 8)}),
            r"\(527, 8\) instead of \(527, 192\)",
        ),
        (lambda s: s["outputlayer.0.bias"].fill_(torch.nan), "outputlayer.0.bias holds values"),
        (lambda s: s.pop("norm.weight"), "norm.weight is missing"),
        (lambda s: s.update({"module.outputlayer.0.bias": torch.ones(192)}), "stands there twice"),
    ],
)
def test_bad_files_are_refused(tmp_path, state, change, message):
    change(state)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=message):
        load_classifier(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"0": "dog", "1": "cat"}}, r"3 outputs.*does not name 0 to 2 \(it has 2\)"),
        ({"id2label": ["dog", "cat", "rain"]}, "does not name 0 to 2"),
        ({"problem_type": "regression"}, "problem_type='regression'"),
    ],
)
def test_bad_configs_are_refused(tmp_path, classifier, config, message):
    folder = export_classifier(classifier, tmp_path / "new")
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | config))
    with pytest.raises(CheckpointError, match=message):
        load_classifier(folder)


def test_outputs_without_names_are_numbered(tmp_path, classifier):
    folder = export_classifier(classifier, tmp_path / "new")
    save_file(load_file(folder / "model.safetensors"), tmp_path / "alone.safetensors")
    assert load_classifier(tmp_path / "alone.safetensors").class_names == ("class 0", "class 1", "class 2")


def test_code_in_a_pickle_is_not_run(tmp_path, state):
    class Malice:
        def __reduce__(self):
            return print, ("run",)

    torch.save(state | {"outputlayer.x": Malice()}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="its pickle asks to call"):
        load_classifier(tmp_path / "bad.pt")
