"""The vectorised counts against the formula, one context at a time, from dictionaries."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from references.kneser_ney import KneserNey

TEXT = np.array([int(n) for n in "0120120130120212012301201" * 8] + [4, 0, 1, 4], dtype=np.uint8)
SIZE = 6  # 5 never occurs


def transcription(text: list[int], order: int, context: list[int], symbol: int) -> float:
    """P_order(symbol | context), from the definition."""

    def counts_of(k: int) -> Counter:
        grams = [tuple(text[i : i + k]) for i in range(len(text) - k + 1)]
        if k == order:
            return Counter(grams)
        return Counter(gram[1:] for gram in {tuple(text[i : i + k + 1]) for i in range(len(text) - k)})

    p = 1 / SIZE
    for k in range(1, order + 1):
        counts = counts_of(k)
        h = tuple(context[len(context) - (k - 1) :])
        after = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == h}
        if len(h) < k - 1 or not after:
            break
        n = Counter(counts.values())
        discount = {0: 0.0, 1: 0.5, 2: 0.5, 3: 0.5}
        if n[1] and n[2]:
            y = n[1] / (n[1] + 2 * n[2])
            for r in (1, 2, 3):
                if n[r]:
                    # The formula's n_4 is exactly four; n_1 to n_3 likewise.
                    discount[r] = min(max(r - (r + 1) * y * n[r + 1] / n[r], 0.1), r)
        total = sum(after.values())
        kept = after.get(symbol, 0) - discount[min(after.get(symbol, 0), 3)]
        gamma = sum(discount[min(count, 3)] for count in after.values()) / total
        p = kept / total + gamma * p
    return p


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_are_the_formula(order: int):
    model = KneserNey(TEXT, SIZE, order)
    for context in ([0, 1], [1, 2, 0, 1, 2], [4, 0, 1, 4], [3, 3, 3, 3], [5, 0, 1], [0, 1, 4]):
        got = model.probabilities(np.array(context, dtype=np.uint8))
        expected = [transcription(TEXT.tolist(), order, context, symbol) for symbol in range(SIZE)]
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4, 8])
def test_probabilities_sum_to_one(order: int, split):
    model = KneserNey(split.training, split.vocabulary.size, order)
    random = np.random.default_rng(0)
    contexts = [split.training[at : at + 9] for at in random.integers(0, split.training.size - 9, 20)]
    contexts += [random.integers(0, split.vocabulary.size, 9) for _ in range(20)]
    contexts += [split.training[-9:], split.training[:3], split.training[:0]]
    for context in contexts:
        probabilities = model.probabilities(context)
        assert probabilities.min() > 0
        assert probabilities.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("order", [1, 3, 6])
def test_scores_are_the_probabilities_of_what_came(order: int, split):
    model = KneserNey(split.training, split.vocabulary.size, order)
    tokens = split.held_out[:120].copy()
    tokens[50] = split.vocabulary.unseen_id
    nats = model.score(tokens)
    assert nats.shape == (119,)
    for target in range(1, 120):
        expected = -np.log(model.probabilities(tokens[:target])[tokens[target]])
        assert nats[target - 1] == pytest.approx(expected, rel=1e-12)


def test_more_context_predicts_better(split):
    nats = [KneserNey(split.training, split.vocabulary.size, order).score(split.held_out).mean() for order in (1, 2, 4)]
    assert nats == sorted(nats, reverse=True)
    assert nats[2] < 0.5 * nats[0]


def test_impossible_orders_are_refused():
    with pytest.raises(ValueError, match="order must be at least 1; got 0"):
        KneserNey(TEXT, SIZE, 0)
    with pytest.raises(ValueError, match="at least as many symbols as order, 4; got 3"):
        KneserNey(TEXT[:3], SIZE, 4)
