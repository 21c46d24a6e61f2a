"""Results of several seeds -> `test.predicted-scores.json`: heareval's schema, means, spread beside them.

Every number in heareval's places is the mean over seeds. Beside them stand `seeds`,
`spread_over_seeds` (sample standard deviations in the same places; null for one seed), and
`per_seed`, where each seed's own results are whole, with a line on every training. What is
not a finite number is null: JSON knows no NaN.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval_recipes.scoring.protocol import SeedResult

SCORER = "hear-dasheng score"
NOT_SCORES = ("hparams", "postprocessing", "score_mode", "embedding_path")


def combine(results: list[SeedResult]) -> dict[str, Any]:
    """The content of a score file.

    Hyperparameters and postprocessing are the first seed's; the others' are in `per_seed`.
    """
    first = results[0].scores
    numbers = [{k: v for k, v in r.scores.items() if k not in NOT_SCORES} for r in results]
    combined = {group: _over_seeds([n[group] for n in numbers], _mean) for group in numbers[0]}
    return strict(
        combined
        | {name: first[name] for name in NOT_SCORES}
        | {
            "scorer": SCORER,
            "seeds": [result.seed for result in results],
            "spread_over_seeds": {
                group: _over_seeds([n[group] for n in numbers], _spread) for group in numbers[0]
            },
            "per_seed": [
                {"seed": result.seed, **result.scores, "trainings": result.trainings} for result in results
            ],
        }
    )


def _over_seeds(groups: list[dict[str, float]], statistic: Any) -> dict[str, float]:
    return {name: statistic([group[name] for group in groups]) for name in groups[0]}


def _mean(values: list[float]) -> float:
    return values[0] if len(values) == 1 else statistics.fmean(values)


def _spread(values: list[float]) -> float:
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values)


def strict(value: Any) -> Any:
    """The same value with null in place of numbers that are not finite.

    >>> strict({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {name: strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
