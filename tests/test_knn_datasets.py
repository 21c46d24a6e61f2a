"""Data sets for nearest neighbours: publishers' layouts, sizes, and what is said when something lacks."""

from collections import Counter
from pathlib import Path

import dataset_layouts as layouts
import pytest

from eval_recipes.datasets.catalogue import READERS, published_datasets, read_dataset
from eval_recipes.datasets.clips import ALL, Clip, DatasetProblem, checked_list


def parts_of(found) -> dict[str, int]:
    return dict(Counter(clip.part for clip in found.clips))


def test_the_table_of_sizes_is_the_publishers():
    """Sums that the publishers print; validation parts are those that are left out."""
    sizes = {name: published.sizes for name, published in published_datasets().items()}
    assert set(sizes) == set(READERS)
    totals = {name: sum(its.parts.values()) for name, its in sizes.items()}
    assert totals["esc50"] == 2000
    assert totals["urbansound8k"] == 8732
    assert totals["nsynth_instrument"] == 305_979 - 12_678
    assert totals["speech_commands_v1"] == 64_721 - 6798
    assert totals["speech_commands_v2"] == 105_829 - 9981
    assert totals["voxceleb1"] == 153_516 - 6904
    assert totals["ravdess_speech"] == 24 * 60
    assert totals["fluent_speech_commands"] == totals["fluent_speech_wordings"] == 30_043 - 3118
    assert {name: its.classes for name, its in sizes.items()} == {
        "esc50": 50,
        "fsdkaggle2018": 41,
        "nsynth_instrument": 11,
        "speech_commands_v1": 30,
        "speech_commands_v2": 35,
        "urbansound8k": 10,
        "voxceleb1": 1251,
        "ravdess_speech": 8,
        "fluent_speech_commands": 31,
        "fluent_speech_wordings": 248,
    }


def test_the_whole_of_esc50(tmp_path):
    found = read_dataset("esc50", layouts.esc50(tmp_path / "ESC-50-master").parent)
    assert found.deviations == ()
    assert parts_of(found) == dict.fromkeys("12345", 400)
    assert len(found.classes) == 50
    assert all(path.is_file() for path in found.paths)


def test_what_is_missing_is_listed(tmp_path):
    root = layouts.esc50(tmp_path)
    (root / "audio/3-0-A-0.wav").unlink()
    (root / "audio/5-1000-A-1.wav").unlink()
    with pytest.raises(DatasetProblem) as caught:
        read_dataset("esc50", root)
    message = str(caught.value)
    assert "it lists 2000 clips, 2 missing: audio/3-0-A-0.wav, audio/5-1000-A-1.wav" in message
    assert "fold 3 has 399 clips here, the publisher's 400" in message
    assert "--allow-incomplete" in message
    found = read_dataset("esc50", root, allow_incomplete=True)
    assert len(found.clips) == 1998
    assert len(found.deviations) == 3
    assert found.left_out == dict.fromkeys(("audio/3-0-A-0.wav", "audio/5-1000-A-1.wav"), "missing")
    for take in range(2, 8):
        for fold in (1, 2):
            (root / f"audio/{fold}-{take}-A-0.wav").unlink()
    found = read_dataset("esc50", root, allow_incomplete=True)
    assert "14 missing: audio/1-2-A-0.wav" in found.deviations[0]
    assert found.deviations[0].endswith(" and 4 more")
    assert len(found.left_out) == 14


def test_a_part_without_any_clip_is_never_gone_on_without(tmp_path):
    root = layouts.esc50(tmp_path, folds=4)
    with pytest.raises(DatasetProblem, match="has no clip of fold 5"):
        read_dataset("esc50", root, allow_incomplete=True)


def test_the_whole_of_ravdess_in_folds_of_actors(tmp_path):
    found = read_dataset("ravdess_speech", layouts.ravdess(tmp_path / "Audio_Speech_Actors_01-24").parent)
    assert found.deviations == ()
    actors = {part: {clip.path[:8] for clip in found.clips if clip.part == part} for part in found.parts}
    assert {part: len(its) for part, its in actors.items()} == dict.fromkeys("1234", 6)
    assert len(set.union(*actors.values())) == 24
    for its in actors.values():
        assert sum(int(actor[-2:]) % 2 for actor in its) == 3
    counts = Counter(clip.label for clip in found.clips)
    assert counts.pop("neutral") == 96
    assert set(counts.values()) == {192}
    (clip,) = [clip for clip in found.clips if clip.path.endswith("03-01-06-01-02-01-12.wav")]
    assert clip.label == "fearful"
    (found.folder / "Actor_07/03-01-01-01-01-01-07.wav").unlink()
    with pytest.raises(DatasetProblem, match="1440 clips, 1 missing: Actor_07/03-01-01-01-01-01-07"):
        read_dataset("ravdess_speech", found.folder)


SMALL = [
    ("urbansound8k", layouts.urbansound8k, dict.fromkeys(map(str, range(1, 11)), 3), 3),
    ("fsdkaggle2018", layouts.fsdkaggle2018, {"train": 6, "test": 4}, 2),
    ("nsynth_instrument", layouts.nsynth, {"train": 6, "test": 2}, 3),
    ("speech_commands_v1", layouts.speech_commands, {"train": 4, "test": 2}, 2),
    ("speech_commands_v2", layouts.speech_commands, {"train": 4, "test": 2}, 2),
    ("voxceleb1", layouts.voxceleb1, {"train": 6, "test": 3}, 3),
    ("fluent_speech_commands", layouts.fluent_speech_commands, {"train": 6, "test": 3}, 2),
    ("fluent_speech_wordings", layouts.fluent_speech_commands, {"train": 6, "test": 3}, 3),
]


@pytest.mark.parametrize(("name", "layout", "parts", "n_classes"), SMALL, ids=[case[0] for case in SMALL])
def test_layouts(tmp_path, name, layout, parts, n_classes):
    root = layout(tmp_path / "unpacked")
    for data in (root, tmp_path):
        found = read_dataset(name, data, allow_incomplete=True)
        assert parts_of(found) == parts
        assert len(found.classes) == n_classes
        assert all(path.is_file() for path in found.paths)
    with pytest.raises(DatasetProblem) as caught:
        read_dataset(name, root)
    published = published_datasets()[name].sizes
    assert f"it has {n_classes} classes, the publisher's {published.classes}" in str(caught.value)
    for part, count in published.parts.items():
        assert f"{part}" in str(caught.value)
        assert f"has {parts[part]} clips here, the publisher's {count}" in str(caught.value)


def test_validation_clips_are_in_no_part(tmp_path):
    found = read_dataset("speech_commands_v2", layouts.speech_commands(tmp_path), allow_incomplete=True)
    assert not [clip for clip in found.clips if "cc_nohash" in clip.path or "noise" in clip.path]
    assert {clip.path for clip in found.clips if clip.part == "test"} == {
        "bed/dd_nohash_0.wav",
        "yes/dd_nohash_0.wav",
    }


def test_a_version_is_found_by_its_name(tmp_path):
    for version in ("speech_commands_v0.01", "speech_commands_v0.02"):
        layouts.speech_commands(tmp_path / version)
    found = read_dataset("speech_commands_v1", tmp_path, allow_incomplete=True)
    assert found.folder.name == "speech_commands_v0.01"
    layouts.esc50(tmp_path / "a", takes=1)
    layouts.esc50(tmp_path / "b", takes=1)
    with pytest.raises(DatasetProblem, match=r"meta/esc50.csv is in .*a and .*b; let --data name one"):
        read_dataset("esc50", tmp_path)


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    (tmp_path / "notes").mkdir()
    with pytest.raises(DatasetProblem, match=r"holds no .*; --data is the folder that .* unpacks to"):
        read_dataset(name, tmp_path)


def test_damaged_lists_are_named(tmp_path):
    root = layouts.urbansound8k(tmp_path / "u")
    table = root / "metadata/UrbanSound8K.csv"
    table.write_text(table.read_text().replace("classID,class", "classID,klass"))
    with pytest.raises(DatasetProblem, match="has no column 'class'; it has: slice_file_name"):
        read_dataset("urbansound8k", root)
    root = layouts.nsynth(tmp_path / "n")
    (root / "nsynth-train/examples.json").write_text("{")
    with pytest.raises(DatasetProblem, match="does not list notes"):
        read_dataset("nsynth_instrument", root)
    root = layouts.voxceleb1(tmp_path / "v")
    (root / "iden_split.txt").write_text("4 id10001/a/1.wav\n")
    with pytest.raises(DatasetProblem, match="line 1: '4 id10001/a/1.wav' is not"):
        read_dataset("voxceleb1", root)


def test_lists_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    root = layouts.speech_commands(tmp_path / "s")
    (root / "testing_list.txt").write_bytes(b"bed/dd\xff.wav\n")
    with pytest.raises(DatasetProblem, match=r"testing_list.txt is not in UTF-8: at byte 6 it holds 0xff"):
        read_dataset("speech_commands_v1", root)
    root = layouts.esc50(tmp_path / "e", classes=2)
    table = root / "meta/esc50.csv"
    table.write_bytes(table.read_bytes() + b"\xe9")
    with pytest.raises(DatasetProblem, match=r"esc50.csv is not in UTF-8: .* 0xe9; unpack the data set anew"):
        read_dataset("esc50", root)

    def broken(*arguments, **options):
        raise OSError(5, "Input/output error")

    for name, what in (("esc50", "open"), ("folder", "iterdir")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, what, broken)
            with pytest.raises(DatasetProblem, match="cannot be read: Input/output error; look at its perm"):
                read_dataset(name, root)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(DatasetProblem, match="no data set 'esc-50'; did you mean esc50"):
        read_dataset("esc-50", tmp_path)
    with pytest.raises(DatasetProblem, match="is no folder"):
        read_dataset("esc50", Path("nowhere"))
    with pytest.raises(DatasetProblem, match="is no file"):
        read_dataset("list", tmp_path)


def test_what_is_a_publishers_is_known(tmp_path):
    assert read_dataset("esc50", layouts.esc50(tmp_path / "esc50")).is_published
    layouts.touch(tmp_path / "own/esc50", ["dog/a.wav", "cat/b.wav"])
    assert not read_dataset("folder", tmp_path / "own/esc50").is_published


@pytest.mark.parametrize("name", ["../../../victim.wav", "..\\victim.wav", "a\x01.wav"])
def test_a_publishers_list_that_leads_elsewhere_is_refused(tmp_path, name):
    root = layouts.esc50(tmp_path / "ESC-50-master")
    table = root / "meta/esc50.csv"
    lines = table.read_text().splitlines()
    lines[1] = ",".join([name, *lines[1].split(",")[1:]])
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetProblem, match=r"ESC-50-master lists a clip: .*; unpack the data set again"):
        read_dataset("esc50", root, allow_incomplete=True)


def test_a_table_of_ones_own_may_name_files_anywhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    clips = [Clip("nul\0.wav", "a", ALL)]
    for number, label in enumerate("aabb"):
        file = tmp_path / "elsewhere" / f"{number}.wav"
        file.write_bytes(b"x")
        clips.append(Clip(f"../elsewhere/{number}.wav" if number % 2 else str(file), label, ALL))
    (tmp_path / "lists").mkdir()
    found = checked_list("mine", tmp_path / "lists", clips, None, allow_incomplete=True)
    assert len(found.clips) == 4
    assert list(found.left_out) == ["nul\0.wav"]
