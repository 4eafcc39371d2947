from __future__ import annotations

import pytest

from polychron.twins.contest import Contestant, Terms, choose, run_contest, spread
from polychron.twins.learning import Learner


def pretender(best_rate):
    """Its loss says how far its rate is from the best; it notes every learner that was made of it."""
    made = []

    def make(split, rate, seed):
        made.append((split.held_out.size, rate, seed))
        return Learner(lambda k, progress: 1.0, lambda held_out: abs(rate - best_rate) + seed, 10, n_parameters=7)

    return Contestant(f"one for {best_rate}", make, (0.1, 0.2, 0.4)), made


def test_rates_are_chosen_on_the_training_part_and_seeds_take_turns(split):
    (one, made), (other, _) = pretender(0.2), pretender(0.4)
    told = []
    outcomes = run_contest([one, other], split, Terms(n_bytes=100, trial_bytes=20), [0, 1], tell=told.append)
    assert [(outcome.name, outcome.seed, outcome.rate) for outcome in outcomes] == [
        (one.name, 0, 0.2), (other.name, 0, 0.4), (one.name, 1, 0.2), (other.name, 1, 0.4),
    ]  # fmt: skip
    assert outcomes[2].nats == 1
    assert outcomes[0].points[-1][:2] == (10, 100)
    inner, whole = split.for_tuning().held_out.size, split.held_out.size
    assert {size for size, _, seed in made if seed > 1} == {inner} != {whole}
    assert len(told) == 4
    assert [rate for rate, _ in outcomes[1].trials] == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_what_was_run_is_not_run_again(split):
    contestant, made = pretender(0.1)
    kept = {}

    def once(name, make):
        if name not in kept:
            kept[name] = make()
        return kept[name]

    first = run_contest([contestant], split, Terms(n_bytes=20, trial_bytes=10), [0], once=once)
    n_made = len(made)
    assert run_contest([contestant], split, Terms(n_bytes=20, trial_bytes=10), [0], once=once) == first
    assert len(made) == n_made


def test_without_trials_the_first_rate_is_taken(split):
    contestant, made = pretender(0.4)
    assert choose(contestant, split, Terms(n_bytes=10)) == {"rate": 0.1, "trials": []}
    assert made == []


def test_trials_by_time_end_by_time(split, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("time.process_time", lambda: next(clock))
    steps = []

    def make(split, rate, seed):
        made = steps.append([rate, 0]) or steps[-1]

        def step(k, progress):
            made[1] += 1
            return 1.0

        return Learner(step, lambda held_out: abs(rate - 0.2), 10, n_parameters=7)

    terms = Terms(seconds=3, trial_seconds=5)  # a step takes a second of this clock
    assert choose(Contestant("one", make, (0.1, 0.2, 0.4)), split, terms)["rate"] == 0.2
    assert steps == [[0.1, 5], [0.2, 5], [0.4, 5]]


@pytest.mark.parametrize(("figures", "text"), [([1.0], "1.0000 (one seed)"), ([1.0, 2.0, 1.5], "1.5000 ± 0.5000")])
def test_a_figure_carries_its_spread(figures, text):
    assert spread(figures) == text
