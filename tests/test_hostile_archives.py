"""Archives made to fill the memory or to block, and imports that meet: one error each, nothing left over."""

import io
import os
import re
import subprocess
import sys
import tarfile
import threading
import tracemalloc

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from task_archives import NAME, sound, task_files, write_tar

from eval_recipes import task_import
from eval_recipes.archives import LARGEST_HEADERS_BYTES, ImportProblem
from eval_recipes.task_import import import_tasks
from eval_recipes.tasks import import_command
from hear_dasheng.files.lock import locked

MOST_MEMORY_BYTES = 48 << 20
BOMB_BYTES = 256 << 20


def bomb(path, kind: str) -> None:
    """Write a small archive of which one part unpacks to 256 MiB, or claims 8 GiB."""
    with tarfile.open(path, "w:gz", compresslevel=1, format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(f"tasks/{NAME}/labelvocabulary.csv")
        info.size = 14
        tar.addfile(info, io.BytesIO(b"idx,label\n0,a\n"))
        info = tarfile.TarInfo(f"tasks/{NAME}/test.json")
        info.size = BOMB_BYTES
        if kind == "claim":
            info.name, info.size = f"tasks/{NAME}/48000/test/test_0.wav", 8 << 30
            tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
            tar.offset += 512
            return
        if kind in ("pax header", "long name"):
            info.type = tarfile.XHDTYPE if kind == "pax header" else tarfile.GNUTYPE_LONGNAME
            tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
        elif kind == "list":
            tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
        else:  # after the last member
            tar.fileobj.write(bytes(1024))
        for _ in range(BOMB_BYTES >> 20):
            tar.fileobj.write(bytes(1 << 20))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("claim", r"member 2 of .*bomb\.tar\.gz, .*/48000/test/test_0\.wav, has 8589934592 bytes; at most"),
        ("list", r"member 2 of .*bomb\.tar\.gz, .*/test\.json, has 268435456 bytes; at most 67108864"),
        ("pax header", rf"bomb\.tar\.gz has more than {LARGEST_HEADERS_BYTES} bytes of headers"),
        ("long name", rf"bomb\.tar\.gz has more than {LARGEST_HEADERS_BYTES} bytes of headers"),
        ("padding", r"bomb\.tar\.gz has more than .* padding after the last"),
    ],
)
def test_a_bomb_is_refused_before_it_is_in_the_memory(tmp_path, kind, message):
    bomb(tmp_path / "bomb.tar.gz", kind)
    assert (tmp_path / "bomb.tar.gz").stat().st_size < 4 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ImportProblem, match=message):
            import_tasks(tmp_path / "bomb.tar.gz", tmp_path / "tasks", 16_000)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY_BYTES
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "tasks" / NAME).exists()


def flac_of_two_weeks() -> bytes:
    """A FLAC file of half a second whose header has the largest number of samples: 2**36 - 1."""
    written = io.BytesIO()
    soundfile.write(written, np.zeros(24_000), 48_000, format="FLAC")
    content = bytearray(written.getvalue())
    content[21] |= 0x0F  # STREAMINFO begins at byte 8; its last 36 of 144 bits are the samples
    content[22:26] = b"\xff" * 4
    return bytes(content)


def one_hertz() -> bytes:
    written = io.BytesIO()
    soundfile.write(written, np.zeros(24_000), 1, format="WAV")
    return written.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (flac_of_two_weeks(), r"test_0\.wav cannot be decoded: it has 6\.87e\+10 samples by its header"),
        (one_hertz(), r"test_0\.wav cannot be decoded: its header states a sample rate of 1 Hz"),
    ],
    ids=["two weeks of FLAC", "1 Hz"],
)
def test_a_clip_that_decodes_to_too_much_is_named(tmp_path, content, message):
    files = task_files() | {"48000/test/test_0.wav": content}
    with pytest.raises(ImportProblem, match=message):
        import_tasks(write_tar(tmp_path / "a.tar.gz", files), tmp_path / "tasks", 16_000)


def test_what_is_no_file_is_not_read(tmp_path):
    """A FIFO would block for ever, and /dev/zero would never end."""
    os.mkfifo(tmp_path / "fifo.tar")
    (tmp_path / "zeros.tar").symlink_to("/dev/zero")
    for name, kind in (("fifo.tar", "a FIFO"), ("zeros.tar", "a device")):
        with pytest.raises(ImportProblem, match=rf"{name} is {kind}, not a file"):
            import_tasks(tmp_path / name, tmp_path / "tasks", 16_000)
    for name, make in (("fifo", os.mkfifo), ("zeros", lambda path: path.symlink_to("/dev/zero"))):
        task = tmp_path / name / NAME
        for path, content in task_files().items():
            (task / path).parent.mkdir(parents=True, exist_ok=True)
            (task / path).write_bytes(content)
        clip = task / "48000/test/test_0.wav"
        clip.unlink()
        make(clip)
        with pytest.raises(ImportProblem, match=r"48000/test/test_0\.wav is a (FIFO|device), not a file"):
            import_tasks(task, tmp_path / "tasks", 16_000)


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE])
def test_members_that_are_no_files_are_refused(tmp_path, kind):
    info = tarfile.TarInfo(f"tasks/{NAME}/test.json")
    info.type, info.linkname = kind, "/etc/passwd"
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(ImportProblem, match=r"test\.json' in .*a\.tar is a link or device"):
        import_tasks(tmp_path / "a.tar", tmp_path / "tasks", 16_000)


@pytest.mark.parametrize("rate", ["²", "٤٨٠٠٠", "048000", "9" * 5000])
def test_a_folder_whose_name_is_not_a_rate_holds_no_audio(tmp_path, rate):
    files = {
        path.replace("48000", rate) if len(rate) < 100 else path: content
        for path, content in task_files().items()
    }
    files |= {f"{rate[:200]}/x/y.txt": b""}
    del files[next(path for path in files if path.endswith("test_3.wav"))]
    with pytest.raises(ImportProblem, match=r"is incomplete in its source: no 16000/"):
        import_tasks(write_tar(tmp_path / "a.tar.gz", files), tmp_path / "tasks", 16_000)


@pytest.mark.parametrize("name", ["a\0b.json", "a\nb.json", "x" * 256 + ".json", "C:evil.json"])
def test_members_whose_names_are_none_are_refused(tmp_path, name):
    info = tarfile.TarInfo("x")
    info.pax_headers = {"path": f"tasks/{NAME}/{name}"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(ImportProblem, match=r"refused: the archive") as raised:
        import_tasks(tmp_path / "a.tar", tmp_path / "tasks", 16_000)
    assert str(raised.value).isprintable()


def test_a_second_import_of_a_task_is_refused_while_the_first_one_works(tmp_path, monkeypatch):
    archive, entered, goes_on = (
        write_tar(tmp_path / "a.tar.gz", task_files()),
        threading.Event(),
        threading.Event(),
    )
    real = task_import.resample

    def waits(content, rate_hz):
        entered.set()
        assert goes_on.wait(60)
        return real(content, rate_hz)

    monkeypatch.setattr(task_import, "resample", waits)
    done = []
    first = threading.Thread(target=lambda: done.extend(import_tasks(archive, tmp_path / "tasks", 16_000)))
    first.start()
    try:
        assert entered.wait(60)
        for rate_hz in (16_000, 32_000):  # both would end in one folder
            with pytest.raises(
                ImportProblem, match=f"another process is importing {NAME} into .*; let it end"
            ):
                import_tasks(archive, tmp_path / "tasks", rate_hz)
    finally:
        goes_on.set()
        first.join()
    assert done == [tmp_path / "tasks" / NAME]
    assert len(list(done[0].rglob("*.wav"))) == 8
    assert not list((tmp_path / "tasks").glob(".importing-*"))


def test_what_a_killed_import_left_of_a_complete_task_is_removed(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", task_files())
    import_tasks(archive, tmp_path / "tasks", 16_000)
    left = tmp_path / "tasks" / f".importing-{NAME}-16000" / "16000"
    left.mkdir(parents=True)
    with locked(tmp_path / "tasks" / f".{NAME}.lock"), pytest.raises(ImportProblem, match="another process"):
        import_tasks(archive, tmp_path / "tasks", 16_000)
    assert left.exists()
    import_tasks(archive, tmp_path / "tasks", 16_000)
    assert not list((tmp_path / "tasks").glob(".importing-*"))


def test_a_full_disk_is_reported_with_the_file_and_the_same_command_resumes(tmp_path):
    """A limit of the size of files fails as a full disk does: in `write`, without a file's name."""
    files = task_files() | {"48000/test/test_0.wav": sound(48_000, 440)}
    write_tar(tmp_path / "a.tar.gz", files)
    script = (
        "import resource, signal\n"
        "from eval_recipes.tasks import tasks\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))\n"
        "tasks(['import', 'a.tar.gz'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert re.search(
        r"Error: tasks/\.importing-.*\.wav: File too large; what is converted is kept in tasks", last
    )
    assert "Traceback" not in ended.stderr
    result = CliRunner().invoke(
        import_command, [str(tmp_path / "a.tar.gz"), "--out", str(tmp_path / "tasks")]
    )
    assert result.exit_code == 0, result.output
