"""Which neurons are compared, and how long their spikes travel: anchor pairs and conduction delays.

All are drawn once, from a seed, and stay fixed. A pair never compares a neuron with itself and, whichever way round,
never stands twice in one table: the second one would leave half of the table's rows unreachable. Only
`independent_anchors` draws as the paper's program does, which does not look.
"""

# I table, R comparison

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from polychron.errors import InputError

DELAY_DISTRIBUTIONS = ("geometric", "uniform")
ANCHOR_KINDS = ("random", "covering", "independent")
_CHOOSY_TRIES = 100


def _check_counts(n_inputs: int, n_tables: int, n_comparisons: int) -> None:
    if n_tables < 1 or n_comparisons < 1:
        raise InputError(f"n_tables and n_comparisons must be at least 1; got {n_tables} and {n_comparisons}")
    if n_inputs < 2:
        raise InputError(f"n_inputs must be at least 2, for a pair to compare; got {n_inputs}")


def _check(n_inputs: int, n_tables: int, n_comparisons: int) -> None:
    _check_counts(n_inputs, n_tables, n_comparisons)
    n_pairs = n_inputs * (n_inputs - 1) // 2
    if n_comparisons > n_pairs:
        raise InputError(
            f"n_comparisons must be at most {n_pairs}, the pairs that {n_inputs} neurons form; got {n_comparisons}"
        )


def _all_pairs(n_inputs: int) -> np.ndarray:
    return np.stack(np.triu_indices(n_inputs, k=1), axis=1).astype(np.int32)


def _turn(pairs: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Each pair one way round or the other, by a fair coin: (I, R, 2) int32."""
    turned = np.where(rng.integers(0, 2, pairs.shape[:-1], dtype=np.int8)[..., None] == 1, pairs[..., ::-1], pairs)
    return torch.from_numpy(np.ascontiguousarray(turned, dtype=np.int32))


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise InputError(f"seed must be at least 0; got {seed}")
    return np.random.default_rng(seed)


def random_anchors(n_inputs: int, n_tables: int, n_comparisons: int, seed: int = 0) -> Tensor:
    """Pairs drawn uniformly, without repetition within a table: (n_tables, n_comparisons, 2) int32.

    Raises:
        InputError: a table asks for more comparisons than there are pairs.

    Example:
        >>> random_anchors(n_inputs=4, n_tables=2, n_comparisons=3).shape
        torch.Size([2, 3, 2])
    """
    _check(n_inputs, n_tables, n_comparisons)
    rng = _generator(seed)
    pairs = _all_pairs(n_inputs)
    chosen = np.stack([rng.choice(len(pairs), n_comparisons, replace=False) for _ in range(n_tables)])
    return _turn(pairs[chosen], rng)


def independent_anchors(n_inputs: int, n_tables: int, n_comparisons: int, seed: int = 0) -> Tensor:
    """Pairs drawn uniformly, each without regard to the others: (n_tables, n_comparisons, 2) int32.

    A table may hold a pair twice, or both ways round, of which half or more of its rows are never read: as in the
    author's reference program, where it befalls 3 % of the tables at 32 neurons and 6 comparisons.

    Example:
        >>> independent_anchors(n_inputs=2, n_tables=1, n_comparisons=3).sort().values.tolist()   # the only pair
        [[[0, 1], [0, 1], [0, 1]]]
    """
    _check_counts(n_inputs, n_tables, n_comparisons)
    rng = _generator(seed)
    first = rng.integers(0, n_inputs, (n_tables, n_comparisons))
    second = (first + rng.integers(1, n_inputs, first.shape)) % n_inputs
    return torch.from_numpy(np.stack([first, second], axis=-1).astype(np.int32))


def covering_anchors(n_inputs: int, n_tables: int, n_comparisons: int, seed: int = 0) -> Tensor:
    """Pairs dealt out like cards: every pair occurs once before any occurs again: (n_tables, n_comparisons, 2) int32.

    Where one deck ends within a table, the next deck begins with pairs that the table does not hold yet.

    Raises:
        InputError: a table asks for more comparisons than there are pairs.

    Example:
        >>> anchors = covering_anchors(n_inputs=4, n_tables=2, n_comparisons=3)   # 6 pairs, each exactly once
        >>> len({tuple(sorted(pair)) for pair in anchors.reshape(-1, 2).tolist()})
        6
    """
    _check(n_inputs, n_tables, n_comparisons)
    rng = _generator(seed)
    pairs = _all_pairs(n_inputs)
    deck: list[int] = []
    chosen = np.empty((n_tables, n_comparisons), dtype=np.int64)
    for table in chosen:
        held: list[int] = []
        while len(held) < n_comparisons:
            if not deck:
                fresh = rng.permutation(len(pairs)).tolist()
                # Dealt from the end: what this table holds already goes to the bottom.
                deck = [p for p in fresh if p in held] + [p for p in fresh if p not in held]
            held.append(deck.pop())
        table[:] = held
    return _turn(pairs[chosen], rng)


def sensory_anchors(
    n_pixels: int,
    n_references: int,
    n_tables: int,
    n_comparisons: int,
    *,
    width: int = 0,
    radius: float = 4.0,
    reference_share: float = 1 / 3,
    seed: int = 0,
) -> Tensor:
    """Pairs for pixels that fire by brightness, beside reference neurons that fire at set times: (I, R, 2) int32.

    The first neuron of a pair is a pixel. Its partner is, with probability ``reference_share``, one of the references,
    which makes the comparison a threshold; otherwise another pixel: of an image (``width`` > 0) one nearby, at a
    normally distributed distance, since close pixels tell edges and distant ones tell little; else any.

    Args:
        n_pixels: neurons 0 to n_pixels - 1.
        n_references: neurons after these; 0: no thresholds.
        n_tables: I.
        n_comparisons: R.
        width: pixels in a row of the image, row after row; 0: the inputs are no image.
        radius: standard deviation of the distance, in pixels, along each axis.
        reference_share: of the pairs.
        seed: of all.

    Raises:
        InputError: a table asks for more comparisons than there are pairs, or an impossible argument.

    Example:
        >>> sensory_anchors(n_pixels=64, n_references=4, n_tables=2, n_comparisons=3, width=8).shape
        torch.Size([2, 3, 2])
    """
    _check(n_pixels, n_tables, n_comparisons)
    if n_references < 0 or width < 0 or (width and n_pixels % width):
        raise InputError(
            f"n_references must not be negative and width must divide n_pixels = {n_pixels}; "
            f"got {n_references} and {width}"
        )
    if not 0 < radius < math.inf or not 0 <= reference_share <= 1:
        raise InputError(f"radius must be positive, reference_share in [0, 1]; got {radius} and {reference_share}")
    rng = _generator(seed)
    chosen = np.empty((n_tables, n_comparisons, 2), dtype=np.int32)
    for table in chosen:
        held: set[tuple[int, int]] = set()
        for comparison in table:
            threshold = n_references > 0 and rng.random() < reference_share
            for n_tries in itertools.count():
                choosy = n_tries < _CHOOSY_TRIES
                a = int(rng.integers(n_pixels))
                if choosy and threshold:
                    b = n_pixels + int(rng.integers(n_references))
                elif choosy and width:
                    down, right = np.round(rng.normal(0.0, radius, 2)).astype(int).tolist()
                    row, column = a // width + down, a % width + right
                    if not (0 <= row < n_pixels // width and 0 <= column < width):
                        continue
                    b = row * width + column
                else:  # any pixel: there is no image, or all that is wanted is taken
                    b = int(rng.integers(n_pixels))
                pair = (min(a, b), max(a, b))
                if a != b and pair not in held:
                    break
            held.add(pair)
            comparison[:] = a, b
    return _turn(chosen, rng)


def further_anchors(held: Tensor, drawn: Tensor) -> Tensor:
    """Of each table's ``drawn`` pairs the first n that it does not hold, whichever way round.

    Args:
        held: (n_tables, R, 2) int32.
        drawn: (n_tables, R + n, 2) int32 without repetition within a table: at least n of them are not held.

    Returns:
        (n_tables, n, 2) int32.

    Example:
        >>> held, drawn = torch.tensor([[[0, 1]]]), torch.tensor([[[1, 0], [2, 1]]])
        >>> further_anchors(held, drawn).tolist()
        [[[2, 1]]]
    """
    n = drawn.shape[1] - held.shape[1]
    chosen = []
    for old, new in zip(held.tolist(), drawn.tolist(), strict=True):
        known = {frozenset(pair) for pair in old}
        chosen.append([pair for pair in new if frozenset(pair) not in known][:n])
    return torch.tensor(chosen, dtype=held.dtype).reshape(len(held), n, 2)


def _one_delay_a_pair(delay: np.ndarray) -> Tensor:
    return torch.from_numpy(np.repeat(delay[..., None], 2, axis=-1).astype(np.int32))


def _check_delay(max_delay: int) -> None:
    if not 0 <= max_delay < 1 << 16:
        raise InputError(f"max_delay must lie in [0, 65536); got {max_delay}")


def geometric_delays(n_tables: int, n_comparisons: int, max_delay: int, seed: int = 0) -> Tensor:
    """Delays d in [0, max_delay], P(d) proportional to 2^-d, the same for both neurons: (n_tables, n_comparisons, 2).

    Example:
        >>> int(geometric_delays(n_tables=8, n_comparisons=8, max_delay=7).max()) <= 7
        True
    """
    _check_delay(max_delay)
    rng = _generator(seed)
    weight = 0.5 ** np.arange(max_delay + 1)
    return _one_delay_a_pair(rng.choice(max_delay + 1, (n_tables, n_comparisons), p=weight / weight.sum()))


def uniform_delays(n_tables: int, n_comparisons: int, max_delay: int, seed: int = 0) -> Tensor:
    """Delays uniform in [0, max_delay], the same for both neurons of a pair: (n_tables, n_comparisons, 2) int32.

    Example:
        >>> uniform_delays(n_tables=8, n_comparisons=8, max_delay=7).shape
        torch.Size([8, 8, 2])
    """
    _check_delay(max_delay)
    rng = _generator(seed)
    return _one_delay_a_pair(rng.integers(0, max_delay + 1, (n_tables, n_comparisons)))


def draw_anchors(kind: str, n_inputs: int, n_tables: int, n_comparisons: int, seed: int = 0) -> Tensor:
    """:func:`random_anchors`, :func:`covering_anchors` or :func:`independent_anchors` by name."""
    if kind not in ANCHOR_KINDS:
        raise InputError(f"anchors must be one of {', '.join(ANCHOR_KINDS)}; got {kind!r}")
    draw = {"random": random_anchors, "covering": covering_anchors, "independent": independent_anchors}[kind]
    return draw(n_inputs, n_tables, n_comparisons, seed)


def draw_delays(kind: str, n_tables: int, n_comparisons: int, max_delay: int, seed: int = 0) -> Tensor | None:
    """:func:`geometric_delays` or :func:`uniform_delays` by name; None where no delay is possible."""
    if kind not in DELAY_DISTRIBUTIONS:
        raise InputError(f"delay_distribution must be one of {', '.join(DELAY_DISTRIBUTIONS)}; got {kind!r}")
    _check_delay(max_delay)
    if max_delay == 0:
        return None
    draw = geometric_delays if kind == "geometric" else uniform_delays
    return draw(n_tables, n_comparisons, max_delay, seed)
