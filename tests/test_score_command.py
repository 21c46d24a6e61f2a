"""`hear-dasheng score`: its file, what it skips, what it refuses."""

import json
import math
import pickle
import statistics
import threading

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eval_recipes import synthetic_embeddings as synthetic
from eval_recipes.provenance import sha256_of
from eval_recipes.results import primary_score
from eval_recipes.score import score
from eval_recipes.scoring.grid import GridPoint
from eval_recipes.scoring.protocol import SeedResult
from eval_recipes.scoring.score_file import combine, strict
from eval_recipes.scoring.task_data import TaskData
from eval_recipes.scoring.training import Stopped, train
from eval_recipes.task_checks import TaskProblem

SCORES, RECORD, KITS_DONE = (
    "test.predicted-scores.json",
    "hear-dasheng.predictions.json",
    "prediction-done.json",
)
QUICK = ("--grid", "faster", "--grid-points", "2")
MAKE = {"folds": synthetic.multiclass, "several": synthetic.multilabel, "events": synthetic.events}


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(score, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def strictly_read(folder) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / SCORES).read_text(), parse_constant=refuse)


@pytest.fixture
def task(tmp_path):
    return synthetic.multiclass(tmp_path / "task")


@pytest.mark.parametrize("kind", MAKE)
def test_the_file_has_hearevals_schema(tmp_path, kind):
    folder = MAKE[kind](tmp_path / kind)
    output = run(folder, *QUICK)
    scores = strictly_read(folder)
    metadata = json.loads((folder / "task_metadata.json").read_text())
    tested = [fold for fold in scores if fold == "test" or fold.startswith("fold")]
    assert tested == (["fold00", "fold01", "fold02"] if kind == "folds" else ["test"])
    for fold in tested:
        expected = {"test_loss", "test_score", "validation_score", "epoch", "time_in_min"}
        expected |= {f"test_{metric}" for metric in metadata["evaluation"]}
        assert expected <= scores[fold].keys()
        assert scores[fold]["test_score"] == scores[fold][f"test_{metadata['evaluation'][0]}"]
        assert isinstance(scores[fold]["epoch"], int)
    assert ("aggregated_scores" in scores) == (kind == "folds")
    assert scores["hparams"]["optim"] == "Adam"
    assert scores["postprocessing"] == [] or kind == "events"
    assert (scores["score_mode"], scores["embedding_path"]) == ("max", str(folder))
    assert (scores["seeds"], scores["scorer"]) == ([42], "hear-dasheng score")
    assert str(primary_score(folder)) in output
    record = json.loads((folder / RECORD).read_text())
    assert record["identity"]["precision"] == "fp32"
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]


def test_scores_are_repeatable_and_seeds_differ(task):
    assert " over 3 folds, ± " in (said := run(task, *QUICK, "--seeds", 2))
    assert " over 2 seeds in " in said
    first = strictly_read(task)
    run(task, *QUICK, "--seeds", 2, "--redo")
    second = strictly_read(task)
    for scores in (first, second):
        for seed in scores["per_seed"]:
            for training in seed["trainings"]:
                del training["time_in_min"]
        one, two = scores["per_seed"]
        assert (one["seed"], two["seed"]) == (42, 43)
        assert one["fold00"]["test_loss"] != two["fold00"]["test_loss"]
        assert scores["fold00"]["test_score"] == pytest.approx(
            (one["fold00"]["test_score"] + two["fold00"]["test_score"]) / 2
        )
        folds = [seed["aggregated_scores"]["test_loss_mean"] for seed in (one, two)]
        spread = scores["spread_over_seeds"]["aggregated_scores"]["test_loss_mean"]
        assert spread == pytest.approx(statistics.stdev(folds))
        assert len(one["trainings"]) == 2 + 2
    without_time = [
        {fold: values["test_loss"] for fold, values in s.items() if fold.startswith("fold")}
        for s in (first, second)
    ]
    assert without_time[0] == without_time[1]


def test_the_signal_is_found(tmp_path):
    folder = synthetic.multiclass(tmp_path / "easy", noise=0.5)
    run(folder, "--grid-points", 1, "--precision", "bf16")
    assert primary_score(folder).mean > 0.95


def test_what_is_scored_is_skipped_and_what_differs_is_not_passed_off(task):
    run(task, *QUICK)
    before = (task / SCORES).stat().st_mtime_ns
    assert "already scored" in run(task, *QUICK)
    output = run(task, *QUICK, "--seeds", 2, code=1)
    assert "seeds was 1, now 2" in output
    assert "--redo" in output
    embeddings = task / "fold00.embeddings.npy"
    values = np.fromfile(embeddings, np.float32)
    (values + 1).tofile(embeddings)
    assert "embeddings was" in run(task, *QUICK, code=1)
    assert (task / SCORES).stat().st_mtime_ns == before
    run(task, *QUICK, "--redo")
    assert (task / SCORES).stat().st_mtime_ns != before


def test_the_kits_scores_are_replaced_only_if_asked(task):
    (task / SCORES).write_text("{}")
    (task / KITS_DONE).write_text("{}")
    (task / RECORD).write_text(json.dumps({"identity": {"grid_points": 8, "grid": "default"}}))
    assert "scorer was None, now 'hear-dasheng score'" in run(task, *QUICK, code=1)
    run(task, *QUICK, "--redo")
    assert not (task / KITS_DONE).exists()  # else the kit would take our scores for its own


def test_embeddings_are_only_read(task):
    before = sha256_of(task / "fold00.embeddings.npy")
    run(task, *QUICK)
    assert sha256_of(task / "fold00.embeddings.npy") == before


def test_one_bad_task_stops_itself_alone(tmp_path):
    synthetic.multiclass(tmp_path / "tasks/a_half")
    (tmp_path / "tasks/a_half/.done.embeddings").unlink()
    synthetic.multilabel(tmp_path / "tasks/b_whole")
    output = run(tmp_path / "tasks", *QUICK, code=1)
    assert "a_half holds no finished embeddings" in output
    assert "1 of 2 tasks are not done: a_half" in output
    assert strictly_read(tmp_path / "tasks/b_whole")["seeds"] == [42]


def test_a_failing_training_stops_its_task_alone(tmp_path):
    too_small = {"evaluation_params": {"task_specific_param_grid": {"check_val_every_n_epoch": [99]}}}
    synthetic.multiclass(tmp_path / "tasks/a_without_validation", **too_small)
    synthetic.multilabel(tmp_path / "tasks/b_whole")
    output = run(tmp_path / "tasks", *QUICK, "--seeds", 2, code=1)
    assert "max_epochs 10 ends before the first validation" in output
    assert strictly_read(tmp_path / "tasks/b_whole")["seeds"] == [42, 43]


def test_ctrl_c_ends_all_trainings_and_marks_nothing_done(task, monkeypatch):
    begun = threading.Event()

    def interrupted(self, seed):
        begun.set()
        raise KeyboardInterrupt

    monkeypatch.setattr("eval_recipes.scoring.protocol.Protocol.run", interrupted)
    output = run(task, *QUICK, code=1)
    assert begun.is_set()
    assert "nothing is marked done" in output
    assert not (task / SCORES).exists()


def test_nothing_is_left_behind_by_a_failure(task):
    run(task, *QUICK)
    before = strictly_read(task)
    (task / "fold02.target-labels.pkl").write_bytes(pickle.dumps([["class 0"]]))
    assert "1 label lists for 30 embeddings in fold02" in run(task, *QUICK, "--redo", code=1)
    assert strictly_read(task) == before
    assert not list(task.glob(".*partial"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "fold01.target-labels.pkl",
            pickle.dumps([["class 0"]] * 29 + [["owl"]]),
            "fold01 has the label 'owl'",
        ),
        ("fold01.target-labels.pkl", pickle.dumps([["class 0"]] * 29 + [[]]), "row 29 of fold01 has [], not"),
        ("fold01.target-labels.pkl", pickle.dumps(np.zeros(3)), "only plain lists are read"),
        ("fold01.embeddings.npy", b"1234", "is not 30 rows of 24 float32"),
        ("fold01.embeddings.npy", np.full((30, 24), np.nan, np.float32).tobytes(), "not finite"),
        ("labelvocabulary.csv", b"idx,label\n1,class 0\n", "are not 0 to their number"),
    ],
)
def test_a_broken_file_is_named(task, name, content, message):
    (task / name).write_bytes(content)
    assert message in run(task, *QUICK, code=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": ["mse"]}, "metric 'mse' is not one of this kind"),
        ({"evaluation": ["segment_1s_er"]}, "metric 'segment_1s_er' is not one of this kind"),
        ({"split_mode": "random"}, "split_mode 'random' is none of"),
        ({"embedding_type": "video"}, "embedding_type 'video' is none of scene, event"),
    ],
)
def test_metadata_that_make_no_sense_are_named(tmp_path, changes, message):
    assert message in run(synthetic.multiclass(tmp_path / "task", **changes), *QUICK, code=1)


def test_an_impossible_device_is_named(task):
    output = run(task, "--device", "cuda:99", code=2)
    assert "--device 'cuda:99' cannot be used here" in output


def test_a_score_that_is_not_a_number_is_reported_as_such(tmp_path):
    never = {"event_postprocessing_grid": {"min_duration": [90_000]}}
    folder = synthetic.events(tmp_path / "task", evaluation_params=never)
    assert "event_onset_200ms_fms nan" in run(folder, *QUICK)
    assert strictly_read(folder)["test"]["test_score"] is None


def test_frames_and_timestamps_must_match(tmp_path):
    folder = synthetic.events(tmp_path / "task")
    (folder / "valid.filename-timestamps.json").write_text("[]")
    with pytest.raises(TaskProblem, match="0 timestamps for 600 embeddings"):
        TaskData(folder).frames(("valid",))


def test_a_stopped_training_says_so():
    stop = threading.Event()
    stop.set()
    point = GridPoint(8, 3, 0.0, 8, 1, "xavier_uniform_", 1e-3, 5, 2)

    class Idle:
        parameters = gradient = torch.zeros(1)

    with pytest.raises(Stopped):
        train(point, Idle(), [None], lambda _: None, maximize=True, stop=stop)


def test_what_is_not_finite_is_null():
    results = [
        SeedResult(seed, {"test": {"a": value}, "hparams": {}, **dict.fromkeys(FIXED, "")}, [])
        for seed, value in ((42, 1.0), (43, math.nan))
    ]
    combined = combine(results)
    assert combined["test"] == {"a": None}
    assert combined["spread_over_seeds"] == {"test": {"a": None}}
    assert json.loads(json.dumps(strict([math.inf, {"b": -math.inf}]), allow_nan=False)) == [
        None,
        {"b": None},
    ]


FIXED = ("postprocessing", "score_mode", "embedding_path")


def test_a_kill_between_the_scores_and_their_record_is_repeated_by_the_same_command(task, monkeypatch):
    from eval_recipes import provenance

    written = []

    def stop_at_the_second(path, content, write=provenance.write_json):
        written.append(path.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(provenance, "write_json", stop_at_the_second)
        assert CliRunner().invoke(score, [str(task), *QUICK]).exit_code != 0
    assert sorted(written) == sorted([SCORES, RECORD])
    assert "already" not in run(task, *QUICK)
    assert "already scored" in run(task, *QUICK)


def test_products_are_in_full_precision_whatever_the_process_chose(task, monkeypatch):
    from eval_recipes.scoring import protocol

    found = []

    def train_and_look(*arguments, whole=protocol.train, **named):
        found.append(torch.backends.cuda.matmul.fp32_precision)
        return whole(*arguments, **named)

    monkeypatch.setattr(protocol, "train", train_and_look)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        run(task, *QUICK)
        assert set(found) == {"ieee"}
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
