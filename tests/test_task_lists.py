"""Lists of tasks that other people made: names stay names, and damage is named."""

import json
import shutil

import pytest
from task_archives import NAME, sound, task_files, write_tar

from eval_recipes.archives import ImportProblem
from eval_recipes.embedding.layout import copy_task_files
from eval_recipes.scoring.task_data import TaskData
from eval_recipes.task_checks import TaskProblem, check_task_audio
from eval_recipes.task_import import import_tasks
from eval_recipes.task_lists import BrokenTask, read_metadata, read_split, read_vocabulary

OUTSIDE = [
    "../../../../victim/good.wav",
    "{}/victim/good.wav",
    "..\\good.wav",
    "a\0.wav",
    "",
    "..",
    "x" * 250,
]
SPLITS = {
    "a list": (b"[1]", "holds a list where a JSON object is expected"),
    "a number": (b"1", "holds a number where a JSON object"),
    "no labels": (b'{"a.wav": null}', "'a.wav' has null where a list of labels is expected"),
    "labels of lists": (b'{"a.wav": [["a"]]}', "'a.wav' has a list where a label is expected"),
    "an event without an end": (b'{"a.wav": [{"label": "a", "start": 1}]}', "an event without label"),
    "an event that ends first": (b'{"a.wav": [{"label": "a", "start": 2, "end": 1}]}', "a later end"),
    "two keys": (b'{"a.wav": ["a"], "a.wav": ["b"]}', "the key 'a.wav' occurs twice"),
    "NaN": (b'{"a.wav": [NaN]}', "NaN is not a JSON number"),
    "deep nesting": (b'{"a.wav":' * 5000 + b"1" + b"}" * 5000, "nested more than 64 levels deep"),
    "Latin-1": ('{"Köter.wav": ["a"]}'.encode("latin-1"), "is not UTF-8: byte 3 is 0xf6"),
    "surrogate": (rb'{"a\ud800.wav": ["a"]}', "lone surrogate"),
}
METADATA = {
    "splits of another kind": (b'{"splits": "train"}', "names no splits"),
    "splits of numbers": (b'{"splits": [1]}', "1 is not a string where a name is expected"),
    "a split twice": (b'{"splits": ["test", "test"]}', "names the split 'test' twice"),
    "a split outside": (b'{"splits": ["../test"]}', "'../test' is a path where a name is expected"),
    "two keys": (b'{"splits": ["test"], "splits": ["train"]}', "the key 'splits' occurs twice"),
}
VOCABULARIES = {
    "Latin-1": ("idx,label\n0,Köter\n".encode("latin-1"), "is not UTF-8: byte 13 is 0xf6"),
    "other columns": (b"index,name\n0,a\n", "row 2: no idx (a number) and label"),
    "other digits": ("idx,label\n²,a\n".encode(), "row 2: no idx (a number) and label"),
    "a label twice": (b"idx,label\n0,a\n1,a\n", "row 3: the label 'a' is there twice"),
    "a gap": (b"idx,label\n0,a\n2,b\n", "indices of 2 labels are not 0 to their number"),
    "a quote without its end": (b'idx,label\n0,"a\n', "is not a table"),
}


def names_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def hostile(name: str, root) -> str:
    return name.format(root)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_clip_whose_name_is_a_path_is_neither_imported_nor_embedded(tmp_path, name):
    """The audio is where the path leads, so nothing but the check keeps it from being used."""
    name = hostile(name, tmp_path)
    files = task_files(rates_hz=(16_000,)) | {"train.json": json.dumps({name: ["a"]}).encode()}
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "good.wav").write_bytes(sound(16_000, 440))
    task = tmp_path / "work" / "tasks" / NAME
    for path, content in files.items():
        (task / path).parent.mkdir(parents=True, exist_ok=True)
        (task / path).write_bytes(content)
    before = names_of(tmp_path)
    with pytest.raises(ImportProblem, match=r"train\.json: .*; nothing is read or written there"):
        import_tasks(task, tmp_path / "work" / "imported", 16_000)
    assert not (tmp_path / "work" / "imported" / NAME).exists()
    shutil.rmtree(tmp_path / "work" / "imported")
    for use in (lambda: check_task_audio(task, 16_000), lambda: copy_task_files(task, tmp_path / "out")):
        with pytest.raises(TaskProblem, match=r"train\.json: "):
            use()
    assert names_of(tmp_path) == before


@pytest.mark.parametrize(("content", "message"), SPLITS.values(), ids=SPLITS)
def test_a_damaged_split_list_is_named_in_one_line(tmp_path, content, message):
    files = task_files() | {"test.json": content}
    with pytest.raises(ImportProblem) as raised:
        import_tasks(write_tar(tmp_path / "a.tar.gz", files), tmp_path / "tasks", 16_000)
    assert "test.json" in str(raised.value)
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert not (tmp_path / "tasks" / NAME).exists()


@pytest.mark.parametrize(("content", "message"), METADATA.values(), ids=METADATA)
def test_damaged_metadata_are_named_in_one_line(tmp_path, content, message):
    files = task_files() | {"task_metadata.json": content}
    with pytest.raises(ImportProblem) as raised:
        import_tasks(write_tar(tmp_path / "a.tar.gz", files), tmp_path / "tasks", 16_000)
    assert message in str(raised.value)
    (tmp_path / "task_metadata.json").write_bytes(content)
    with pytest.raises(TaskProblem, match=r"task_metadata\.json"):  # score begins with it
        TaskData(tmp_path)


@pytest.mark.parametrize(("content", "message"), VOCABULARIES.values(), ids=VOCABULARIES)
def test_a_damaged_vocabulary_is_named_in_one_line(tmp_path, content, message):
    files = task_files() | {"labelvocabulary.csv": content}
    with pytest.raises(ImportProblem) as raised:
        import_tasks(write_tar(tmp_path / "a.tar.gz", files), tmp_path / "tasks", 16_000)
    assert message in str(raised.value)
    assert "labelvocabulary.csv" in str(raised.value)
    assert not (tmp_path / "tasks" / NAME).exists()


def test_lists_that_are_missing_are_named(tmp_path):
    for read in (read_metadata, read_vocabulary, lambda folder: read_split(folder, "train")):
        with pytest.raises(BrokenTask, match="is missing; fetch or import the task again"):
            read(tmp_path)


def test_lists_of_hears_own_forms_are_read(tmp_path):
    events = [{"label": "speech", "start": 0, "end": 412.5, "score": 1}]
    lists = {
        "scene": {"1-100032-a-0.wav": ["dog"], "2-x.wav": [3]},
        "event": {"dev-1-ebr-6-nec-2-poly-0.wav": events, "silent.wav": []},
    }
    (tmp_path / "task_metadata.json").write_text(json.dumps({"splits": list(lists)}))
    (tmp_path / "labelvocabulary.csv").write_text('idx,label\r\n1,"bells, far"\r\n0,dog\r\n')
    for split, clips in lists.items():
        (tmp_path / f"{split}.json").write_text(json.dumps(clips))
        assert read_split(tmp_path, split) == clips
    assert read_metadata(tmp_path) == {"splits": ["scene", "event"]}
    assert read_vocabulary(tmp_path) == {"bells, far": 1, "dog": 0}
