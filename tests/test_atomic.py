"""Atomic writes: all of the new content or all of the old, after errors and kills at any moment."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from hear_dasheng.files import atomic
from hear_dasheng.files.atomic import PARTIAL, atomic_file, atomic_path, remove_partials, write_atomically
from hear_dasheng.files.lock import Locked, locked


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make_tree(folder, text):
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text(text)


def test_files_and_folders_replace_older_ones(tmp_path):
    write_atomically(tmp_path / "new" / "file", "é")
    assert (tmp_path / "new" / "file").read_bytes() == "é".encode()
    for text in ("old", "new"):
        with atomic_path(tmp_path / "tree") as partial:
            make_tree(partial, text)
    assert (tmp_path / "tree/inner/file").read_text() == "new"
    assert names(tmp_path) == ["new", "tree"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_failed_block_leaves_the_old_content_and_no_temporary_name(tmp_path, error, is_folder):
    path = tmp_path / "there"
    make_tree(path, "old") if is_folder else path.write_text("old")

    def fail():
        with atomic_path(path) as partial:
            make_tree(partial, "new") if is_folder else partial.write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ["there"]
    assert (path / "inner/file" if is_folder else path).read_text() == "old"


def test_everything_is_flushed_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        steps.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("rename"), replace(*names)))
    with atomic_path(tmp_path / "tree") as partial:
        make_tree(partial, "content")
    flushed = [str(partial / "inner/file"), str(partial / "inner"), str(partial)]
    assert steps == [*flushed, "rename", str(tmp_path)]
    steps.clear()
    with atomic_file(tmp_path / "file", is_durable=False) as file:
        file.write(b"x")
    assert steps == ["rename"]


def test_a_full_disk_at_the_flush_loses_nothing(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_replaced_comes_back(tmp_path, monkeypatch):
    make_tree(tmp_path / "tree", "old")

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(atomic.os, "replace", refused)
    with pytest.raises(PermissionError), atomic_path(tmp_path / "tree") as partial:
        make_tree(partial, "new")
    assert names(tmp_path) == ["tree"]
    assert (tmp_path / "tree/inner/file").read_text() == "old"


@pytest.mark.parametrize("where", ["block", "rename", "removal"])
def test_a_kill_leaves_old_or_new_content_after_the_clean_up(tmp_path, where):
    make_tree(tmp_path / "tree", "old")
    program = f"""
        import os, pathlib, signal
        from hear_dasheng.files import atomic
        def die(*_): os.kill(os.getpid(), signal.SIGKILL)
        if {where!r} == "rename": atomic.os.replace = die
        if {where!r} == "removal": atomic.shutil.rmtree = die
        with atomic.atomic_path(pathlib.Path({str(tmp_path / "tree")!r})) as partial:
            (partial / "inner").mkdir(parents=True)
            (partial / "inner" / "file").write_text("new")
            if {where!r} == "block": die()
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(program)])
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) > 1
    remove_partials(tmp_path)
    assert names(tmp_path) == ["tree"]
    assert (tmp_path / "tree/inner/file").read_text() == ("new" if where == "removal" else "old")


def test_the_clean_up_leaves_other_files_alone(tmp_path):
    others = [".hidden", f".others{PARTIAL}", ".others.replaced", f"visible{PARTIAL}"]
    for name in others:
        (tmp_path / name).write_text("")
    make_tree(tmp_path / "folder" / f".{'0123456789abcdef'}{PARTIAL}", "")
    remove_partials(tmp_path)
    assert names(tmp_path) == sorted([*others, "folder"])
    assert not names(tmp_path / "folder")


def test_a_link_is_replaced_and_its_target_stays(tmp_path):
    make_tree(tmp_path / "elsewhere", "old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with atomic_path(tmp_path / "link") as partial:
        partial.write_text("file")
    assert (tmp_path / "link").read_text() == "file"
    assert (tmp_path / "elsewhere/inner/file").read_text() == "old"
    shutil.rmtree(tmp_path / "elsewhere")


def test_a_lock_keeps_others_out_until_its_process_ends(tmp_path):
    program = (
        "import sys, pathlib; from hear_dasheng.files.lock import locked\n"
        f"with locked(pathlib.Path({str(tmp_path / 'new/.lock')!r})):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(Locked, match="another process"), locked(tmp_path / "new/.lock"):
            pass
        other.kill()
        other.wait()
        with locked(tmp_path / "new/.lock"):
            pass


def test_writers_of_one_file_do_not_meet(tmp_path):
    """With a common temporary name one would rename the other's file away."""
    contents = [bytes([number]) * 100_000 for number in range(8)]
    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda content: write_atomically(tmp_path / "new" / "file", content), contents))
        assert (tmp_path / "new" / "file").read_bytes() in contents
    assert os.listdir(tmp_path / "new") == ["file"]


def test_a_name_as_long_as_a_disk_takes_it_can_be_written_with_the_usual_mode(tmp_path):
    (tmp_path / "other").touch()
    write_atomically(tmp_path / ("n" * 255), b"content", is_durable=False)
    assert (tmp_path / ("n" * 255)).read_bytes() == b"content"
    assert (tmp_path / ("n" * 255)).stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("name", ["n" * 256, "folder"])
def test_an_error_names_the_file_that_was_to_be_written(tmp_path, name):
    (tmp_path / "folder").touch()
    path = tmp_path / name if len(name) > 9 else tmp_path / name / "file"
    with pytest.raises(OSError, match="too long|File exists|Not a directory") as caught:
        write_atomically(path, b"content")
    assert caught.value.filename in (str(path), str(path.parent))
