"""Tables of exact contexts: counting their rows and reading them, as definitions and as native kernels.

Axes: B sequence, T position, L position before the first, K symbol, C context, E entry.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from polychron.ops.dispatch import native, runs_native

NO_SYMBOL = -1
MAX_CONTEXT_BYTES = 7  # with the byte that follows they fill a word
MAX_TEXT = 1 << 28

# Least part of a count that is taken away: of a very regular text nothing else would be left for what is new.
_LEAST_DISCOUNT = 0.1


class ContextRows(NamedTuple):
    """Rows of all contexts that were met, as a trie: the children of a context are one byte older.

    Level by level, and in order within a level: the children of context c are ``first_child[c]`` to
    ``first_child[c + 1] - 1``, its row the entries ``first_entry[c]`` to ``first_entry[c + 1] - 1``. Context 0 is the
    empty one.

    Attributes:
        symbol: (C,) uint8, a context's oldest byte.
        first_child: (C + 1,) int32.
        first_entry: (C + 1,) int32.
        entry_symbol: (E,) uint8, what followed.
        value: (E,) float32, added to that symbol's logit.
    """

    symbol: Tensor
    first_child: Tensor
    first_entry: Tensor
    entry_symbol: Tensor
    value: Tensor


def count_contexts_reference(
    text: np.ndarray, segments: Sequence[tuple[int, int]], depth: int, n_symbols: int
) -> ContextRows:
    """The definition of :func:`count_contexts`. A context is a tuple of bytes, the latest first."""
    counts: list[dict[tuple[int, ...], Counter[int]]] = [defaultdict(Counter) for _ in range(depth + 1)]
    for begin, end in segments:
        part = text[begin:end].tolist()
        for t in range(depth, len(part)):
            counts[depth][tuple(reversed(part[t - depth : t]))][part[t]] += 1
    if not counts[depth]:
        raise ValueError("no segment is longer than a context")
    for k in reversed(range(depth)):
        for context, row in counts[k + 1].items():
            counts[k][context[:-1]].update(row.keys())

    probability: dict[tuple[int, ...], list[float]] = {}
    levels = [sorted(level) for level in counts]
    children, entries, values = [], [], []
    for k, level in enumerate(levels):
        discount = _discounts([count for row in counts[k].values() for count in row.values()])
        for context in level:
            row = counts[k][context]
            total = sum(row.values())
            gamma = sum(discount[min(count, 3)] for count in row.values()) / total
            shorter = probability[context[:-1]] if context else [1 / n_symbols] * n_symbols
            own = probability[context] = [gamma * p for p in shorter]
            for symbol in sorted(row):
                own[symbol] += (row[symbol] - discount[min(row[symbol], 3)]) / total
                values.append(math.log(own[symbol] / (gamma * shorter[symbol])))
            entries.append(sorted(row))
            children.append(sum(longer[:-1] == context for longer in levels[k + 1]) if k < depth else 0)
    return ContextRows(
        torch.tensor([context[-1] if context else 0 for level in levels for context in level], dtype=torch.uint8),
        torch.tensor(np.cumsum([1, *children]), dtype=torch.int32),
        torch.tensor(np.cumsum([0, *map(len, entries)]), dtype=torch.int32),
        torch.tensor([symbol for row in entries for symbol in row], dtype=torch.uint8),
        torch.tensor(values, dtype=torch.float32),
    )


def _discounts(counts: list[int]) -> list[float]:
    """D of a count of 0, 1, 2, and of more, from how many counts are 1, 2, 3 and 4."""
    n = [sum(count == r for count in counts) for r in range(5)]
    found = [0.0, 0.5, 0.5, 0.5]
    if n[1] and n[2]:
        y = n[1] / (n[1] + 2 * n[2])
        for r in (1, 2, 3):
            if n[r]:
                found[r] = min(max(r - (r + 1) * y * n[r + 1] / n[r], _LEAST_DISCOUNT), r)
    return found


def count_contexts(text: np.ndarray, segments: Sequence[tuple[int, int]], depth: int, n_symbols: int) -> ContextRows:
    r"""Rows of all contexts of a text, such that their sum is what interpolated Kneser-Ney smoothing predicts.

    .. math:: P_k(w | h) = \frac{c(hw) - D(c(hw))}{c(h)} + \gamma(h) P_{k-1}(w | h'),\quad
              \gamma(h) = \frac{\sum_w D(c(hw))}{c(h)},\quad
              R_k[h]_w = \log \frac{P_k(w | h)}{\gamma(h) P_{k-1}(w | h')}

    h' is h without its oldest byte, P_{-1} = 1 / K. For the longest contexts c counts occurrences, for the others the
    bytes that were met before hw. What never followed h has R = 0 and no entry: an empty row leaves shorter contexts'
    word. :math:`\sum_k R_k` is log P_D up to a number that is the same for all w.

    Args:
        text: (N,) uint8 symbols below K; N below 2^28.
        segments: (start, end) of the parts that are counted; contexts do not reach across.
        depth: D, bytes of the longest contexts, at most 7.
        n_symbols: K, at most 256.

    Raises:
        ValueError: no segment is longer than a context, or a number is out of range.

    Source: Chen and Goodman, An empirical study of smoothing techniques for language modeling (1999), modified
    Kneser-Ney with three discounts for each length of a context.

    Example:
        >>> rows = count_contexts(np.array([0, 1, 0, 1, 0], dtype=np.uint8), [(0, 5)], depth=1, n_symbols=2)
        >>> rows.symbol.tolist(), rows.entry_symbol.tolist()   # after nothing: 0 or 1; after 0: 1; after 1: 0
        ([0, 0, 1], [0, 1, 1, 0])
    """
    if native is None:
        return count_contexts_reference(text, segments, depth, n_symbols)
    counts = native.ContextCounts(
        np.ascontiguousarray(text), [tuple(map(int, part)) for part in segments], n_symbols, depth
    )
    rows = empty_rows(counts.n_contexts, counts.n_entries)
    counts.rows(*(part.numpy() for part in rows))
    return rows


def empty_rows(n_contexts: int, n_entries: int) -> ContextRows:
    """Room for so many contexts and entries, not filled."""
    return ContextRows(
        torch.empty(n_contexts, dtype=torch.uint8),
        torch.empty(n_contexts + 1, dtype=torch.int32),
        torch.empty(n_contexts + 1, dtype=torch.int32),
        torch.empty(n_entries, dtype=torch.uint8),
        torch.empty(n_entries, dtype=torch.float32),
    )


def flaw_of_rows(rows: ContextRows, depth: int, n_symbols: int) -> str | None:
    """Why these rows, which may come from a file, cannot be read; None where they can."""
    child, entry = rows.first_child, rows.first_entry
    if not 0 <= depth <= MAX_CONTEXT_BYTES or len(rows.symbol) == 0:
        return f"there must be the empty context at least, and contexts of at most {MAX_CONTEXT_BYTES} bytes"
    if int(child[0]) != 1 or int(child[-1]) != len(rows.symbol) or bool((child[1:] < child[:-1]).any()):
        return "first_child must ascend from 1 to the number of contexts"
    if bool((child[:-1] <= torch.arange(len(rows.symbol))).any()):
        return "children must come after their parents"
    if int(entry[0]) != 0 or int(entry[-1]) != len(rows.value) or bool((entry[1:] < entry[:-1]).any()):
        return "first_entry must ascend from 0 to the number of entries"
    if len(rows.value) and int(rows.entry_symbol.max()) >= n_symbols:
        return f"entry_symbol must lie below {n_symbols}"
    begins = torch.zeros(len(rows.value) + 1, dtype=torch.bool)
    begins[entry.long()] = True
    if bool((~begins[1:-1] & (rows.entry_symbol[1:] <= rows.entry_symbol[:-1])).any()):
        return "entry_symbol must ascend in each row"
    return None


def read_contexts_reference(rows: ContextRows, depth: int, tokens: Tensor, n_positions: int, n_symbols: int) -> Tensor:
    """The definition of :func:`read_contexts`: from the latest byte back, as long as the context was met."""
    y = torch.zeros(len(tokens), n_positions, n_symbols)
    first_child, first_entry = rows.first_child.tolist(), rows.first_entry.tolist()
    for b, sequence in enumerate(tokens.tolist()):
        for t in range(n_positions):
            end = len(sequence) - n_positions + t + 1
            context = 0
            for k in range(depth + 1):
                row = slice(first_entry[context], first_entry[context + 1])
                y[b, t, rows.entry_symbol[row].long()] += rows.value[row]
                if k == depth or k == end or sequence[end - k - 1] == NO_SYMBOL:
                    break
                children = rows.symbol[first_child[context] : first_child[context + 1]].tolist()
                if sequence[end - k - 1] not in children:
                    break
                context = first_child[context] + children.index(sequence[end - k - 1])
    return y


def read_contexts(rows: ContextRows, depth: int, tokens: Tensor, n_positions: int, n_symbols: int) -> Tensor:
    r"""Sum of the rows of the contexts, of 0 to ``depth`` bytes, that end at each position.

    .. math:: y_t = \sum_{k=0}^{D} R_k[x_{t-k+1} \dots x_t]

    A context that was never met has an empty row, and so has every longer one.

    Args:
        rows: of all contexts; on the CPU.
        depth: D, bytes of the longest context, at most 7.
        tokens: (B, L + T) int64 symbols below K, -1 before the text begins.
        n_positions: T; the L tokens before them are context only.
        n_symbols: K.

    Returns:
        (B, T, K) float32.

    Raises:
        ValueError: a symbol or a shape out of range.
    """
    if not runs_native(rows.value):
        return read_contexts_reference(rows, depth, tokens, n_positions, n_symbols)
    y = np.zeros((len(tokens), n_positions, n_symbols), dtype=np.float32)
    native.add_context_rows(
        *(part.numpy() for part in rows), depth, tokens.contiguous().numpy(), y, torch.get_num_threads()
    )
    return torch.from_numpy(y)
