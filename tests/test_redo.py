"""A `--redo` of many tasks that is stopped: the same command continues, and only the same one."""

import json
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from eval_recipes import embed as embed_command
from eval_recipes import score as score_command
from eval_recipes import synthetic_embeddings, synthetic_tasks
from eval_recipes.embedding.module import HearModule
from eval_recipes.redo_journal import RedoJournal

NAMES = ["a-v1-small", "b-v1-small", "c-v1-small"]


class Stopped(KeyboardInterrupt):
    """Ends the process where it is raised, as SIGKILL does."""


class FirstSamples:
    """A HEAR module of four features that notes how many clips it embeds."""

    def __init__(self):
        self.embedded, self.stops_after = 0, None

    def get_scene_embeddings(self, audio, model):
        if self.embedded == self.stops_after:
            raise Stopped
        self.embedded += len(audio)
        return audio[:, :4]

    def get_timestamp_embeddings(self, audio, model):
        raise NotImplementedError


@pytest.fixture
def api(tmp_path, monkeypatch):
    """Three tasks of six clips, embedded one by one."""
    task = synthetic_tasks.scene_multiclass(tmp_path / "made", clips_per_fold=2)
    (tmp_path / "tasks").mkdir()
    for name in NAMES:
        (tmp_path / "tasks" / name).symlink_to(task)  # links to one folder are several tasks
    monkeypatch.chdir(tmp_path)
    api = FirstSamples()

    def load_module(name, model, options, device):
        loaded = torch.nn.Identity()
        loaded.sample_rate, loaded.scene_embedding_size, loaded.timestamp_embedding_size = 16_000, 4, 4
        return HearModule(name, api, loaded, torch.device("cpu"))

    monkeypatch.setattr("eval_recipes.embedding.module.load_module", load_module)
    return api


def embed(api, *arguments, stops_after=None) -> int:
    """Run the command; return how many clips it embeds."""
    before, api.stops_after = api.embedded, None if stops_after is None else api.embedded + stops_after
    command = ["mine", "--batch-seconds", "0.001", *arguments]
    if stops_after is None:
        result = CliRunner().invoke(embed_command.embed, command)
        assert result.exit_code == 0, result.output
    else:
        with pytest.raises(click.Abort):
            embed_command.embed(command, standalone_mode=False)
    return api.embedded - before


def test_a_stopped_redo_embeds_finished_tasks_once(api):
    assert embed(api) == 18
    assert embed(api, "--redo", stops_after=15) == 15  # two tasks, and half of the third one
    assert embed(api, "--redo") <= 18 - 15 + 2  # a clip or two may not have been written
    assert embed(api, "--redo") == 18  # the first one is finished: this is another
    assert embed(api) == 0
    assert not list(Path("embeddings/mine").glob(".hear-dasheng.redo*"))


def test_another_redo_does_all_of_its_tasks(api):
    embed(api)
    embed(api, "--redo", stops_after=12)
    assert embed(api, "--redo", "--task", "a") == 6
    assert embed(api, "--redo", "--model-options", '{"x": 1}') == 18
    assert embed(api, "--redo") == 6  # the stopped one


def test_a_finished_task_that_another_command_has_replaced_is_done_again(api):
    embed(api)
    embed(api, "--redo", stops_after=12)
    record = Path("embeddings/mine/a-v1-small/hear-dasheng.embeddings.json")
    content = json.loads(record.read_text())
    content["identity"]["checkpoint"] = "another"
    record.write_text(json.dumps(content))
    assert embed(api, "--redo") == 12


def test_a_stopped_redo_scores_finished_tasks_once(tmp_path, monkeypatch):
    folders = [synthetic_embeddings.multiclass(tmp_path / name) for name in NAMES]
    real, scored = score_command.score_folder, []
    stops_at = None

    def score_folder(folder, flags, pool):
        if folder.name == stops_at:
            raise Stopped
        scored.append(folder.name)
        return real(folder, flags, pool)

    monkeypatch.setattr(score_command, "score_folder", score_folder)
    command = [str(tmp_path), "--grid", "faster", "--grid-points", "1"]

    def run(*arguments):
        scored.clear()
        score_command.score([*command, *arguments], standalone_mode=False)
        return list(scored)

    assert run() == NAMES
    stops_at = NAMES[2]
    with pytest.raises(click.Abort):
        run("--redo")
    assert scored == NAMES[:2]
    stops_at = None
    assert (
        run("--redo", "--seeds", "2") == NAMES
    )  # other flags: another --redo, and its scores replace the others
    assert run("--redo") == NAMES  # so none of the stopped one's are left
    stops_at = NAMES[2]
    with pytest.raises(click.Abort):
        run("--redo")
    stops_at = None
    assert run("--redo") == NAMES[2:]
    assert run("--redo") == NAMES
    assert all((folder / "test.predicted-scores.json").is_file() for folder in folders)
    assert not list(tmp_path.glob(".hear-dasheng.redo*"))


def test_a_damaged_journal_is_named_and_all_tasks_are_done(tmp_path, capsys):
    tasks = [tmp_path / name for name in NAMES]
    journal = RedoJournal(tmp_path, {"module": "mine"}, tasks)
    journal.add(tasks[0])
    assert RedoJournal(tmp_path, {"module": "mine"}, tasks).has(tasks[0])
    assert not RedoJournal(tmp_path, {"module": "other"}, tasks).has(tasks[0])
    assert not RedoJournal(tmp_path, {"module": "mine"}, tasks[:2]).has(tasks[0])
    journal.path.write_text('{"began": "now", "began": "then"}')
    assert not RedoJournal(tmp_path, {"module": "mine"}, tasks).has(tasks[0])
    assert f"all tasks are done again: {journal.path} cannot be read" in capsys.readouterr().err


def test_a_task_that_fails_is_tried_again_by_the_same_command(tmp_path):
    tasks = [tmp_path / name for name in NAMES]
    for is_broken in (True, False):
        journal, done = RedoJournal(tmp_path, {}, tasks), []
        for task in tasks:
            if not journal.has(task) and not (is_broken and task == tasks[1]):
                done.append(task.name)
                journal.add(task)
        assert done == ([NAMES[0], NAMES[2]] if is_broken else [NAMES[1]])
    assert not journal.path.exists()
