"""The reader of heareval's scores, on files written as heareval writes them."""

import json

import click
import pytest

from eval_recipes.results import primary_score, scores_that_are_nan, task_folders
from eval_recipes.scored_task import summary

FOLDS = {
    "fold00": {"test_loss": 0.5, "test_top1_acc": 0.5},
    "fold01": {"test_top1_acc": 0.7},
    "aggregated_scores": {"test_top1_acc_mean": 0.6, "test_top1_acc_std": 0.1414},
}


def scored(folder, metrics, scores):
    folder.mkdir(parents=True)
    (folder / "task_metadata.json").write_text(json.dumps({"evaluation": metrics}))
    (folder / "test.predicted-scores.json").write_text(json.dumps(scores))
    return folder


def test_folds_are_summarised_with_their_spread(tmp_path):
    task = scored(tmp_path / "esc50", ["top1_acc"], FOLDS)
    score = primary_score(task)
    assert (score.task, score.metric, score.mean, score.std) == ("esc50", "top1_acc", 0.6, 0.1414)
    assert summary(task) == "top1_acc 0.600 ± 0.141 over 2 folds"


def test_spreads_over_seeds_are_told_from_those_over_folds(tmp_path):
    """What `score --seeds 3` writes."""
    over_seeds = {
        "seeds": [42, 43, 44],
        "spread_over_seeds": {"aggregated_scores": {"test_top1_acc_mean": 0.02}},
    }
    task = scored(tmp_path / "esc50", ["top1_acc"], FOLDS | over_seeds)
    assert summary(task) == "top1_acc 0.600 ± 0.141 over 2 folds, ± 0.020 over 3 seeds"
    over_seeds["spread_over_seeds"] = {"test": {"test_mAP": 0.5}}
    task = scored(tmp_path / "fsd50k", ["mAP"], {"test": {"test_mAP": 0.25}} | over_seeds)
    assert summary(task) == "mAP 0.250 ± 0.500 over 3 seeds"
    over_seeds["spread_over_seeds"] = {"test": {"test_mAP": None}}  # of one seed
    task = scored(tmp_path / "one", ["mAP"], {"test": {"test_mAP": 0.25}} | over_seeds)
    assert summary(task) == "mAP 0.250"


def test_one_test_split_has_no_spread(tmp_path):
    scores = {"test": {"test_mAP": 0.25, "test_d_prime": float("nan"), "test_score": 0.25}}
    task = scored(tmp_path / "fsd50k", ["mAP", "d_prime"], scores)
    assert summary(task) == "mAP 0.250"
    assert primary_score(task).std is None
    assert scores_that_are_nan(task) == ["test.test_d_prime"]


def test_an_unscored_task_is_no_zero(tmp_path):
    (tmp_path / "task_metadata.json").write_text('{"evaluation": ["mAP"]}')
    with pytest.raises(FileNotFoundError):
        primary_score(tmp_path)


def test_task_folders(tmp_path, capsys):
    one = scored(tmp_path / "module" / "one", ["mAP"], {})
    two = scored(tmp_path / "module" / "two", ["mAP"], {})
    (tmp_path / "module" / ".hidden").mkdir()
    (tmp_path / "module" / "stray").mkdir()
    assert task_folders(tmp_path / "module") == [one, two]
    assert "no HEAR tasks: stray" in capsys.readouterr().err
    assert task_folders(one) == [one]
    assert task_folders(tmp_path / "module", "two") == [two]
    versions = [scored(tmp_path / "versioned" / f"two-v1-{name}", ["mAP"], {}) for name in ("full", "small")]
    scored(tmp_path / "versioned" / "twofold-v1-full", ["mAP"], {})
    assert task_folders(tmp_path / "versioned", "two") == versions
    assert task_folders(tmp_path / "versioned", "two-v1-small") == versions[1:]
    with pytest.raises(click.ClickException, match=r"no task 'three' in .*; there is: one, two"):
        task_folders(tmp_path / "module", "three")
    with pytest.raises(click.ClickException, match="one level deeper, so name .*module"):
        task_folders(tmp_path)
    with pytest.raises(click.ClickException, match="tasks import"):
        task_folders(tmp_path / "module" / "stray")
