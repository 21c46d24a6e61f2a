"""Data of one's own for nearest neighbours: a folder per class, or a table."""

from collections import Counter

import dataset_layouts as layouts
import pytest

from eval_recipes.datasets.catalogue import read_dataset
from eval_recipes.datasets.clips import DatasetProblem


def parts_of(found) -> dict[str, int]:
    return dict(Counter(clip.part for clip in found.clips))


def test_a_file_that_cannot_be_looked_at_is_left_out_by_name(tmp_path):
    layouts.touch(tmp_path, ["a.wav", "b.wav"])
    long = "x" * 300 + ".wav"
    layouts.write_table(tmp_path / "t.csv", "path,label", [("a.wav", 1), ("b.wav", 2), (long, 1)])
    with pytest.raises(DatasetProblem, match=r"1 that cannot be read: x+\.wav \(File name too long\)"):
        read_dataset("list", tmp_path / "t.csv")


def test_a_folder_without_folders_of_classes_is_told_what_is_wanted(tmp_path):
    layouts.touch(tmp_path, ["a.wav", "b.wav", "notes/readme.txt"])
    with pytest.raises(DatasetProblem) as caught:
        read_dataset("folder", tmp_path)
    assert "holds 2 audio files of its own, but no folder with audio files (.wav, .flac" in str(caught.value)
    assert "<class>/*.wav" in str(caught.value)
    assert "--dataset list" in str(caught.value)


def test_a_folder_per_class(tmp_path):
    layouts.touch(tmp_path / "mine", ["dog/a.wav", "dog/deep/b.flac", "cat/c.MP3", "cat/.d.wav", "cat/e.txt"])
    found = read_dataset("folder", tmp_path / "mine")
    assert found.name == "mine"
    assert [(clip.path, clip.label, clip.part) for clip in found.clips] == [
        ("cat/c.MP3", "cat", ""),
        ("dog/a.wav", "dog", ""),
        ("dog/deep/b.flac", "dog", ""),
    ]
    layouts.touch(tmp_path / "split", ["train/dog/a.wav", "train/cat/b.wav", "test/dog/c.wav"])
    assert parts_of(read_dataset("folder", tmp_path / "split")) == {"test": 1, "train": 2}
    layouts.touch(tmp_path / "half", ["train/dog/a.wav", "train/cat/b.wav"])
    with pytest.raises(DatasetProblem, match="holds train but no test"):
        read_dataset("folder", tmp_path / "half")
    with pytest.raises(DatasetProblem, match="1 clip of 1 class, 'deep'; two are needed"):
        read_dataset("folder", tmp_path / "mine/dog")


def test_tables(tmp_path):
    layouts.touch(tmp_path, ["x/a.wav", "x/b.wav", "x/c.wav"])
    table = tmp_path / "mine.tsv"
    table.write_text("filename\tlabel\tsplit\nx/a.wav\tone\ttrain\nx/b.wav\ttwo\tTest\nx/c.wav\ttwo\tvalid\n")
    assert parts_of(read_dataset("list", table)) == {"train": 1, "test": 1}
    folds = tmp_path / "folds.csv"
    folds.write_text(f"fold,kind,path\n1,one,x/a.wav\n2,two,{tmp_path}/x/b.wav\n")
    found = read_dataset("list", folds, label_column="kind")
    assert found.parts == ["1", "2"]
    assert all(path.is_file() for path in found.paths)
    with pytest.raises(DatasetProblem, match="no column 'label'; it has: fold, kind, path"):
        read_dataset("list", folds)
    table.write_text("filename\tlabel\tsplit\nx/a.wav\tone\tsome\nx/b.wav\ttwo\ttest\n")
    with pytest.raises(DatasetProblem, match="row 2: split is 'some'; it can be train"):
        read_dataset("list", table)
    table.write_text("filename\tlabel\nx/a.wav\tone\nx/a.wav\ttwo\n")
    with pytest.raises(DatasetProblem, match=r"lists 'x/a.wav' 2 times"):
        read_dataset("list", table)
    table.write_text("filename\tlabel\nx/a.wav\tone\nx/b.wav\t\n")
    with pytest.raises(DatasetProblem, match="row 3: 'label' is empty"):
        read_dataset("list", table)
    table.write_text("filename\tlabel\nx/a.wav\tone\nx/gone.wav\ttwo\n")
    with pytest.raises(DatasetProblem, match="it lists 2 clips, 1 missing: x/gone.wav"):
        read_dataset("list", table)


@pytest.mark.parametrize(
    ("name", "header", "said"),
    [
        (
            "mine.csv",
            "filename;label",
            r"it has: filename;label\. It was split at commas, and holds semicolons: ",
        ),
        (
            "mine.csv",
            "filename\tlabel",
            r"It was split at commas, and holds tabs: separate columns by commas, or ",
        ),
        (
            "mine.tsv",
            "filename,label",
            r"It was split at tabs, and holds commas: .* or by tabs in a file whose ",
        ),
        ("mine.csv", "filename,kind", r"has no column 'label'; it has: filename, kind$"),
    ],
)
def test_a_table_with_other_separators_is_told_so(tmp_path, name, header, said):
    (tmp_path / name).write_text(f"{header}\nx/a.wav;one\n")
    with pytest.raises(DatasetProblem, match=said):
        read_dataset("list", tmp_path / name)


def test_keys_and_hashes_tell_files_and_labels_apart(tmp_path):
    root = tmp_path / "mine"
    layouts.touch(root, ["dog/a.wav", "cat/b.wav"])
    found = read_dataset("folder", root)
    (root / "dog/a.wav").write_bytes(b"longer")
    longer = read_dataset("folder", root)
    assert set(found.files) - set(longer.files) == {"dog/a.wav\t0"}
    assert set(longer.files) - set(found.files) == {"dog/a.wav\t6"}
    assert longer.labels_hash() == found.labels_hash()
    (root / "dog").rename(root / "wolf")
    assert read_dataset("folder", root).labels_hash() != found.labels_hash()
