"""Tables of contexts: counting their rows and reading them, as definitions and as native kernels.

A context is a list of bytes, the nearest first; there are three kinds of lists, each with tables of its own:

* ``text``: the last four bytes, and hashes of the two, three and four bytes before them;
* ``words``: the last two bytes; of the word so far two of a hash, of the word before two, of that before one;
* ``line``: the column, the last byte, and the byte that stands in the line above where the next one will stand.

In text and words a line break between two words is read as a space.

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

# Kinds of lists, and how many bytes they have: with the one that follows they fill a word.
LISTS = {"text": 7, "words": 7, "line": 3}
MAX_DEPTH = max(LISTS.values())

HISTORY = 128  # bytes that are remembered, for the line above
MAX_COLUMN = 255  # further ones count as this
NO_BYTE = 255  # before a text's beginning, or above a line's end
STATE_SIZE = HISTORY + 5
# Symbols before a position from which its contexts are known, but for longer words.
CONTEXT_LENGTH = 2 * HISTORY + 2
MAX_TEXT = 1 << 28  # bytes that can be counted at once: entries and contexts have numbers of 31 bits

# Least part of a count that is taken away: of a very regular text nothing else would be left for what is new.
_LEAST_DISCOUNT = 0.1
_BLANKS = b" \t\n\v\f\r"


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


def bytes_of_symbols(byte_values: bytes) -> Tensor:
    """The byte of each symbol, the last being that of unseen bytes, 0: (K,) uint8.

    Example:
        >>> bytes_of_symbols(b" a").tolist()
        [32, 97, 0]
    """
    return torch.tensor([*byte_values, 0], dtype=torch.uint8)


def start_state(n_sequences: int) -> Tensor:
    """The state before a text begins: (B, STATE_SIZE) int64.

    The last bytes, the latest first, -1 where there is none; hashes of the word so far, of the word before and of that
    before, 0 where there is none; the column; how long the line before was, with its break, 0 where there is none.
    """
    return torch.tensor([-1] * HISTORY + [0] * 5).repeat(n_sequences, 1)


def letter(byte: int) -> int:
    """What a byte adds to the hash of a word, 0 for those that end one.

    Words are of letters, digits, apostrophes, underscores and whatever is not ASCII; capitals count as small letters.
    The hash forgets all but the last seven.
    """
    inside = byte > 127 or chr(byte).isalnum() or byte in b"'_"
    return bytes([byte]).lower()[0] if inside else 0


def advance_reference(state: list[int], byte: int) -> list[int]:
    """The state after one more byte."""
    last, (word, before, second_before, column, line_before) = state[:HISTORY], state[HISTORY:]
    if last[0] == ord("\n") and last[1] >= 0 and byte not in _BLANKS and last[1] not in _BLANKS:
        last[0] = ord(" ")
    if letter(byte):
        word = word << 5 & 0xFFFFFFFF ^ letter(byte)
    elif word:
        word, before, second_before = 0, word, before
    if byte == ord("\n"):
        column, line_before = 0, column + 1
    else:
        column = min(column + 1, MAX_COLUMN)
    return [byte, *last[:-1], word, before, second_before, column, line_before]


def context_of(state: list[int], kind: str) -> tuple[int, ...]:
    """The bytes of a list, the nearest first."""
    last = [NO_BYTE if byte < 0 else byte for byte in state[:HISTORY]]
    word, before, second_before = (part ^ part >> 16 for part in state[HISTORY : HISTORY + 3])
    column, line_before = state[HISTORY + 3 :]
    if kind == "text":
        return (*last[:4], _hash(last[4:6]), _hash(last[6:9]), _hash(last[9:13]))
    if kind == "words":
        return (*last[:2], *(part >> shift & 255 for part in (word, before) for shift in (0, 8)), second_before & 255)
    above = last[line_before - 1] if column < line_before <= HISTORY else NO_BYTE
    return (column, last[0], above)


def _hash(some: list[int]) -> int:
    found = 0
    for byte in some:
        found = (found << 3 | found >> 5) + byte & 255
    return found


def count_contexts_reference(
    text: np.ndarray, segments: Sequence[tuple[int, int]], byte: Tensor, kind: str, depth: int
) -> ContextRows:
    """The definition of :func:`count_contexts`."""
    n_symbols, byte_of, depth = len(byte), byte.tolist(), min(depth, LISTS[kind])
    met: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(depth + 1)]
    counts: list[dict[tuple[int, ...], Counter[int]]] = [defaultdict(Counter) for _ in range(depth + 1)]
    for begin, end in segments:
        [state] = start_state(1).tolist()
        for t, symbol in enumerate(text[begin:end].tolist()):
            if t > 0:
                context = context_of(state, kind)[:depth]
                counts[depth][context][symbol] += 1
                for k in range(depth + 1):
                    met[k][context[:k]] += 1
            state = advance_reference(state, byte_of[symbol])
    if not counts[depth]:
        raise ValueError("no segment has more than one symbol")
    for k in reversed(range(depth)):
        for context, row in counts[k + 1].items():
            counts[k][context[:-1]].update(row.keys())

    probability: dict[tuple[int, ...], list[float]] = {}
    levels = [
        sorted(context for context in level if not context or met[k - 1][context[:-1]] > 1)
        for k, level in enumerate(counts)
    ]
    children, entries, values = [], [], []
    for k, level in enumerate(levels):
        discount = _discounts([count for row in counts[k].values() for count in row.values()])
        n_children = Counter(longer[:-1] for longer in (levels[k + 1] if k < depth else ()))
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
            children.append(n_children[context])
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


def count_contexts(
    text: np.ndarray, segments: Sequence[tuple[int, int]], byte: Tensor, kind: str, depth: int
) -> ContextRows:
    r"""Rows of all contexts of a text, such that their sum is what interpolated Kneser-Ney smoothing predicts.

    .. math:: P_k(w | h) = \frac{c(hw) - D(c(hw))}{c(h)} + \gamma(h) P_{k-1}(w | h'),\quad
              \gamma(h) = \frac{\sum_w D(c(hw))}{c(h)},\quad
              R_k[h]_w = \log \frac{P_k(w | h)}{\gamma(h) P_{k-1}(w | h')}

    h' is h without its furthest byte, P_{-1} = 1 / K. For the deepest contexts c counts occurrences, for the others the
    different bytes that were met beyond h. What never followed h has R = 0 and no entry: an empty row leaves shorter
    contexts' word. :math:`\sum_k R_k` is log P_D up to a number that is the same for all w. Contexts whose h' was met
    once are left out of the rows (not of the counts): they know no more than h' does.

    Args:
        text: (N,) uint8 symbols below K; N below 2^28.
        segments: (start, end) of the parts that are counted; contexts do not reach across.
        byte: (K,) uint8, at most 256, of each symbol.
        kind: of the lists, one of :data:`LISTS`.
        depth: D, bytes of the deepest contexts; at most those of a list are.

    Raises:
        ValueError: no segment has more than one symbol, or a number is out of range.

    Source: Chen and Goodman, An empirical study of smoothing techniques for language modeling (1999), modified
    Kneser-Ney with three discounts for each length of a context.

    Example:
        >>> text = np.array([0, 1, 0, 1, 0, 1], dtype=np.uint8)
        >>> rows = count_contexts(text, [(0, 6)], bytes_of_symbols(b"a"), "text", depth=1)
        >>> rows.symbol.tolist(), rows.entry_symbol.tolist()   # of all: 0 or 1; after 0, byte 97: 1; after 1, byte 0: 0
        ([0, 0, 97], [0, 1, 0, 1])
    """
    if native is None:
        return count_contexts_reference(text, segments, byte, kind, depth)
    parts = [tuple(map(int, part)) for part in segments]
    counts = native.ContextCounts(np.ascontiguousarray(text), parts, byte.numpy(), list(LISTS).index(kind), depth)
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
    rows: ContextRows, byte: Tensor, kind: str, depth: int, tokens: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition of :func:`read_contexts`."""
    y, after = _read_each_reference(rows, byte, kind, depth, tokens, state)
    summed = y[0]
    for of_depth in y[1:]:
        summed += of_depth
    return summed, after


def _read_each_reference(
    rows: ContextRows, byte: Tensor, kind: str, depth: int, tokens: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows of each depth, (depth + 1, B, T, K): deeper and deeper, as long as the context was met."""
    y = torch.zeros(depth + 1, *tokens.shape, len(byte))
    first_child, first_entry = rows.first_child.tolist(), rows.first_entry.tolist()
    ends = []
    for b, (sequence, now) in enumerate(zip(tokens.tolist(), state.tolist(), strict=True)):
        for t, token in enumerate(sequence):
            now = advance_reference(now, int(byte[token]))
            at = 0
            for k, furthest in enumerate((*context_of(now, kind)[:depth], None)):
                row = slice(first_entry[at], first_entry[at + 1])
                y[k, b, t, rows.entry_symbol[row].long()] = rows.value[row].float()
                children = rows.symbol[first_child[at] : first_child[at + 1]].tolist()
                if furthest not in children:
                    break
                at = first_child[at] + children.index(furthest)
        ends.append(now)
    return y, torch.tensor(ends, dtype=torch.int64).reshape(state.shape)


def read_contexts(
    rows: ContextRows, byte: Tensor, kind: str, depth: int, tokens: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Sum of the rows of the contexts, of 0 to ``depth`` bytes, after each token; and the state after the last.

    .. math:: y_t = \sum_{k=0}^{D} R_k[\mathrm{context}_k(x_{\le t})]

    A context that was never met has an empty row, and so has every deeper one.

    Args:
        rows: of all contexts; on the CPU.
        byte: (K,) uint8, see :func:`bytes_of_symbols`.
        kind: of the lists, one of :data:`LISTS`.
        depth: D; at most as many bytes as a list has are read.
        tokens: (B, T) int64 symbols below K.
        state: (B, STATE_SIZE) int64, what went before: :func:`start_state`, or what an earlier reading returned.

    Returns:
        (B, T, K) float32, and the state, which is the same for all kinds.

    Raises:
        ValueError: the rows are no trie of such contexts, or a symbol or a shape is out of range.

    Example:
        >>> text = np.tile(np.array([0, 1], dtype=np.uint8), 8)
        >>> byte = bytes_of_symbols(b"a")
        >>> rows = count_contexts(text, [(0, 16)], byte, "text", depth=1)
        >>> y, state = read_contexts(rows, byte, "text", 1, torch.tensor([[0, 1]]), start_state(1))
        >>> y.argmax(-1), state[0, :3].tolist()
        (tensor([[1, 0]]), [0, 97, -1])
    """
    return ContextReader(rows, byte, kind, depth).read(tokens, state)


class ContextReader:
    """Rows that were found to be a trie, for any number of readings as :func:`read_contexts` does them.

    Args:
        rows: of all contexts; on the CPU. They must not change meanwhile.
        byte: (K,) uint8.
        kind: of the lists.
        depth: D.

    Raises:
        ValueError: they cannot be read.
    """

    def __init__(self, rows: ContextRows, byte: Tensor, kind: str, depth: int):
        self._rows, self._byte, self._kind, self._depth = rows, byte, kind, min(depth, LISTS[kind])
        self._native = None
        if native is None or rows.value.dtype != torch.float32:
            _check_rows(rows, self._depth, len(byte))
        else:
            arrays = (part.numpy() for part in (*rows, byte))
            self._native = native.ContextReader(*arrays, list(LISTS).index(kind), self._depth)

    def read(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Sums (B, T, K) after each of the tokens (B, T), and the state after the last."""
        return self.read_all([self], tokens, state)

    def each(self, tokens: Tensor, state: Tensor) -> Tensor:
        """The rows of each depth by themselves, (depth + 1, B, T, K)."""
        if not self._runs_native():
            return _read_each_reference(self._rows, self._byte, self._kind, self._depth, tokens, state)[0]
        y = np.empty((self._depth + 1, *tokens.shape, len(self._byte)), dtype=np.float32)
        after = state.clone(memory_format=torch.contiguous_format)
        self._native.each(tokens.contiguous().numpy(), after.numpy(), y, torch.get_num_threads())
        return torch.from_numpy(y)

    def _runs_native(self) -> bool:
        return self._native is not None and runs_native(self._rows.value)

    @staticmethod
    def read_all(readers: Sequence[ContextReader], tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of what these readers, of one vocabulary, read; added in their order. And the state."""
        if not all(reader._runs_native() for reader in readers):
            (y, after), *others = (
                read_contexts_reference(reader._rows, reader._byte, reader._kind, reader._depth, tokens, state)
                for reader in readers
            )
            for of_one, _ in others:
                y += of_one
            return y, after
        y = np.empty((*tokens.shape, len(readers[0]._byte)), dtype=np.float32)
        after = state.clone(memory_format=torch.contiguous_format)
        native.ContextReader.sum(
            [reader._native for reader in readers],
            tokens.contiguous().numpy(),
            after.numpy(),
            y,
            torch.get_num_threads(),
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
    if not _ascend_between(rows.symbol, child):
        raise ValueError("symbol must ascend among the children of each context")
    if not _ascend_between(rows.entry_symbol, entry):
        raise ValueError("entry_symbol must ascend in each row")


def _ascend_between(symbols: Tensor, begins: Tensor) -> bool:
    """Whether symbols ascend but where a run of them begins; a first one is of no run's inside."""
    is_begin = torch.zeros(len(symbols) + 1, dtype=torch.bool)
    is_begin[begins.long()] = True
    return bool((is_begin[1:-1] | (symbols[1:] > symbols[:-1])).all())
