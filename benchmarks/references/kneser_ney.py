"""An n-gram of bytes with interpolated modified Kneser-Ney smoothing (Chen and Goodman, 1999).

    P_k(w | h) = max(c(hw) - D(c(hw)), 0) / c(h) + gamma(h) P_{k-1}(w | h without its first symbol)
    gamma(h)   = (D_1 N_1(h) + D_2 N_2(h) + D_3 N_3+(h)) / c(h)

h has k - 1 symbols, c(h) = sum_w c(hw), N_r(h) counts the w with c(hw) = r. At the highest order c counts occurrences,
below it how many different symbols stand before hw. D_1, D_2, D_3+ follow for each order from how many grams were
counted once, twice, three and four times. P_0 is 1 / vocabulary size. A context that was never seen leaves the word to
the next lower order.
"""

# N position in the text, G distinct grams of an order, k order: symbols of a gram

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

# Without a discount nothing would be left for what was never seen; a text that is short or very regular asks for that.
LEAST_DISCOUNT = 0.1

NEVER = -1  # id of a gram that the training text does not have


@dataclass(frozen=True)
class Level:
    """All grams of one order.

    Attributes:
        keys: (G,) int64 ascending: id of the gram's first k - 1 symbols times the vocabulary size, plus its last.
        discounted: (G,) max(c - D(c), 0) / c(h).
        contexts: (C,) int64 ascending: ids of the contexts h, which are grams of order k - 1.
        back_off: (C,) gamma(h).
    """

    keys: np.ndarray
    discounted: np.ndarray
    contexts: np.ndarray
    back_off: np.ndarray


class KneserNey:
    """Counts of a training text, smoothed; `score` for texts, `probabilities` for one context.

    Args:
        training: (N,) uint8 ids, at least ``order`` of them.
        vocabulary_size: ids lie below it.
        order: n, at least 1; the context has n - 1 symbols.

    Attributes:
        seconds: that counting took.
    """

    def __init__(self, training: np.ndarray, vocabulary_size: int, order: int):
        if order < 1:
            raise ValueError(f"order must be at least 1; got {order}")
        if training.size < order:
            raise ValueError(f"training must have at least as many symbols as order, {order}; got {training.size}")
        began = time.perf_counter()
        self.order, self.vocabulary_size = order, vocabulary_size
        self.levels: list[Level] = []
        symbols = training.astype(np.int64)
        ids = np.zeros(training.size, dtype=np.int64)  # of the gram that ends before each position: the empty one
        keys, gram_of, occurrences = _grams(ids * vocabulary_size + symbols)
        for k in range(1, order + 1):
            if k == order:
                counts = occurrences
                longer = None
            else:
                # Grams one longer, at positions that have one: the gram that ended one before, and this symbol.
                longer = _grams(gram_of[:-1] * vocabulary_size + symbols[k:])
                # Each of them is one symbol put before the gram of its last k symbols.
                last_of = np.empty(longer[0].size, dtype=np.int64)
                last_of[longer[1]] = gram_of[1:]
                counts = np.bincount(last_of, minlength=keys.size)
            self.levels.append(_smooth(keys, counts, vocabulary_size))
            if longer is not None:
                keys, gram_of, occurrences = longer
        self.seconds = time.perf_counter() - began

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Nats of tokens[1:], each with the last n - 1 symbols: (N,) uint8 to (N - 1,) float64."""
        symbols = tokens.astype(np.int64)
        probability = np.full(tokens.size, 1 / self.vocabulary_size)
        context = np.zeros(tokens.size, dtype=np.int64)  # of order k - 1, that ends before each position
        for k, level in enumerate(self.levels, start=1):
            probability, gram = self._interpolate(level, context, symbols, probability, usable_from=k - 1)
            context = np.concatenate([[NEVER], gram[:-1]])
        return -np.log(probability[1:])

    def probabilities(self, context: np.ndarray) -> np.ndarray:
        """Of every symbol after a context (any length) of ids: (vocabulary size,) float64, which sum to 1."""
        symbols = np.arange(self.vocabulary_size)
        probability = np.full(symbols.size, 1 / self.vocabulary_size)
        for k, level in enumerate(self.levels, start=1):
            if k - 1 > len(context):
                break
            row = self._id_of(context[len(context) - (k - 1) :])
            probability, _ = self._interpolate(level, np.full(symbols.size, row), symbols, probability, usable_from=0)
        return probability

    def _id_of(self, gram: np.ndarray) -> int:
        """Id of a gram among those of its length."""
        row = 0
        for level, symbol in zip(self.levels, gram, strict=False):
            row = int(_find(level.keys, np.array([row * self.vocabulary_size + int(symbol)]))[0]) if row >= 0 else NEVER
        return row

    def _interpolate(
        self, level: Level, context: np.ndarray, symbols: np.ndarray, lower: np.ndarray, usable_from: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """P_k from P_{k-1} at each position, and the ids of the grams there."""
        known = context >= 0
        known[:usable_from] = False
        gram = np.where(known, _find(level.keys, np.where(known, context, 0) * self.vocabulary_size + symbols), NEVER)
        at = np.where(known, _find(level.contexts, context), NEVER)
        # A context may be known only from the training text's very end, where nothing follows it.
        known &= at >= 0
        mixed = np.where(gram >= 0, level.discounted[gram], 0.0) + level.back_off[at] * lower
        return np.where(known, mixed, lower), gram


def _grams(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys ascending, which of them stands at each position, how often each does."""
    return np.unique(keys, return_inverse=True, return_counts=True)


def _smooth(keys: np.ndarray, counts: np.ndarray, vocabulary_size: int) -> Level:
    contexts, context_of = np.unique(keys // vocabulary_size, return_inverse=True)
    totals = np.bincount(context_of, weights=counts)
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    masses = np.bincount(context_of, weights=discounts)
    # What only the text's beginning has, nothing stands before: such a context was never seen.
    seen = totals > 0
    discounted = (counts - discounts) / np.where(seen, totals, 1)[context_of]
    return Level(keys, discounted, contexts[seen], masses[seen] / totals[seen])


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D of a count of 0, 1, 2, and 3 or more; where grams are too few to tell, half of the least count."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    discounts = np.array([0.0, 0.5, 0.5, 0.5])
    if n[1] and n[2]:
        y = n[1] / (n[1] + 2 * n[2])
        for r in (1, 2, 3):
            if n[r]:
                discounts[r] = min(max(r - (r + 1) * y * n[r + 1] / n[r], LEAST_DISCOUNT), r)
    return discounts


def _find(ascending: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted number stands in an ascending array, or `NEVER`."""
    at = np.minimum(np.searchsorted(ascending, wanted), ascending.size - 1)
    return np.where(ascending[at] == wanted, at, NEVER)
