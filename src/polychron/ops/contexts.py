"""Tables of contexts: counting their rows and reading them, as definitions and as native kernels.

A context is a list of bytes, the nearest first: the last three symbols; of the word so far two bytes of a hash; of the
word before likewise.

Axes: B sequence, T position, K symbol, C context, E entry.
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
MAX_DEPTH = 7  # with the byte that follows they fill a word
# Symbols before a position from which its context is known, but for longer words.
CONTEXT_LENGTH = 64
STATE_SIZE = 5
MAX_TEXT = 1 << 28  # bytes that can be counted at once: entries and contexts have numbers of 31 bits

# Least part of a count that is taken away: of a very regular text nothing else would be left for what is new.
_LEAST_DISCOUNT = 0.1


class ContextRows(NamedTuple):
    """Rows of all contexts that were met, as a trie: the children of a context are one byte deeper.

    Level by level, and in order within a level: the children of context c are ``first_child[c]`` to
    ``first_child[c + 1] - 1``, its row the entries ``first_entry[c]`` to ``first_entry[c + 1] - 1``. Context 0 is the
    empty one.

    Attributes:
        symbol: (C,) uint8, a context's furthest byte.
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


def letters(byte_values: bytes) -> Tensor:
    """What each symbol adds to the hash of a word, 0 for those that end one: (K,) uint8, the last for unseen bytes.

    Words are of letters, digits, apostrophes, underscores and whatever is not ASCII; capitals count as small letters.

    Example:
        >>> letters(b" Aa").tolist()
        [0, 97, 97, 0]
    """
    in_words = [byte > 127 or chr(byte).isalnum() or byte in b"'_" for byte in byte_values]
    small = byte_values.lower()  # of ASCII alone
    return torch.tensor(
        [b if inside else 0 for b, inside in zip(small, in_words, strict=True)] + [0], dtype=torch.uint8
    )


def start_state(n_sequences: int) -> Tensor:
    """The state before a text begins: (B, 5) int64, no symbols and no words."""
    return torch.tensor([NO_SYMBOL] * 3 + [0, 0]).repeat(n_sequences, 1)


def advance_reference(state: list[int], symbol: int, letter: int) -> list[int]:
    """The state after one more symbol: the last three, the latest first, then the word's hash and the one before."""
    last, second, _, word, before = state
    if letter:
        word = (word << 5 | word >> 27) & 0xFFFFFFFF ^ letter
    elif word:
        word, before = 0, word
    return [symbol, last, second, word, before]


def context_of(state: list[int]) -> tuple[int, ...]:
    """The context's bytes, the nearest first; fewer than seven where the text has just begun."""
    folded = [word ^ word >> 16 for word in state[3:]]
    if NO_SYMBOL in state[:3]:
        return tuple(state[: state.index(NO_SYMBOL)])
    return (*state[:3], *(part >> shift & 255 for part in folded for shift in (0, 8)))


def count_contexts_reference(
    text: np.ndarray, segments: Sequence[tuple[int, int]], letter: Tensor, depth: int
) -> ContextRows:
    """The definition of :func:`count_contexts`."""
    n_symbols, adds = len(letter), letter.tolist()
    counts: list[dict[tuple[int, ...], Counter[int]]] = [defaultdict(Counter) for _ in range(depth + 1)]
    for begin, end in segments:
        [state] = start_state(1).tolist()
        for symbol in text[begin:end].tolist():
            context = context_of(state)
            if len(context) == MAX_DEPTH:
                counts[depth][context[:depth]][symbol] += 1
            state = advance_reference(state, symbol, adds[symbol])
    if not counts[depth]:
        raise ValueError("no segment has more than three symbols")
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


def count_contexts(text: np.ndarray, segments: Sequence[tuple[int, int]], letter: Tensor, depth: int) -> ContextRows:
    r"""Rows of all contexts of a text, such that their sum is what interpolated Kneser-Ney smoothing predicts.

    .. math:: P_k(w | h) = \frac{c(hw) - D(c(hw))}{c(h)} + \gamma(h) P_{k-1}(w | h'),\quad
              \gamma(h) = \frac{\sum_w D(c(hw))}{c(h)},\quad
              R_k[h]_w = \log \frac{P_k(w | h)}{\gamma(h) P_{k-1}(w | h')}

    h' is h without its furthest byte, P_{-1} = 1 / K. For the deepest contexts c counts occurrences, for the others the
    different bytes that were met beyond h. What never followed h has R = 0 and no entry: an empty row leaves shorter
    contexts' word. :math:`\sum_k R_k` is log P_D up to a number that is the same for all w.

    Args:
        text: (N,) uint8 symbols below K; N below 2^28.
        segments: (start, end) of the parts that are counted; contexts do not reach across.
        letter: (K,) uint8, at most 256, what each symbol adds to a word's hash; 0: it ends the word.
        depth: D, bytes of the deepest contexts, at most 7.

    Raises:
        ValueError: no segment has more than three symbols, or a number is out of range.

    Source: Chen and Goodman, An empirical study of smoothing techniques for language modeling (1999), modified
    Kneser-Ney with three discounts for each length of a context.

    Example:
        >>> text = np.array([0, 1, 0, 1, 0, 1], dtype=np.uint8)
        >>> rows = count_contexts(text, [(0, 6)], letters(b"a"), depth=1)
        >>> rows.symbol.tolist(), rows.entry_symbol.tolist()   # after nothing: 0 or 1; after 0: 1; after 1: 0
        ([0, 0, 1], [0, 1, 1, 0])
    """
    if native is None:
        return count_contexts_reference(text, segments, letter, depth)
    parts = [tuple(map(int, part)) for part in segments]
    counts = native.ContextCounts(np.ascontiguousarray(text), parts, letter.numpy(), depth)
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


def read_contexts_reference(
    rows: ContextRows, letter: Tensor, depth: int, tokens: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition of :func:`read_contexts`: deeper and deeper, as long as the context was met."""
    y = torch.zeros(*tokens.shape, len(letter))
    first_child, first_entry = rows.first_child.tolist(), rows.first_entry.tolist()
    ends = []
    for b, (sequence, now) in enumerate(zip(tokens.tolist(), state.tolist(), strict=True)):
        for t, token in enumerate(sequence):
            now = advance_reference(now, token, int(letter[token]))
            at = 0
            for symbol in (*context_of(now)[:depth], None):
                row = slice(first_entry[at], first_entry[at + 1])
                y[b, t, rows.entry_symbol[row].long()] += rows.value[row]
                children = rows.symbol[first_child[at] : first_child[at + 1]].tolist()
                if symbol not in children:
                    break
                at = first_child[at] + children.index(symbol)
        ends.append(now)
    return y, torch.tensor(ends, dtype=torch.int64).reshape(state.shape)


def read_contexts(
    rows: ContextRows, letter: Tensor, depth: int, tokens: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Sum of the rows of the contexts, of 0 to ``depth`` bytes, after each token; and the state after the last.

    .. math:: y_t = \sum_{k=0}^{D} R_k[\mathrm{context}_k(x_{\le t})]

    A context that was never met has an empty row, and so has every deeper one.

    Args:
        rows: of all contexts; on the CPU.
        letter: (K,) uint8, see :func:`letters`.
        depth: D, at most 7.
        tokens: (B, T) int64 symbols below K.
        state: (B, 5) int64, what went before: :func:`start_state`, or what an earlier reading returned.

    Returns:
        (B, T, K) float32, and (B, 5) int64.

    Raises:
        ValueError: the rows are no trie of such contexts, or a symbol or a shape is out of range.

    Example:
        >>> text = np.tile(np.array([0, 1], dtype=np.uint8), 8)
        >>> rows = count_contexts(text, [(0, 16)], letters(b"a"), depth=1)
        >>> y, state = read_contexts(rows, letters(b"a"), 1, torch.tensor([[0, 1]]), start_state(1))
        >>> y.argmax(-1), state.tolist()
        (tensor([[1, 0]]), [[1, 0, -1, 0, 97]])
    """
    return ContextReader(rows, letter, depth).read(tokens, state)


class ContextReader:
    """Rows that were found to be a trie, for any number of readings as :func:`read_contexts` does them.

    Args:
        rows: of all contexts; on the CPU. All but their values must not change meanwhile.
        letter: (K,) uint8.
        depth: D.

    Raises:
        ValueError: they cannot be read.
    """

    def __init__(self, rows: ContextRows, letter: Tensor, depth: int):
        self._rows, self._letter, self._depth = rows, letter, depth
        self._native = None
        if native is None:
            _check_rows(rows, depth, len(letter))
        else:
            self._native = native.ContextReader(*(part.numpy() for part in (*rows[:4], letter)), depth)

    def read(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Sums (B, T, K) after each of the tokens (B, T), and the state after the last."""
        if not runs_native(self._rows.value):
            return read_contexts_reference(self._rows, self._letter, self._depth, tokens, state)
        y = np.zeros((*tokens.shape, len(self._letter)), dtype=np.float32)
        after = state.clone(memory_format=torch.contiguous_format)
        self._native.add(
            self._rows.value.numpy(), tokens.contiguous().numpy(), after.numpy(), y, torch.get_num_threads()
        )
        return torch.from_numpy(y), after


def _check_rows(rows: ContextRows, depth: int, n_symbols: int) -> None:
    """Raises ValueError unless the rows, which may come from a file, are a trie of such contexts and symbols."""
    child, entry = rows.first_child, rows.first_entry
    if not 0 <= depth <= MAX_DEPTH or len(rows.symbol) == 0:
        raise ValueError(f"there must be the empty context at least, and contexts of at most {MAX_DEPTH} bytes")
    if int(child[0]) != 1 or int(child[-1]) != len(rows.symbol) or bool((child[1:] < child[:-1]).any()):
        raise ValueError("first_child must ascend from 1 to the number of contexts")
    if bool((child[:-1] <= torch.arange(len(rows.symbol))).any()):
        raise ValueError("children must come after their parents")
    if int(entry[0]) != 0 or int(entry[-1]) != len(rows.value) or bool((entry[1:] < entry[:-1]).any()):
        raise ValueError("first_entry must ascend from 0 to the number of entries")
    if len(rows.value) and int(rows.entry_symbol.max()) >= n_symbols:
        raise ValueError(f"entry_symbol must lie below {n_symbols}")
    begins = torch.zeros(len(rows.value) + 1, dtype=torch.bool)
    begins[entry.long()] = True
    if bool((~begins[1:-1] & (rows.entry_symbol[1:] <= rows.entry_symbol[:-1])).any()):
        raise ValueError("entry_symbol must ascend in each row")
