"""The list: what its cells become, and what is wrong with it."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wavlist_cases import run, write_table

from pretrain.packing import file_list
from pretrain.packing.file_list import ListProblem, read_file_list, typed


def labels(path) -> list[dict]:
    files = read_file_list(path)
    return [json.loads(files.labels(row)) for row in range(len(files))]


def test_cells_keep_their_type(tmp_path):
    listed = write_table(
        tmp_path / "list.tsv",
        {
            "filename": ["a.wav", "b.wav", "c.wav"],
            "count": ["1", "", "-3"],
            "score": ["1", "2.5", ""],
            "code": ["007", "8", "9"],
            "mixed": ["1", "x", ""],
            "loud": ["True", "false", ""],
            "nothing": ["", "", ""],
            "phone": ["+49", "1", "2"],
            "big": ["123456789012345678901", "1", "2"],
            "endless": ["1e999", "1", "inf"],
        },
    )
    assert labels(listed)[0] == {
        "count": 1, "score": 1.0, "code": "007", "mixed": "1", "loud": True, "nothing": None, "phone": "+49",
        "big": "123456789012345678901", "endless": "1e999",
    }  # fmt: skip
    assert labels(listed)[1] == {
        "count": None, "score": 2.5, "code": "8", "mixed": "x", "loud": False, "nothing": None, "phone": "1",
        "big": "1", "endless": "1",
    }  # fmt: skip
    assert [labels(listed)[2][name] for name in ("count", "score", "mixed")] == [-3, None, None]


@pytest.mark.parametrize("word", ["NA", "N/A", "None", "nan", "NaN", "null", "NULL", "<NA>", " "])
def test_only_an_empty_cell_is_missing(tmp_path, word):
    columns = {"filename": ["a", "b", "c"], "label": [word, "", "dog"], "digit": [word, "", "7"]}
    listed = write_table(tmp_path / "list.tsv", columns)
    assert labels(listed) == [
        {"label": word, "digit": word},
        {"label": None, "digit": None},
        {"label": "dog", "digit": "7"},
    ]


def test_a_list_without_other_columns_has_no_labels(tmp_path):
    assert read_file_list(write_table(tmp_path / "list.tsv", {"filename": ["a.wav"]})).labels(0) is None


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_survive(values):
    assert typed([json.dumps(value) for value in values]) == values


@given(st.lists(st.integers(-(10**17) + 1, 10**18 - 1), min_size=1))
def test_integers_survive_as_integers(values):
    cells = typed([str(value) for value in values])
    assert cells == values
    assert all(isinstance(cell, int) for cell in cells)


@given(st.lists(st.text(max_size=5)))
def test_any_text_gives_strict_json(cells):
    json.dumps(typed(cells), allow_nan=False)


def test_chunks_make_no_difference(tmp_path, monkeypatch):
    columns = {"filename": [f"{row}.wav" for row in range(11)], "label": [f"{row % 3}" for row in range(11)]}
    listed = write_table(tmp_path / "list.tsv", columns)
    whole = labels(listed)
    monkeypatch.setattr(file_list, "ROWS_PER_CHUNK", 4)
    assert labels(listed) == whole == [{"label": row % 3} for row in range(11)]


def test_the_order_is_a_permutation_of_the_usable_rows(tmp_path):
    listed = write_table(tmp_path / "list.tsv", {"filename": ["a", "", "b", "./a", "c", "d"], "x": range(6)})
    files = read_file_list(listed)
    assert files.unusable == {1: "no file name", 3: "listed twice: the same file as row 1"}
    assert files.order(None).tolist() == [0, 2, 4, 5]
    assert sorted(files.order(3)) == [0, 2, 4, 5]
    assert np.array_equal(files.order(3), np.random.RandomState(3).permutation([0, 2, 4, 5]))


def test_a_stem_that_looks_like_anothers_key_gets_its_own(tmp_path):
    digest = hashlib.sha256(b"a/x.wav").hexdigest()
    names = ["a/x.wav", "b/x.wav", f"x_{digest[:16]}.wav"]
    files = read_file_list(write_table(tmp_path / "list.tsv", {"filename": names}))
    assert len({files.key(row) for row in range(3)}) == 3
    assert files.key(0) == f"x_{digest[:32]}"
    names += [f"x_{digest[:32]}.wav", f"x_{digest}.wav"]
    with pytest.raises(ListProblem, match="names made to collide, among them 'a/x.wav'"):
        read_file_list(write_table(tmp_path / "list.tsv", {"filename": names}))


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (b"file\tlabel\na.wav\tx\n", [], "split at '\\t', its columns are 'file', 'label'"),
        (b"filename,label\na.wav,x\n", [], "'filename,label'; choose with --filename_column or --delim"),
        (b"filename\n", ["--filename_column", "x"], "no column 'x'"),
        (b"", [], "is empty; give a table with the column 'filename'"),
        (b"filename\tlabel\n", [], "lists no files: there is nothing below its header"),
        (b"filename\tlabel\na\tb\na\tb\tc\n", [], "no table split at '\\t'"),
        (b"filename\tlabel\na\tb\tc\n", [], "no table split at '\\t'"),
        (b'filename\tlabel\n"a\tb\n', [], "no table split at '\\t'"),
        ("filename\nä.wav\n".encode("latin-1"), [], "is not UTF-8 text"),
        (b"RIFF\0\0\0\0WAVE\xff\xfe", [], "is not UTF-8 text"),
        (b"filename\n", ["-d", ",,"], "--delim is ',,' but must be one character"),
        (b"filename\n", ["-d", ""], "--delim is '' but must be one character"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_list_is_told(tmp_path, content, flags, message):
    (tmp_path / "list.tsv").write_bytes(content)
    code, output = run(tmp_path / "list.tsv", tmp_path / "out", *flags)
    assert code == 1
    assert message in output
    assert output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_backslash_t_is_a_tab_and_a_byte_order_mark_is_nothing(tmp_path):
    (tmp_path / "list.tsv").write_bytes("\ufefffilename\tx\na\t1\n".encode())
    assert read_file_list(tmp_path / "list.tsv", delim="\\t").filenames == ["a"]


@pytest.mark.parametrize(
    ("filename", "reason"),
    [
        ("C:\\sounds\\a.wav", "is a path where a name is expected"),
        ("a\x1b[31m.wav", "holds control characters"),
        ("x" * 300 + ".wav", "has 300 bytes; at most 255 are allowed"),
        ("clips/", "'' is not a name"),
    ],
)
def test_a_file_that_no_member_of_a_shard_can_be_named_after_is_unusable(tmp_path, filename, reason):
    files = read_file_list(
        write_table(tmp_path / "list.tsv", {"filename": ["../b/Köter $ 12:30.wav", filename]})
    )
    assert list(files.unusable) == [1]
    assert reason in files.unusable[1]
    assert files.key(0) == "Köter $ 12:30"
