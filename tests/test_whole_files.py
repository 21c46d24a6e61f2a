"""Files that are whole or not there."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from eval_recipes.whole_files import remove_partial, whole_file, write_whole


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "score.json"
    write_whole(file, b"before")

    def fails_half_way():
        with whole_file(file) as opened:
            opened.write(b"half")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        fails_half_way()
    assert file.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["score.json"]


def test_writers_of_one_file_do_not_meet(tmp_path):
    """With a temporary name in common one would rename the other's file away."""
    contents = [bytes([number]) * 100_000 for number in range(8)]
    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda content: write_whole(tmp_path / "new" / "file", content), contents))
        assert (tmp_path / "new" / "file").read_bytes() in contents
    assert os.listdir(tmp_path / "new") == ["file"]


def test_a_name_as_long_as_a_disk_takes_it_can_be_written(tmp_path):
    write_whole(tmp_path / ("n" * 255), b"content")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"content"


def test_files_get_the_mode_that_other_files_get(tmp_path):
    (tmp_path / "other").touch()
    write_whole(tmp_path / "mine", b"")
    assert (tmp_path / "mine").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_killed_writers_left_is_removed(tmp_path):
    (tmp_path / "split").mkdir()
    for name in (".0123456789abcdef.partial", "split/.clip.wav.partial", "kept.partial", ".kept"):
        (tmp_path / name).touch()
    remove_partial(tmp_path)
    assert {entry.name for entry in tmp_path.rglob("*")} == {"split", "kept.partial", ".kept"}
