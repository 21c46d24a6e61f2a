"""Archives that are unsafe, damaged, compressed in other ways, or of something else."""

import io
import tarfile

import pytest
from task_archives import NAME, task_files, write_tar

from eval_recipes.archives import ImportProblem, inside_task
from eval_recipes.task_import import import_tasks


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "tasks/../../evil", "tasks/t/..\\evil"])
def test_paths_that_lead_outside_are_refused(tmp_path, name):
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    with pytest.raises(ImportProblem, match="refused: the archive wants to write"):
        import_tasks(archive, tmp_path / "tasks", 16_000)
    assert not list(tmp_path.parent.rglob("evil"))


def test_links_are_refused(tmp_path):
    archive = tmp_path / "links.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo(f"tasks/{NAME}/16000")
        info.type, info.linkname = tarfile.SYMTYPE, "/tmp"
        tar.addfile(info)
    with pytest.raises(ImportProblem, match="is a link or device"):
        import_tasks(archive, tmp_path / "tasks", 16_000)


def test_other_archives_and_folders_are_no_tasks(tmp_path):
    assert inside_task("tasks/esc50/._task_metadata.json") is None
    with pytest.raises(ImportProblem, match="'ESC-50-master/audio/a.wav' is not of a HEAR task"):
        inside_task("ESC-50-master/audio/a.wav")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImportProblem, match="holds no HEAR task"):
        import_tasks(tmp_path / "empty", tmp_path / "tasks", 16_000)
    (tmp_path / "page.tar.gz").write_bytes(b"<html>404 not found</html>")
    with pytest.raises(ImportProblem, match="page.tar.gz is no tar archive"):
        import_tasks(tmp_path / "page.tar.gz", tmp_path / "tasks", 16_000)


def test_a_truncated_archive_leaves_no_task(tmp_path):
    whole = write_tar(tmp_path / "a.tar.gz", task_files()).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImportProblem, match="cut.tar.gz is damaged or truncated"):
        import_tasks(tmp_path / "cut.tar.gz", tmp_path / "tasks", 16_000)
    assert not (tmp_path / "tasks" / NAME).exists()


def test_damage_that_only_the_checksum_inside_tells_is_damage(tmp_path):
    whole = bytearray(write_tar(tmp_path / "a.tar.gz", task_files(), level=0).read_bytes())
    place = whole.rindex(task_files()["48000/train/train_0.wav"][-200:]) + 100
    whole[place] ^= 1
    (tmp_path / "flipped.tar.gz").write_bytes(whole)
    with pytest.raises(ImportProblem, match="flipped.tar.gz is damaged or truncated"):
        import_tasks(tmp_path / "flipped.tar.gz", tmp_path / "tasks", 16_000)
    assert not (tmp_path / "tasks" / NAME).exists()


@pytest.mark.parametrize("suffix", ["tar", "tar.bz2", "tar.xz"])
def test_other_compressions_work(tmp_path, suffix):
    archive = tmp_path / f"a.{suffix}"
    kind = suffix.rpartition(".")[2] if "." in suffix else ""
    with tarfile.open(archive, f"w:{kind}") as tar:
        for name, content in task_files().items():
            info = tarfile.TarInfo(f"tasks/{NAME}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    [folder] = import_tasks(archive, tmp_path / "tasks", 16_000)
    assert len(list(folder.rglob("*.wav"))) == 8
