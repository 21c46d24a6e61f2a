"""Failures of the system end in one line; programming errors keep their traceback; a closed pipe is quiet."""

import errno
import os
import subprocess
import sys
from importlib.metadata import entry_points

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from hear_dasheng.cli import ENTRY_POINTS, main
from hear_dasheng.files.atomic import atomic_file, atomic_path
from hear_dasheng.files.failures import Command, Group, message_of, shown


def command_that(work):
    return click.command(cls=Command)(lambda: work())


def outcome(work):
    """One line and the exit code of a command that does some work."""
    result = CliRunner().invoke(command_that(work))
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.count("\n") == 1
    return result.exit_code, result.stderr


def raises(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "choose a place that can be written"),
        (errno.EACCES, "permissions"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EIO, "check the disk"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EXDEV, "repeat the command"),
    ],
)
def test_a_failed_system_call_is_one_line_with_file_reason_and_remedy(number, remedy):
    code, line = outcome(raises(OSError(number, os.strerror(number), "runs/a\nb")))
    assert code == 1
    assert line.startswith(f"Error: runs/a b: {os.strerror(number)}; ")
    assert remedy in line


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried\n9 GiB"), MemoryError("9 GiB")],
    ids=repr,
)
def test_memory_that_ran_out_is_one_line(error):
    code, line = outcome(raises(error))
    assert code == 1
    assert "out of memory" in line
    assert "smaller batches" in line


def test_more_memory_than_any_machine_has_is_one_line():
    code, line = outcome(lambda: torch.empty(1 << 60, dtype=torch.uint8))
    assert (code, "smaller batches" in line) == (1, True)


@pytest.mark.parametrize(
    "error", [KeyError("a"), RuntimeError("b"), UnicodeDecodeError("utf-8", b"", 0, 1, "c")]
)
def test_programming_errors_keep_their_traceback(error):
    assert CliRunner().invoke(command_that(raises(error))).exception is error


def test_a_program_that_calls_a_command_gets_the_exception():
    with pytest.raises(OSError, match="No space"):
        command_that(raises(OSError(errno.ENOSPC, "No space"))).main([], standalone_mode=False)


@pytest.mark.parametrize("entry", entry_points(group=ENTRY_POINTS), ids=lambda entry: entry.name)
def test_every_command_reports_failures_also_under_its_own_name(entry):
    assert isinstance(entry.load(), Command | Group)
    assert isinstance(main, Group)


def script(body: str) -> list[str]:
    start = "import click, sys\nfrom hear_dasheng.files.failures import Command\n"
    return [sys.executable, "-c", f"{start}@click.command(cls=Command)\ndef main():\n    {body}\nmain()"]


@pytest.mark.parametrize("body", ["click.echo('a')", "print('a')", "sys.stdout.write('a' * 100_000)"])
def test_an_output_that_cannot_be_written_is_named(body):
    with open("/dev/full", "w") as full:
        done = subprocess.run(script(body), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: the output cannot be written: No space left on device; redirect it to another place\n"
    )


@pytest.mark.parametrize("body", ["click.echo('a')", "print('a')", "sys.stdout.write('a' * 100_000)"])
def test_a_closed_pipe_ends_quietly(body):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(script(body), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("encoding", "surrogate", "letter"), [("utf-8", r"\udcff", "é"), ("ascii", "?", r"\xe9")]
)
def test_letters_that_the_console_lacks_are_escaped(encoding, surrogate, letter):
    body = r"click.echo('\udcff'); print('\u00e9', file=sys.stderr); print('\u00e9')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(script(body), env=environment, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{surrogate}\n{letter}\n", f"{letter}\n")


@pytest.mark.parametrize(
    ("path", "text"),
    [("é.wav", "é.wav"), ("\udcff.wav", r"\xff.wav"), ("\ud800", r"\ud800"), (b"\xe9", r"\xe9")],
)
def test_paths_are_shown_as_text_that_utf8_can_hold(path, text):
    assert shown(path) == text


@pytest.fixture
def limited():
    """A limit of 4096 bytes on the size of files, as a disk that is full."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_bytes(path):
    with atomic_file(path) as file:
        file.write(bytes(10_000))


def write_with_torch(path):
    with atomic_file(path) as file:
        torch.save(torch.zeros(10_000), file)


def write_with_safetensors(path):
    with atomic_path(path) as partial:
        save_file({"a": torch.zeros(10_000)}, partial)


@pytest.mark.parametrize("write", [write_bytes, write_with_torch, write_with_safetensors])
def test_a_failed_write_names_the_file_whatever_library_wrote(write, tmp_path, limited):
    with pytest.raises(OSError, match="File too large") as caught:
        write(tmp_path / "weights")
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "weights"))
    assert message_of(caught.value).startswith(f"{tmp_path}/weights: File too large; raise the limit")
    assert not list(tmp_path.iterdir())
