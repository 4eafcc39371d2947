from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polychron.errors import InputError
from polychron.models import DelayConfig
from polychron.twins.learning import Learner, learn, of_tables, of_twin, sample_of, search_rate
from polychron.twins.training import Settings


def small(split, seed=0, rate=0.02):
    config = DelayConfig(vocabulary_size=split.vocabulary.size, n_tables=8, n_comparisons=4, readout_n_tables=8,
                         readout_n_comparisons=4)  # fmt: skip
    return of_tables(config, split, seed, rate=rate, batch=4, length=16)


def counted(loss=1.0):
    """A learner that only counts; its score is how many steps it made."""
    made = []

    def step(k, progress):
        made.append((k, progress))
        return loss

    return Learner(step, lambda held_out: float(len(made)), bytes_per_step=10, n_parameters=0), made


def test_a_budget_of_bytes_is_spent_exactly_and_looked_at_on_the_way():
    learner, made = counted()
    points = learn(learner, np.zeros(4, np.uint8), n_bytes=1000, looks=(0.1, 0.5))
    assert [(point.steps, point.n_bytes, point.nats) for point in points] == [(10, 100, 10), (50, 500, 50),
                                                                              (100, 1000, 100)]  # fmt: skip
    assert [k for k, _ in made] == list(range(100))
    assert made[50][1] == 0.5


def test_a_budget_of_seconds_is_processor_time_and_scoring_is_free(split):
    learner = small(split)
    scored = []
    slow = Learner(learner.step, lambda held_out: scored.append(sum(range(3_000_000))) or 1.0, 64, 0)
    points = learn(slow, split.held_out, seconds=0.2, looks=(0.2, 0.4, 0.6, 0.8))
    assert len(points) == len(scored) == 5
    assert 0.2 <= points[-1].seconds < 0.3
    assert points[-1].n_bytes == 64 * points[-1].steps


def test_tables_and_twins_learn_the_text(recipe, split):
    torch.set_num_threads(1)
    for learner in (small(split), of_twin(recipe, Settings(1e-2), split, seed=0)):
        first, last = learn(learner, split.held_out, n_bytes=16_000, looks=(0.02,))
        assert last.nats < 0.6 * first.nats
        assert learner.n_parameters > 0


def test_a_seed_is_one_result(split):
    ends = [learn(small(split, seed), split.held_out, n_bytes=2000)[-1].nats for seed in (0, 0, 1)]
    assert ends[0] == ends[1] != ends[2]


def test_the_best_rate_is_found_and_divergence_costs_without_end(split):
    def make(rate):
        if rate > 1:
            return counted(math.nan)[0]
        return small(split, rate=rate)

    search = search_rate(make, (1e-5, 0.02, 10.0), split.held_out, 2000)
    assert (search.rate, search.is_bracketed) == (0.02, True)
    found = search.to_dict()
    assert found["rate"] == 0.02
    assert [rate for rate, _ in found["trials"]] == [1e-5, 0.02, 10.0]
    assert found["trials"][2][1] is None
    assert found["trials"][1][1] < found["trials"][0][1]
    with pytest.raises(InputError, match="diverged at every rate of 10"):
        search_rate(make, (10.0,), split.held_out, 2000)
    with pytest.raises(InputError, match="diverged at step 0"):
        learn(counted(math.inf)[0], split.held_out, n_bytes=20)


@pytest.mark.parametrize(
    ("ideal", "found", "tried"),
    [(0.2, 0.2, 3), (1.7, 1.6, 6), (0.03, 0.025, 6), (100.0, 6.4, 7)],  # the last lies beyond all trials
)
def test_trials_go_on_until_the_best_rate_lies_between_two_worse_ones(ideal, found, tried):
    seen = []

    def make(rate):
        seen.append(rate)
        return Learner(lambda k, progress: 1.0, lambda held_out: abs(math.log(rate / ideal)), 10, n_parameters=0)

    search = search_rate(make, (0.1, 0.2, 0.4), np.zeros(4, np.uint8), 10)
    assert search.rate == pytest.approx(found)
    assert len(seen) == tried
    assert search.is_bracketed == (ideal < 100)


def test_a_sample_is_spread_over_the_held_out_part():
    held_out = np.arange(200, dtype=np.uint8)
    assert sample_of(held_out, 1000) is held_out
    assert sample_of(held_out, 16).tolist() == [start + k for start in range(0, 200, 25) for k in (0, 1)]
