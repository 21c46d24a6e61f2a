"""A scored task -> one line: its primary score, and what each ± is over."""

from __future__ import annotations

from pathlib import Path

from eval_recipes.reporting.score_files import read_spreads
from eval_recipes.results import primary_score, read_scores


def summary(task_dir: Path) -> str:
    """One line about a scored task: `top1_acc 0.853 ± 0.013 over 5 folds, ± 0.002 over 3 seeds`.

    Raises:
        FileNotFoundError: the task is not scored yet.
    """
    score = primary_score(task_dir)
    spreads = read_spreads(read_scores(task_dir), score.metric, score.std)
    told = ", ".join(f"± {spread.std:.3f} over {spread.count} {spread.over}" for spread in spreads)
    return f"{score.metric} {score.mean:.3f} {told}".rstrip()
