from __future__ import annotations

import math

import pytest

from polychron.errors import InputError
from polychron.training import Budget, ReferenceSchedule, Schedule


def test_a_part_of_a_run_has_a_schedule_of_its_own():
    whole, part = Schedule(peak=0.02, warmup_steps=4), Schedule(peak=0.02, warmup_steps=4, begin=0.5, end=0.75)
    for step, progress in ((0, 0.0), (1, 0.04), (9, 0.4), (20, 1.0)):
        assert part.rate(step, 0.5 + 0.25 * progress) == pytest.approx(whole.rate(step, progress))
    for begin, end in ((0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (0.8, 0.2), (math.nan, 1.0)):
        with pytest.raises(InputError, match="begin must lie in"):
            Schedule(peak=0.02, begin=begin, end=end)


def test_progress_follows_steps_or_the_clock():
    assert [Budget(steps=4).progress(step, 99.0) for step in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert [Budget(seconds=8).progress(99, seconds) for seconds in (0.0, 2.0, 8.0, 9.0)] == [0, 0.25, 1, 1]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "exactly one"),
        ({"steps": 1, "seconds": 1.0}, "exactly one"),
        ({"steps": 0}, "at least 1; got 0"),
        ({"seconds": 0.0}, "positive and finite"),
        ({"seconds": float("nan")}, "positive and finite"),
        ({"seconds": float("inf")}, "positive and finite"),
    ],
)
def test_impossible_budgets_are_refused(budget: dict, message: str):
    with pytest.raises(InputError, match=message):
        Budget(**budget)


def test_the_rate_rises_then_falls_to_zero():
    schedule = Schedule(peak=2.0, warmup_steps=10)
    rates = [schedule.rate(step, step / 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == pytest.approx(2.0 * 0.5 * (1 - 0.004))
    assert max(rates) == rates[9]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[500] == 1.0
    assert rates[1000] == 0


def test_a_warm_up_longer_than_a_tenth_of_the_run_is_cut_short():
    schedule = Schedule(peak=1.0, warmup_steps=1_000_000)
    assert schedule.rate(5, 0.05) == pytest.approx(0.5 * 0.95)
    assert schedule.rate(10, 0.1) == pytest.approx(0.9)
    assert schedule.rate(50, 0.5) == 0.5


def test_without_warm_up_the_first_rate_is_the_peak():
    assert Schedule(peak=0.5).rate(0, 0.0) == 0.5


@pytest.mark.parametrize("settings", [{"peak": 0.0}, {"peak": float("nan")}, {"peak": 1.0, "warmup_steps": -1}])
def test_impossible_schedules_are_refused(settings: dict):
    with pytest.raises(InputError, match="must be"):
        Schedule(**settings)


def test_the_reference_programs_rate_is_counted_in_windows():
    schedule = ReferenceSchedule()
    for t in (0, 1, 17, 3999, 4000, 4001, 100_000):
        assert schedule.rate(t) == pytest.approx(min(1 / math.sqrt(1 + t), t * 4000**-1.5))
    rates = [schedule.rate(t) for t in range(3000, 5000)]
    assert max(rates) == pytest.approx(schedule.peak, rel=1e-3)
    assert 3999 <= 3000 + rates.index(max(rates)) <= 4001
    assert ReferenceSchedule(windows_per_step=8).rate(100, 0.9) == schedule.rate(800)
    with pytest.raises(InputError, match="windows_per_step must be at least 1; got 0"):
        ReferenceSchedule(0)
