"""What a killed writer leaves is removed by the next one; what is still being written stays."""

import os
import signal
import subprocess
import sys
import textwrap

from hear_dasheng.export import export, new_encoder
from hear_dasheng.files.abandoned import lone_atomic_path, remove_abandoned


def start_writer(path, content="file"):
    """Start a process that writes halfway and waits."""
    script = f"""
        import pathlib, sys, time
        from hear_dasheng.files.abandoned import lone_atomic_path
        with lone_atomic_path(pathlib.Path({str(path)!r})) as partial:
            if {content!r} == "file":
                partial.write_text("half")
            else:
                partial.mkdir()
                (partial / "model.safetensors").write_text("half")
            print("writing", flush=True)
            time.sleep(600)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "writing\n"
    return writer


def end(writer):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()


def partials(folder):
    return [path for path in folder.iterdir() if path.name.endswith(".partial")]


def test_a_killed_export_is_cleaned_up_by_the_next_one(tmp_path):
    for content in ("file", "folder"):
        end(start_writer(tmp_path / "new", content))
    assert partials(tmp_path)
    export(new_encoder("tiny"), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_what_is_still_being_written_and_what_is_not_ours_stays(tmp_path):
    others = [".new.0123456789abcdef.partial", ".newer-01234567.0123456789abcdef.partial", "new.partial"]
    others += [".new-01234567.0123456789abcdef.partial"]  # without a lock: of a file system without locks
    for name in others:
        (tmp_path / name).touch()
    writer = start_writer(tmp_path / "new")
    before = {path.name for path in tmp_path.iterdir()}
    remove_abandoned(tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == before
    end(writer)
    remove_abandoned(tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_names_of_255_bytes_and_no_utf8_can_be_written(tmp_path):
    for name in ("ü" * 127, os.fsdecode(b"caf\xe9" * 60)):
        with lone_atomic_path(tmp_path / name) as partial:
            partial.write_text("whole")
        assert (tmp_path / name).read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 2
