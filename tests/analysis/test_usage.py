import math

import numpy as np
import pytest

from polychron.analysis.usage import U_EDGES, LayerUsage, explained_by


def make_usage(visits, **fields) -> LayerUsage:
    visits = np.array(visits)
    n_bits = int(math.log2(visits.shape[1]))
    given = {
        "name": "layer 0",
        "visits": visits,
        "bits": ("latency",) * n_bits,
        "explained": np.ones((len(visits), n_bits)),
        "n_equal": 0,
        "u_counts": np.zeros(len(U_EDGES) + 1, dtype=np.int64),
        "n_ties": 0,
        **fields,
    }
    return LayerUsage(**given)


def test_rows_fall_into_four_classes():
    usage = make_usage([[0, 1, 4, 4, 4, 4, 4, 11]])  # 32 readings of 8 rows: evenly would be 4
    assert usage.visit_shares == {"never": 1 / 8, "rarely": 1 / 8, "evenly": 5 / 8, "often": 1 / 8}
    assert sum(usage.visit_shares.values()) == 1


def test_entropy_is_full_where_rows_are_read_evenly_and_zero_where_one_is():
    usage = make_usage([[5, 5, 5, 5], [20, 0, 0, 0], [10, 10, 0, 0]])
    assert usage.entropy.tolist() == [2, 0, 1]
    assert usage.possible_entropy == 2
    assert make_usage([[1, 1, 0, 0]]).possible_entropy == 1


def test_minority_and_correlation_against_the_readings_themselves():
    rng = np.random.default_rng(0)
    rows = rng.choice(8, size=500, p=[0.3, 0.1, 0.05, 0.05, 0.2, 0.1, 0.1, 0.1])
    usage = make_usage([np.bincount(rows, minlength=8)])
    bits = (rows[:, None] >> np.arange(3) & 1).astype(float)
    ones = bits.mean(axis=0)
    np.testing.assert_allclose(usage.minority[0], np.minimum(ones, 1 - ones))
    expected = np.abs(np.corrcoef(bits.T) - np.eye(3)).max(axis=1)
    np.testing.assert_allclose(usage.correlation[0], expected)


def test_a_constant_and_a_doubled_comparison_are_found():
    visits = np.zeros((1, 8), dtype=np.int64)
    visits[0, [0b000, 0b011]] = 50  # bits 0 and 1 always agree, bit 2 is always 0
    usage = make_usage(visits)
    assert (usage.n_constant, usage.n_correlated) == (1, 2)


def test_near_ties_are_counted_up_to_their_threshold():
    u = np.array([0.0, 0.005, 0.02, 0.05, 0.5, 3.0])
    counts = np.bincount(np.searchsorted(U_EDGES, u, side="right"), minlength=len(U_EDGES) + 1)
    usage = make_usage([[1, 1]], u_counts=counts, n_ties=1)
    assert [usage.near_ties(threshold) for threshold in (0.01, 0.1, 1.0)] == pytest.approx([2 / 6, 4 / 6, 5 / 6])
    assert usage.summary()["ties"] == pytest.approx(1 / 6)


def test_comparisons_explain_nothing_where_halves_agree_and_all_where_they_alone_differ():
    rows = np.repeat(np.eye(2), 4, axis=0)  # bit 2 decides
    np.testing.assert_allclose(explained_by(np.full(8, 3), rows), [0, 0, 1], atol=1e-12)
    assert explained_by(np.zeros(8, dtype=int), rows).tolist() == [0, 0, 0]
    assert explained_by(np.array([5, 0, 0, 0, 0, 0, 0, 0]), rows).tolist() == [0, 0, 0]
