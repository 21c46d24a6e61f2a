"""The learning rate of each iteration, against the handlers that the published trainer chains."""

import pytest
from ignite.engine import Engine, Events
from ignite.handlers.param_scheduler import CosineAnnealingScheduler, create_lr_scheduler_with_warmup
from torch import nn, optim

from pretrain.training.schedule import Schedule


def published_rates(peak: float, iterations: int, warmup: int, decay_frac: float) -> list[float]:
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=peak)
    handler = CosineAnnealingScheduler(optimizer, "lr", peak, peak * decay_frac, iterations)
    if warmup:
        handler = create_lr_scheduler_with_warmup(handler, warmup_start_value=0.0, warmup_duration=warmup)
    rates = []
    engine = Engine(lambda engine, batch: rates.append(optimizer.param_groups[0]["lr"]))
    engine.add_event_handler(Events.ITERATION_STARTED, handler)
    engine.run([None] * iterations, max_epochs=1)
    return rates


@pytest.mark.parametrize(
    ("peak", "iterations", "warmup", "decay_frac"),
    [(3e-4, 300, 9, 0.1), (3e-4, 100, 0, 0.01), (1.0, 50, 2, 0.0), (1e-3, 40, 40, 0.5)],
)
def test_every_rate_is_the_published_trainers(peak, iterations, warmup, decay_frac):
    schedule = Schedule(peak, iterations, warmup, decay_frac)
    ours = [schedule.rate(i) for i in range(iterations)]
    assert ours == pytest.approx(published_rates(peak, iterations, warmup, decay_frac), rel=1e-9, abs=1e-15)


def test_the_published_recipe_ends_a_little_above_its_floor():
    schedule = Schedule(3e-4, 1_500_000, 45_000, 0.1)
    assert schedule.rate(0) == 0
    assert schedule.rate(44_999) == 3e-4
    assert schedule.rate(1_499_999) / 3e-4 == pytest.approx(0.102, abs=5e-4)


def test_without_a_schedule_the_rate_is_constant():
    assert {Schedule(0.1, 10, is_constant=True).rate(i) for i in range(10)} == {0.1}


@pytest.mark.parametrize(
    ("warmup", "message"), [(1, "choose 0, or 2 or more"), (11, "longer than the run's 10")]
)
def test_an_impossible_warmup_is_refused(warmup, message):
    with pytest.raises(ValueError, match=message):
        Schedule(0.1, 10, warmup)
