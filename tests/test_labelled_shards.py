"""Labels come with their clips, classes as often as they should, and bad labels are told by name."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from shard_cases import clip, crop_batches, is_same, write_tar

from pretrain.reading.clip_labels import ClipLabels, LabelColumn, UnusableLabels, balancing_repeats
from pretrain.reading.count_labels import CLIPS, count_labels
from pretrain.reading.skip_log import NoUsableAudio
from pretrain.reading.tar_members import ShardFault, audio_members

ONE, MANY = LabelColumn("label", None), LabelColumn("label", ";")
CLASSES = ("a", "b", "c")


def labelled(folder, labels, name="0.tar", suffix="flac", crops=1.0, json_first=False, column="label"):
    """A shard of a clip for each label."""
    members = []
    for index, label in enumerate(labels):
        pair = [(f"{index:03d}.{suffix}", clip(crops, index, suffix))]
        pair.append((f"{index:03d}.json", json.dumps({column: label, "other": 1}).encode()))
        members += pair[::-1] if json_first else pair
    folder.mkdir(exist_ok=True)
    return str(write_tar(folder / name, members))


def targets_of(batches) -> dict[str, list[float]]:
    return {
        key: target.tolist()
        for batch in batches
        for key, target in zip(batch.keys, batch.targets, strict=True)
    }


@pytest.mark.parametrize(("suffix", "json_first"), [("flac", False), ("wav", True)])
@pytest.mark.parametrize("shuffle_crops", [0, 5])
def test_every_crop_has_its_clips_target(tmp_path, suffix, json_first, shuffle_crops):
    url = labelled(tmp_path, ["a", "c", "b"], suffix=suffix, json_first=json_first, crops=2.0)
    batches = crop_batches([url], shuffle_crops=shuffle_crops, clip_labels=ClipLabels(ONE, CLASSES))
    rows = {"000": [1, 0, 0], "001": [0, 0, 1], "002": [0, 1, 0]}
    assert targets_of(batches) == {
        f"0.tar/{name}.{suffix}#{crop}": row for name, row in rows.items() for crop in (0, 1)
    }


def test_two_data_workers_give_targets_too(tmp_path):
    url = labelled(tmp_path, ["a", "c", "b", "b"])
    batches = crop_batches([url], n_workers=2, batch_size=2, clip_labels=ClipLabels(ONE, CLASSES))
    assert targets_of(batches)["0.tar/001.flac#0"] == [0, 0, 1]


def test_without_labels_nothing_of_them_is_read(tmp_path):
    url = labelled(tmp_path, ["a", "b"])
    assert all(batch.targets is None for batch in crop_batches([url]))
    assert [member.labels for member in audio_members(url, lambda index: True)] == [None, None]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a;c", [1, 0, 1]),
        ("b", [0, 1, 0]),
        (" c ; a ", [1, 0, 1]),
        (None, [0, 0, 0]),
        ("", [0, 0, 0]),
        (["a", "b"], [1, 1, 0]),
        (2, [0, 0, 1]),
        ("0;1", [1, 1, 0]),
        ([0, "c"], [1, 0, 1]),
    ],
)
def test_cells_of_many_kinds_become_targets(cell, expected):
    encoded = json.dumps({"label": cell}).encode()
    assert ClipLabels(MANY, CLASSES).target(encoded, "x.flac").tolist() == expected


def test_a_class_that_is_called_like_a_number_is_meant_by_it():
    labels = ClipLabels(ONE, ("7", "0"))
    assert labels.target(b'{"label": 7}', "x").tolist() == [1, 0]
    assert labels.target(b'{"label": "0"}', "x").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("encoded", "column", "message"),
    [
        (None, ONE, r"x\.flac has no labels: no JSON of its name"),
        (b"{", ONE, r"labels of x\.flac are no JSON"),
        (b'{"tags": "a"}', ONE, r"no column 'label', but 'tags'; choose with label_column"),
        (b'{"label": null}', ONE, r"has 0 labels in column 'label' \(None\)"),
        (b'{"label": ["a", "b"]}', ONE, "choose task multi"),
        (
            b'{"label": "aa"}',
            ONE,
            r"labelled 'aa', which is none of the 3 classes \('a', 'b', 'c'\); the nearest",
        ),
        (b'{"label": "a;9"}', MANY, "labelled '9'"),
    ],
)
def test_bad_labels_are_told(encoded, column, message):
    with pytest.raises(UnusableLabels, match=message):
        ClipLabels(column, CLASSES).target(encoded, "x.flac")


@pytest.mark.parametrize("label", ["0", 0, "4", "-1"])
def test_where_names_are_numbers_no_number_is_a_place(label):
    labels = ClipLabels(ONE, ("1", "2", "3"))
    assert labels.target(b'{"label": "1"}', "x.flac").tolist() == [1, 0, 0]
    assert labels.target(b'{"label": 3}', "x.flac").tolist() == [0, 0, 1]
    message = rf"x\.flac is labelled '{label}', which is none of the 3 classes \('1', '2', '3'\); where names"
    with pytest.raises(UnusableLabels, match=message):
        labels.target(json.dumps({"label": label}).encode(), "x.flac")
    with pytest.raises(UnusableLabels, match="is labelled '0'"):  # one numeral among names is enough
        ClipLabels(ONE, ("dog", "7")).target(b'{"label": "0"}', "x.flac")


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_bad_label_ends_the_reading(tmp_path, n_workers):
    url = labelled(tmp_path, ["a", "x", "b"])
    with pytest.raises(NoUsableAudio, match=r"0\.tar/001\.flac is labelled 'x'"):
        list(crop_batches([url], n_workers=n_workers, clip_labels=ClipLabels(ONE, CLASSES)))


def test_audio_whose_labels_may_be_lost_is_not_given(tmp_path):
    url = labelled(tmp_path, ["a", "b", "c"])
    content = (tmp_path / "0.tar").read_bytes()
    cut = content.rindex(b"002.json")
    (tmp_path / "0.tar").write_bytes(content[: cut + 512 + 5])  # in the middle of the last clip's labels
    members = audio_members(url, lambda index: True, with_labels=True)
    assert [next(members).index, next(members).index] == [0, 1]
    with pytest.raises(ShardFault, match="after 3 audio members"):
        next(members)


def test_wanted_members_are_paired_alone(tmp_path):
    url = labelled(tmp_path, ["a", "b", "c", "a"], suffix="wav", json_first=True)
    found = list(audio_members(url, [1, 2].__contains__, stop=3, with_labels=True))
    assert [(m.index, json.loads(m.labels)["label"]) for m in found] == [(1, "b"), (2, "c")]


def test_labels_are_counted_without_reading_audio(tmp_path):
    urls = [labelled(tmp_path, ["a;b", "b"]), labelled(tmp_path, ["c;b", None], "1.tar")]
    assert count_labels(urls, MANY) == {CLIPS: 4, "a": 1, "b": 3, "c": 1}
    (member, *_) = audio_members(urls[0], lambda index: True, with_labels=True, with_audio=False)
    assert member.data is None


def test_repeats_make_classes_equally_frequent_and_the_data_no_longer():
    counts = [60, 30, 10]
    repeats = balancing_repeats(counts, 100)
    assert [n * r for n, r in zip(counts, repeats, strict=True)] == pytest.approx([100 / 3] * 3)


def counted(batches, n: int | None = None) -> Counter:
    targets = torch.cat([batch.targets for batch in islice(batches, n)])
    return Counter(targets.argmax(1).tolist())


BALANCED = ClipLabels(ONE, CLASSES, balancing_repeats([60, 30, 10], 100), 20)


@pytest.mark.parametrize("resampled", [False, True])
def test_balanced_classes_come_equally_often(tmp_path, resampled):
    labels = np.random.default_rng(0).permutation(["a"] * 60 + ["b"] * 30 + ["c"] * 10)
    url = labelled(tmp_path, labels.tolist())
    options = {"resampled": resampled, "shuffle_crops": 40, "clip_labels": BALANCED}
    total = Counter()
    for data_pass in range(1 if resampled else 10):
        batches = crop_batches([url], **options)
        batches.set_pass(data_pass)
        total += counted(batches, 250 if resampled else None)
    assert sum(total.values()) == pytest.approx(1_000, rel=0.03)
    for number in range(3):
        assert total[number] == pytest.approx(sum(total.values()) / 3, rel=0.08)


def test_repeats_are_limited():
    limited = ClipLabels(ONE, CLASSES, (0.5, 1.0, 90.0), 3)
    rare, frequent = np.array([0, 0, 1.0]), np.array([1.0, 0, 0])
    assert [limited.copies(rare, chance) for chance in (0.0, 0.99)] == [3, 3]
    assert [limited.copies(frequent, chance) for chance in (0.0, 0.49, 0.5, 0.99)] == [0, 0, 1, 1]


@pytest.mark.parametrize(("resampled", "n_workers"), [(False, 0), (True, 0), (True, 2)])
def test_balanced_data_resume_exactly(tmp_path, resampled, n_workers):
    labels = ["c"] + ["a"] * 8 + ["b"] * 3
    urls = [labelled(tmp_path, labels), labelled(tmp_path, labels[::-1], "1.tar")]
    repeats = ClipLabels(ONE, CLASSES, balancing_repeats([16, 6, 2], 24), 20)
    options = {"resampled": resampled, "n_workers": n_workers, "shuffle_crops": 4, "batch_size": 2}
    batches = crop_batches(urls, clip_labels=repeats, **options)
    whole, states = [], [batches.state_dict()]
    for batch in islice(batches, 14 if resampled else None):
        whole.append(batch)
        states.append(batches.state_dict())
    assert len(whole) >= 6
    for done in range(0, len(whole), 1 if n_workers == 0 else 5):
        resumed = crop_batches(urls, clip_labels=repeats, **options)
        resumed.load_state_dict(states[done])
        rest = list(islice(resumed, len(whole) - done))
        assert is_same(rest, whole[done:])
        assert all(torch.equal(a.targets, b.targets) for a, b in zip(rest, whole[done:], strict=True))


def test_a_position_in_data_balanced_otherwise_is_refused(tmp_path):
    url = labelled(tmp_path, ["a", "b", "c"])
    state = crop_batches([url], clip_labels=BALANCED).state_dict()
    with pytest.raises(ValueError, match=r"repeats 'of 3 classes, at most 20 \(\w+\)', here None"):
        crop_batches([url], clip_labels=ClipLabels(ONE, CLASSES)).load_state_dict(state)
