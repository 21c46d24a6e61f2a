"""What `embed` does with the folder that it writes into: what it keeps, replaces and refuses."""

import json
import re
import threading

import numpy as np
import pytest
import torch

from eval_recipes import synthetic_tasks
from eval_recipes.embedding.module import HearModule
from eval_recipes.embedding.output_folder import BEGUN, locked
from eval_recipes.embedding.processes import Processes
from eval_recipes.embedding.task import TaskEmbedder
from eval_recipes.results import SCORES
from eval_recipes.task_checks import TaskProblem
from eval_recipes.task_loop import for_each_task

DONE = ".done.embeddings"


class FirstSamples:
    """A HEAR module of four features, which can be stopped after some clips."""

    def __init__(self):
        self.embedded, self.stops_after = 0, None
        self.enters, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()

    def get_scene_embeddings(self, audio, model):
        self.enters.set()
        assert self.goes_on.wait(60)
        if self.stops_after is not None and self.embedded >= self.stops_after:
            raise KeyboardInterrupt
        self.embedded += len(audio)
        return audio[:, :4]

    def get_timestamp_embeddings(self, audio, model):
        raise NotImplementedError


@pytest.fixture
def api():
    return FirstSamples()


@pytest.fixture
def embedder(api):
    model = torch.nn.Identity()
    model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size = 16_000, 4, 4
    module = HearModule("mine", api, model, torch.device("cpu"))
    return TaskEmbedder(module, Processes(), {"module": "mine", "checkpoint": "1"}, batch_s=0.001)


@pytest.fixture
def task(tmp_path):
    return synthetic_tasks.scene_multiclass(tmp_path / "tasks", clips_per_fold=4)


@pytest.fixture
def out(tmp_path, task):
    return tmp_path / "embeddings" / "mine" / task.name


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_redo_that_cannot_begin_loses_nothing(embedder, task, out):
    embedder.embed(task, out)
    before = content_of(out)
    clip = sorted(task.glob("16000/*/*.wav"))[0]
    clip.write_bytes(clip.read_bytes()[:20])
    with pytest.raises(TaskProblem, match="cannot be decoded"):
        embedder.embed(task, out, redo=True)
    assert content_of(out) == before


def test_scores_that_go_with_their_embeddings_are_told(embedder, task, out, capsys):
    embedder.embed(task, out)
    embedder.embed(task, out, redo=True)
    assert "scores" not in capsys.readouterr().err
    (out / SCORES).write_text("{}")
    embedder.embed(task, out, redo=True)
    assert f"the scores in {out} go with the embeddings" in capsys.readouterr().err
    assert not (out / SCORES).exists()


def test_a_stopped_redo_goes_on_by_the_same_command(embedder, api, task, out):
    embedder.embed(task, out)
    api.stops_after = 12 + 5
    with pytest.raises(KeyboardInterrupt):
        embedder.embed(task, out, redo=True)
    assert not (out / DONE).exists()
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.embedding.npy")}
    assert 3 <= len(written) <= 5  # the last ones are written while the next are embedded
    api.stops_after = None
    said = embedder.embed(task, out, redo=True)
    assert f"({len(written)} clips kept from a run that was stopped)" in said
    assert {path: path.stat().st_mtime_ns for path in written} == written
    profile = json.loads((out / "profile.embeddings.json").read_text())
    assert profile["clips_kept_from_before"] == len(written)
    embedded = api.embedded
    embedder.embed(task, out, redo=True)  # now it is finished, and is done again
    assert api.embedded == embedded + 12


def test_a_redo_replaces_what_another_command_or_other_weights_began(embedder, api, task, out):
    api.stops_after = 5
    with pytest.raises(KeyboardInterrupt):
        embedder.embed(task, out)
    api.stops_after = 5 + 6
    with pytest.raises(KeyboardInterrupt):
        embedder.embed(task, out, redo=True)
    assert api.embedded == 11  # none were kept of those without --redo
    api.stops_after = None
    embedder.identity["checkpoint"] = "2"
    with pytest.raises(TaskProblem, match="holds embeddings of something else"):
        embedder.embed(task, out)
    embedder.embed(task, out, redo=True)
    assert api.embedded == 11 + 12


@pytest.mark.parametrize("name", ["notes.txt", "fold00/clip.embedding.npy"])
def test_files_that_are_not_ours_are_not_deleted(embedder, task, out, name):
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(TaskProblem, match=r"holds files that `embed` did not put there.*--redo replaces"):
        embedder.embed(task, out)
    assert (out / name).read_text() == "mine"
    embedder.embed(task, out, redo=True)
    assert (out / DONE).exists()
    assert not (out / name).exists()


def test_a_file_in_the_folders_place_is_told(embedder, task, out):
    out.parent.mkdir(parents=True)
    out.touch()
    with pytest.raises(TaskProblem, match="is a file, and a folder is to be made there"):
        embedder.embed(task, out, redo=True)


def test_what_a_kill_left_is_taken_up(embedder, api, task, out):
    """Killed while it made the folder, while it wrote a clip, and while it removed what is replaced."""
    out.mkdir(parents=True)
    (out / ".fedcba9876543210.partial").touch()
    api.stops_after = 5
    with pytest.raises(KeyboardInterrupt):
        embedder.embed(task, out)
    (out / "fold00" / ".0123456789abcdef.partial").touch()
    aside = out.with_name(f".{out.name}.replaced")
    aside.mkdir()
    (aside / DONE).touch()
    api.stops_after = None
    embedder.embed(task, out)
    assert not list(out.rglob("*.partial"))
    assert not aside.exists()
    assert not (out / BEGUN).exists()


def test_a_folder_behind_a_link_stays_there(embedder, task, out, tmp_path):
    (tmp_path / "scratch").mkdir()
    out.parent.mkdir(parents=True)
    out.symlink_to(tmp_path / "scratch")
    embedder.embed(task, out)
    embedder.embed(task, out, redo=True)
    assert out.is_symlink()
    assert (tmp_path / "scratch" / DONE).exists()


def test_two_runs_do_not_share_a_folder(embedder, api, task, out):
    api.goes_on.clear()
    first = threading.Thread(target=embedder.embed, args=(task, out))
    first.start()
    assert api.enters.wait(60)
    for redo in (False, True):
        with pytest.raises(TaskProblem, match="another run is embedding into .*let it end first"):
            embedder.embed(task, out, redo=redo)
    api.goes_on.set()
    first.join()
    assert api.embedded == 12
    assert embedder.embed(task, out) == "already embedded"
    with locked(out):
        pass
    rows = np.fromfile(out / "fold00.embeddings.npy", np.float32)
    assert rows.size == 4 * 4


@pytest.mark.parametrize(("redo", "again"), [(True, "but its --redo first does again .*(one)"), (False, "")])
def test_who_stops_a_run_is_told_how_it_goes_on(tmp_path, capsys, redo, again):
    def stops_at_two(task):
        if task.name == "two":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each_task([tmp_path / "one", tmp_path / "two"], stops_at_two, redo=redo)
    said = capsys.readouterr().err.strip()
    assert re.fullmatch("stopped; nothing is marked done, and the same command goes on from here.*", said)
    assert re.search(again, said)
    assert redo == ("--redo" in said)
