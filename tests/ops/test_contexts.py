"""Tables of exact contexts: kernels against the definitions, and the definitions against Kneser-Ney by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polychron.ops.contexts import (
    ContextRows,
    count_contexts,
    count_contexts_reference,
    flaw_of_rows,
    read_contexts,
    read_contexts_reference,
)
from polychron.ops.dispatch import native, use_kernel

needs_kernel = pytest.mark.skipif(native is None, reason="the native extension is missing")


def text_of(n: int, n_symbols: int, seed: int = 0) -> np.ndarray:
    """Each symbol leans on the one before, so that contexts differ and repeat."""
    rng = np.random.default_rng(seed)
    text = np.zeros(n, dtype=np.uint8)
    for t in range(1, n):
        text[t] = rng.integers(n_symbols) if rng.random() < 0.3 else (2 * text[t - 1] + 1) % n_symbols
    return text


def probabilities(rows: ContextRows, depth: int, context: list[int], n_symbols: int) -> torch.Tensor:
    tokens = torch.tensor([context], dtype=torch.int64) if context else torch.full((1, 1), -1)
    return read_contexts_reference(rows, depth, tokens, 1, n_symbols)[0, 0].softmax(0)


@needs_kernel
@pytest.mark.parametrize("depth", [0, 1, 2, 7])
@pytest.mark.parametrize("segments", [[(0, 600)], [(0, 200), (203, 204), (220, 600)]])
def test_counting_is_the_definition(depth: int, segments: list[tuple[int, int]]):
    text = text_of(600, 7)
    counted = count_contexts(text, segments, depth, 8)
    defined = count_contexts_reference(text, segments, depth, 8)
    for name in ("symbol", "first_child", "first_entry", "entry_symbol"):
        assert torch.equal(getattr(counted, name), getattr(defined, name)), name
    torch.testing.assert_close(counted.value, defined.value, atol=2e-6, rtol=2e-6)
    assert flaw_of_rows(counted, depth, 8) is None


@needs_kernel
@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("depth", [0, 1, 3, 7])
def test_reading_is_the_definition_to_the_bit(depth: int, n_threads: int):
    rows = count_contexts(text_of(500, 5), [(0, 500)], depth, 6)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(-1, 6, (3, 300)))
    tokens[0] = torch.from_numpy(text_of(300, 5, seed=2).astype(np.int64))
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for n_positions in (0, 1, 290, 300):
            found = read_contexts(rows, depth, tokens, n_positions, 6)
            assert torch.equal(found, read_contexts_reference(rows, depth, tokens, n_positions, 6))
    finally:
        torch.set_num_threads(before)


def test_a_row_by_hand():
    # 0 1 0 1 0 2: after 0 came 1, 1, 2; after 1 came 0, 0. Counts of pairs: 2, 1, 2, so D(1) = 1/2 n_1 is used.
    text = np.array([0, 1, 0, 1, 0, 2], dtype=np.uint8)
    rows = count_contexts_reference(text, [(0, 6)], 1, 3)
    # Longest contexts: n_1 = 1, n_2 = 2: y = 1/5; D1 = 1 - 2y * 2 = 0.2, D2 = 2 - 3y * 0 = 2, capped at r = 2.
    # The empty context counts what stood before: 0 after 1; 1 after 0; 2 after 0. n_1 = 3, n_2 = 0: D1 = 1/2.
    empty = [(1 - 0.5) / 3 + 0.5 * (1 / 3)] * 3
    gamma = (2 + 0.2) / 3
    after_0 = [gamma * empty[0], gamma * empty[1], (1 - 0.2) / 3 + gamma * empty[2]]
    expected = torch.tensor(after_0) / sum(after_0)
    torch.testing.assert_close(probabilities(rows, 1, [0], 3), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(probabilities(rows, 1, [], 3), torch.tensor(empty), atol=1e-6, rtol=1e-6)
    assert rows.value[-1].item() == pytest.approx(math.log(1.0), abs=1e-6)  # 0 after 1: twice, and D2 takes all of it


def test_the_sum_of_rows_is_a_distribution_of_interpolated_smoothing():
    """P_k(w | h) from the rows obeys its own recursion: what was never met after h is gamma times the shorter one's."""
    text, depth, K = text_of(400, 5), 3, 6
    rows = count_contexts_reference(text, [(0, 400)], depth, K)
    context = text[100:103].tolist()
    long, short = probabilities(rows, depth, context, K), probabilities(rows, depth - 1, context, K)
    met = {int(text[t]) for t in range(3, 400) if text[t - 3 : t].tolist() == context}
    never = [w for w in range(K) if w not in met]
    ratios = long[never] / short[never]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
    assert ratios[0] < 1
    assert all(long[w] > ratios[0] * short[w] for w in met)


def test_what_was_never_met_is_left_to_shorter_contexts():
    rows = count_contexts(text_of(300, 4), [(0, 300)], 3, 6)
    assert torch.equal(
        read_contexts(rows, 3, torch.tensor([[1, 2, 5]]), 1, 6), read_contexts(rows, 3, torch.tensor([[5]]), 1, 6)
    )
    nothing = read_contexts(rows, 3, torch.full((1, 1), -1), 1, 6)
    assert torch.equal(read_contexts(rows, 3, torch.tensor([[5]]), 1, 6), nothing)


@needs_kernel
def test_borders_say_what_is_wrong():
    text = text_of(50, 4)
    with pytest.raises(ValueError, match="depth must lie in"):
        count_contexts(text, [(0, 50)], 8, 5)
    with pytest.raises(ValueError, match="ids below n_symbols = 3"):
        count_contexts(text, [(0, 50)], 2, 3)
    with pytest.raises(ValueError, match="segments must lie within"):
        count_contexts(text, [(0, 51)], 2, 5)
    with pytest.raises(ValueError, match="longer than a context"):
        count_contexts(text, [(0, 2), (10, 12)], 2, 5)
    rows = count_contexts(text, [(0, 50)], 2, 5)
    for wrong in (5, -2):
        with pytest.raises(ValueError, match=r"tokens must lie in \[-1, 5\)"):
            read_contexts(rows, 2, torch.tensor([[0, wrong]]), 1, 5)


def test_damaged_rows_are_found_or_read_within_bounds():
    rows = count_contexts(text_of(300, 5), [(0, 300)], 4, 6)
    rng = np.random.default_rng(3)
    tokens = torch.from_numpy(rng.integers(-1, 6, (2, 40)))
    n_found = 0
    for _ in range(300):
        name = rng.choice(["symbol", "first_child", "first_entry", "entry_symbol"])
        damaged = rows._replace(**{name: getattr(rows, name).clone()})
        part = getattr(damaged, name).numpy()
        part.view(np.uint8)[rng.integers(part.nbytes)] ^= 1 << rng.integers(8)
        if flaw_of_rows(damaged, 4, 6) is None:
            assert read_contexts(damaged, 4, tokens, 40, 6).isfinite().all()
        else:
            n_found += 1
    assert n_found > 50


def test_the_reference_is_read_where_it_is_asked_for():
    rows = count_contexts(text_of(300, 5), [(0, 300)], 4, 6)
    tokens = torch.from_numpy(text_of(40, 5, seed=4).astype(np.int64))[None]
    native_sum = read_contexts(rows, 4, tokens, 40, 6)
    with use_kernel("reference"):
        assert torch.equal(read_contexts(rows, 4, tokens, 40, 6), native_sum)
