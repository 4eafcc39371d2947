"""Anchors: which pairs are compared, and the delays at which."""

# I table, R comparison

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polychron.anchors import (
    covering_anchors,
    draw_anchors,
    draw_delays,
    geometric_delays,
    independent_anchors,
    random_anchors,
    sensory_anchors,
    uniform_delays,
)
from polychron.errors import InputError

SIZES = [
    (2, 1, 1),
    (2, 9, 1),
    (3, 4, 2),
    (3, 5, 3),
    (7, 9, 3),
    (8, 33, 6),
    (16, 8, 15),
    (32, 16, 6),
    (32, 64, 10),
]

every_rule = pytest.mark.parametrize("draw", [random_anchors, covering_anchors])
every_delay = pytest.mark.parametrize("draw", [geometric_delays, uniform_delays])


def unordered(anchors: torch.Tensor) -> list[list[tuple[int, int]]]:
    """The pairs of each table, smaller neuron first."""
    return [[(min(a, b), max(a, b)) for a, b in table] for table in anchors.tolist()]


def check(anchors: torch.Tensor, n_inputs: int, n_tables: int, n_comparisons: int) -> None:
    assert anchors.shape == (n_tables, n_comparisons, 2)
    assert anchors.dtype == torch.int32
    assert anchors.min() >= 0
    assert anchors.max() < n_inputs
    for table in unordered(anchors):
        assert all(a != b for a, b in table)
        assert len(set(table)) == n_comparisons


def counts(anchors: torch.Tensor, n_inputs: int) -> list[int]:
    """How often each of the n (n - 1) / 2 pairs occurs."""
    flat = [pair for table in unordered(anchors) for pair in table]
    return [flat.count((a, b)) for b in range(n_inputs) for a in range(b)]


@every_rule
@pytest.mark.parametrize(("n_inputs", "n_tables", "n_comparisons"), SIZES)
def test_no_pair_is_of_one_neuron_or_twice_in_a_table(draw, n_inputs, n_tables, n_comparisons):
    for seed in range(5):
        check(draw(n_inputs, n_tables, n_comparisons, seed), n_inputs, n_tables, n_comparisons)


@given(data=st.data())
@settings(derandomize=True, max_examples=60, deadline=None)
def test_covering_anchors_repeat_no_pair_before_all_occurred(data):
    n_inputs = data.draw(st.integers(2, 9))
    n_pairs = n_inputs * (n_inputs - 1) // 2
    n_comparisons = data.draw(st.integers(1, min(n_pairs, 12)))
    n_tables = data.draw(st.integers(1, 20))
    anchors = covering_anchors(n_inputs, n_tables, n_comparisons, data.draw(st.integers(0, 1000)))
    check(anchors, n_inputs, n_tables, n_comparisons)
    occurrences = counts(anchors, n_inputs)
    assert max(occurrences) - min(occurrences) <= 1


@pytest.mark.parametrize(("n_inputs", "n_tables", "n_comparisons"), SIZES)
def test_covering_anchors_cover(n_inputs, n_tables, n_comparisons):
    occurrences = counts(covering_anchors(n_inputs, n_tables, n_comparisons, 0), n_inputs)
    mean, rest = divmod(n_tables * n_comparisons, len(occurrences))
    assert sorted(occurrences) == [mean] * (len(occurrences) - rest) + [mean + 1] * rest


@every_rule
def test_a_seed_gives_the_same_anchors_and_another_seed_others(draw):
    state = torch.get_rng_state()
    first, again, other = draw(32, 16, 6, 0), draw(32, 16, 6, 0), draw(32, 16, 6, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_random_anchors_take_every_ordered_pair_equally_often():
    anchors = random_anchors(4, 6000, 2, 0)
    flat = (anchors[..., 0] * 4 + anchors[..., 1]).reshape(-1)
    occurrences = torch.bincount(flat, minlength=16).reshape(4, 4)
    assert torch.equal(occurrences.diagonal(), torch.zeros(4, dtype=occurrences.dtype))
    off_diagonal = occurrences[~torch.eye(4, dtype=torch.bool)].double()
    assert (off_diagonal - 1000).abs().max() < 150  # 5 standard deviations


def test_covering_anchors_orient_their_pairs_either_way():
    anchors = covering_anchors(32, 64, 10, 0)
    ascending = (anchors[..., 0] < anchors[..., 1]).double().mean()
    assert 0.4 < ascending < 0.6


@every_rule
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("n_comparisons", (4, 3, 7)),  # 4 neurons have 6 pairs
        ("n_comparisons", (2, 3, 2)),
        ("n_comparisons|n_inputs", (1, 3, 1)),
        ("n_comparisons|n_inputs", (0, 3, 1)),
        ("n_comparisons|n_inputs", (-5, 3, 1)),
        ("n_tables", (4, 0, 3)),
        ("n_tables", (4, -1, 3)),
        ("n_comparisons", (4, 3, 0)),
        ("n_comparisons", (4, 3, -1)),
    ],
)
def test_impossible_counts_are_refused_by_name(draw, name, arguments):
    with pytest.raises(InputError, match=rf"\b({name})\b"):
        draw(*arguments, 0)


# --- delays ---------------------------------------------------------------------------------------------


@every_delay
@pytest.mark.parametrize("max_delay", [0, 1, 3, 7])
def test_delays_are_between_zero_and_the_largest(draw, max_delay):
    delays = draw(500, 8, max_delay, 0)
    assert delays.shape == (500, 8, 2)
    assert delays.dtype == torch.int32
    assert delays.min() == 0
    assert delays.max() == max_delay


@every_delay
def test_a_seed_gives_the_same_delays_and_another_seed_others(draw):
    state = torch.get_rng_state()
    first, again, other = draw(16, 6, 7, 0), draw(16, 6, 7, 0), draw(16, 6, 7, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_uniform_delays_are_equally_frequent():
    frequency = torch.bincount(uniform_delays(1000, 10, 4, 0)[..., 0].reshape(-1)).double() / 10_000
    assert (frequency - 0.2).abs().max() < 0.02


def test_geometric_delays_halve_in_frequency():
    frequency = torch.bincount(geometric_delays(1000, 10, 9, 0)[..., 0].reshape(-1)).double() / 10_000
    expected = 0.5 ** torch.arange(1, 5).double()
    assert (frequency[:4] - expected).abs().max() < 0.02


@every_delay
def test_both_neurons_of_a_pair_have_the_same_delay(draw):
    delays = draw(16, 6, 7, 0)
    assert torch.equal(delays[..., 0], delays[..., 1])


@every_delay
def test_a_delay_below_zero_is_refused(draw):
    with pytest.raises(InputError, match=r"\bmax_delay\b"):
        draw(4, 3, -1, 0)


# --- independent, as the reference program draws ---------------------------------------------------------


def test_independent_anchors_are_uniform_over_ordered_pairs_and_may_repeat():
    anchors = independent_anchors(32, 20_000, 6, 0)
    assert anchors.shape == (20_000, 6, 2)
    assert anchors.dtype == torch.int32
    assert (anchors[..., 0] != anchors[..., 1]).all()
    times = torch.bincount((anchors[..., 0] * 32 + anchors[..., 1]).flatten(), minlength=32 * 32).reshape(32, 32)
    expected = anchors.shape[0] * 6 / (32 * 31)
    off_diagonal = times[~torch.eye(32, dtype=torch.bool)]
    assert ((off_diagonal - expected).abs() < 6 * expected**0.5).all()
    repeating = sum(len(set(table)) < 6 for table in unordered(anchors)) / len(anchors)
    assert repeating == pytest.approx(1 - math.prod(1 - k / 496 for k in range(6)), abs=0.006)  # 3 %


def test_independent_anchors_may_be_more_than_there_are_pairs():
    assert independent_anchors(2, 1, 5, 0).sort().values.tolist() == [[[0, 1]] * 5]
    with pytest.raises(InputError, match="n_inputs must be at least 2"):
        independent_anchors(1, 1, 1)


# --- by name ----------------------------------------------------------------------------------------------


def test_rules_by_name():
    assert torch.equal(draw_anchors("random", 8, 5, 3, 7), random_anchors(8, 5, 3, 7))
    assert torch.equal(draw_anchors("covering", 8, 5, 3, 7), covering_anchors(8, 5, 3, 7))
    assert torch.equal(draw_anchors("independent", 8, 5, 3, 7), independent_anchors(8, 5, 3, 7))
    assert torch.equal(draw_delays("geometric", 5, 3, 7, 9), geometric_delays(5, 3, 7, 9))
    assert torch.equal(draw_delays("uniform", 5, 3, 7, 9), uniform_delays(5, 3, 7, 9))
    assert draw_delays("uniform", 5, 3, 0, 9) is None


def test_a_rule_of_another_name_is_refused():
    with pytest.raises(InputError, match=r"\banchors\b.*'all'"):
        draw_anchors("all", 8, 5, 3, 0)
    with pytest.raises(InputError, match=r"\bdelay_distribution\b.*'normal'"):
        draw_delays("normal", 5, 3, 7, 0)


def test_sensory_anchors_are_near_pairs_and_thresholds():
    anchors = sensory_anchors(400, 5, 100, 6, width=20, radius=2.0, reference_share=0.25, seed=1)
    assert anchors.shape == (100, 6, 2)
    assert ((anchors >= 0) & (anchors < 405)).all()
    assert (anchors[..., 0] != anchors[..., 1]).all()
    threshold = (anchors >= 400).any(dim=-1)
    assert 0.2 < threshold.float().mean() < 0.3
    assert not (anchors >= 400).all(dim=-1).any()
    pixels = anchors[~threshold].long()
    offset = torch.stack([pixels[:, 0] // 20 - pixels[:, 1] // 20, pixels[:, 0] % 20 - pixels[:, 1] % 20]).float()
    assert 1.6 < offset.std() < 2.4
    for table in anchors.tolist():
        assert len({tuple(sorted(pair)) for pair in table}) == 6


@pytest.mark.parametrize(
    ("n_pixels", "n_references", "width", "share"), [(8, 1, 0, 1.0), (9, 0, 3, 0.5), (8, 4, 8, 0.0)]
)
def test_sensory_anchors_use_what_is_left_when_the_wanted_pairs_are_taken(n_pixels, n_references, width, share):
    anchors = sensory_anchors(n_pixels, n_references, 3, 20, width=width, radius=0.6, reference_share=share)
    for table in anchors.tolist():
        assert len({tuple(sorted(pair)) for pair in table}) == 20


def test_impossible_sensory_anchors_are_refused():
    with pytest.raises(InputError, match="width must divide"):
        sensory_anchors(10, 0, 1, 1, width=3)
    with pytest.raises(InputError, match="radius must be positive"):
        sensory_anchors(10, 0, 1, 1, radius=0.0)
    with pytest.raises(InputError, match="n_comparisons must be at most"):
        sensory_anchors(3, 9, 1, 4)


@pytest.mark.parametrize("kind", ["random", "covering", "independent"])
def test_a_negative_seed_is_refused(kind: str):
    with pytest.raises(InputError, match="seed must be at least 0; got -1"):
        draw_anchors(kind, 8, 2, 2, seed=-1)
    with pytest.raises(InputError, match="seed must be at least 0"):
        geometric_delays(2, 2, 3, seed=-1)
