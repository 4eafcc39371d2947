import numpy as np
import pytest
import torch

from polychron.nn import LookupTables
from polychron.nn.rewiring import lost_by_merging, promise, rewire
from polychron.ops import RowUpdate


def test_what_merging_loses_is_the_change_of_the_output():
    rng = np.random.default_rng(1)
    rows, visits = rng.normal(size=(8, 3)), rng.integers(0, 4, 8)
    for r in range(3):
        change = 0.0
        for j in range(8):
            other = j ^ (1 << r)
            n = visits[j] + visits[other]
            if visits[j]:
                merged = (visits[j] * rows[j] + visits[other] * rows[other]) / n
                change += visits[j] * np.square(merged - rows[j]).sum()
        assert lost_by_merging(visits, rows)[r] == pytest.approx(change)


def test_the_promise_is_the_halves_difference_estimated_twice():
    rng = np.random.default_rng(2)
    P, J = 200, 4
    row, falls, half = rng.integers(0, J, P), rng.random(P) < 0.4, rng.integers(0, 2, P)
    gradient = rng.normal(size=(P, 3)).astype(np.float32)
    expected = 0.0
    for j in range(J):
        difference = []
        for h in (0, 1):
            means = [gradient[(row == j) & (falls == f) & (half == h)].mean(axis=0) for f in (False, True)]
            difference.append(means[1] - means[0])
        n = [int(((row == j) & (falls == f)).sum()) for f in (False, True)]
        expected += n[0] * n[1] / sum(n) * float(difference[0] @ difference[1])
    assert promise(row, falls, half, gradient, J) == pytest.approx(expected, rel=1e-4)


def test_what_splits_nothing_or_makes_no_difference_promises_nothing():
    rng = np.random.default_rng(3)
    row, half = np.zeros(400, dtype=int), np.arange(400) % 2
    falls = rng.random(400) < 0.5
    telling = np.where(falls, 1.0, -1.0)[:, None].astype(np.float32)
    assert promise(row, np.zeros(400, dtype=bool), half, telling, 2) == 0
    assert promise(row, falls, half, np.ones((400, 1), np.float32), 2) == pytest.approx(0)
    full = promise(row, falls, half, telling, 2)
    uneven = promise(row, falls & (rng.random(400) < 0.1), half, telling, 2)
    assert full > 10 * max(uneven, 1)


def telling_layer(max_delay: int = 0) -> tuple[LookupTables, torch.Tensor, torch.Tensor]:
    """A table whose comparison 1 is constant, and readings whose gradient depends on neurons 4 and 5 alone."""
    layer = LookupTables(6, 2, n_tables=2, n_comparisons=2, max_delay=max_delay, seed=1)
    layer.anchors = torch.tensor([[[0, 1], [2, 3]], [[4, 5], [0, 2]]], dtype=torch.int32)
    if max_delay:
        layer.delays = torch.zeros_like(layer.anchors)
    x = torch.randn(20, 30, 6, generator=torch.manual_seed(0))
    x[..., 2] = x[..., 3] - 1  # comparison 1 of table 0 is always 0
    v = torch.where(x[..., 4] > x[..., 5], 1.0, -1.0)[..., None].expand(-1, -1, 2).contiguous()
    with torch.no_grad():
        layer.synaptic_vectors.copy_(torch.randn(2, 4, 2, generator=torch.manual_seed(1)))
    return layer, x, v


@pytest.mark.parametrize("max_delay", [0, 3])
def test_a_constant_comparison_gives_way_to_the_one_that_tells(max_delay: int):
    layer, x, v = telling_layer(max_delay)
    before = layer(x)
    anchors = layer.anchors
    (done,) = rewire(layer, x, v, share=0.25, n_candidates=64, rng=np.random.default_rng(0))
    assert (done.table, done.comparison, done.lost) == (0, 1, 0)
    assert set(layer.anchors[0, 1].tolist()) == {4, 5}
    assert layer.anchors is not anchors  # whoever points to the old ones must notice
    assert torch.equal(layer.anchors[1], anchors[1])
    torch.testing.assert_close(layer(x), before)  # what was never told apart is not missed
    rows = layer.synaptic_vectors[0]
    assert torch.equal(rows[:2], rows[2:])


def test_the_function_changes_by_what_is_said_to_be_lost():
    layer, x, v = telling_layer()
    x[..., 2] = torch.randn(20, 30, generator=torch.manual_seed(5))
    before = layer(x).detach()
    done = rewire(layer, x, v, share=0.25, n_candidates=64, rng=np.random.default_rng(0))
    assert len(done) == 1
    assert done[0].lost > 0
    assert (layer(x) - before).square().sum().item() == pytest.approx(done[0].lost, rel=1e-4)


def test_row_state_is_merged_with_the_rows():
    layer, x, v = telling_layer()
    layer.use_gradient("fused", RowUpdate("adagrad"))
    layer.update.state = torch.arange(8.0).view(2, 4)
    rewire(layer, x, v, share=0.25, n_candidates=64, rng=np.random.default_rng(0))
    assert layer.update.state.tolist() == [[0, 1, 0, 1], [4, 5, 6, 7]]  # rows 2 and 3 of table 0 were never read


def test_where_nothing_promises_anything_nothing_changes():
    layer, x, _ = telling_layer()
    anchors, rows = layer.anchors.clone(), layer.synaptic_vectors.detach().clone()
    assert rewire(layer, x, torch.zeros(20, 30, 2), rng=np.random.default_rng(0)) == []
    assert torch.equal(layer.anchors, anchors)
    assert torch.equal(layer.synaptic_vectors, rows)


def test_no_table_compares_a_pair_twice_however_often_it_is_rewired():
    layer = LookupTables(5, 3, n_tables=6, n_comparisons=4, max_delay=2)
    rng = np.random.default_rng(0)
    generator = torch.manual_seed(0)
    for _ in range(10):
        x, v = torch.randn(6, 9, 5, generator=generator), torch.randn(6, 9, 3, generator=generator)
        rewire(layer, x, v, share=0.5, rng=rng)
    for table in layer.anchors.tolist():
        assert len({frozenset(pair) for pair in table}) == len(table)
    assert int(layer.delays.max()) <= 2
