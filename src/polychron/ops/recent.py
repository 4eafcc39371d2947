"""Tables that are written while a text is read: what followed a context when it was last met, as definition and kernel.

A place in such a table remembers which symbol followed its context last, how many times in a row, and the symbol before
that with its run. What a reading adds to these symbols' logits depends on the lengths of the runs alone, in classes:
``cells`` (I, 2, classes), fitted after training. What is written is not the model's but a text's: it begins empty.

Where a text ends in a run of one byte, nothing is read and nothing written: a model that writes, and remembers what it
writes, would find in every space of an indentation one more reason for the next.

Axes: B sequence, T position, K symbol, I table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from polychron.ops.contexts import NO_BYTE, STATE_SIZE, advance_reference, context_of, start_state
from polychron.ops.dispatch import native, native_on, runs_native

# What a table knows of a text: so many bytes of a kind of list (polychron.ops.contexts).
RECENT_CONTEXTS = (("text", 3), ("text", 5), ("text", 7), ("words", 4), ("line", 3))
N_RECENT = len(RECENT_CONTEXTS)
PLACE_BITS = 15
N_PLACES = 1 << PLACE_BITS
LONGEST_RUNS = (1, 2, 3, 4, 6, 9, 14)  # of the classes before the last, in which are all longer ones
N_RUN_CLASSES = len(LONGEST_RUNS) + 1
CELLS_SHAPE = (N_RECENT, 2, N_RUN_CLASSES)
N_CELLS = N_RECENT * 2 * N_RUN_CLASSES
RECENT_STATE_SIZE = STATE_SIZE + N_RECENT + N_RECENT * N_PLACES

_MOST_RUN = 255
_BYTES_OF_A_RUN = 3
_WORD = 0xFFFFFFFF


def start_recent_state(n_sequences: int) -> Tensor:
    """The state before a text begins: (B, RECENT_STATE_SIZE) int64.

    What contexts are made of (:func:`polychron.ops.contexts.start_state`), the key of each table's context, and the
    places of each table: key, symbol before, its run, latest symbol, its run, of 32 and four times 8 bits. Where the
    latest run is 0, nothing was written.
    """
    empty = torch.zeros(n_sequences, N_RECENT + N_RECENT * N_PLACES, dtype=torch.int64)
    return torch.cat([start_state(n_sequences), empty], dim=1)


def key_of(context: tuple[int, ...]) -> int:
    """A hash of a context's bytes, 32 bits, by Marsaglia's xorshift; the highest bits say which place is the context's.

    Example:
        >>> key_of((1,)), key_of(())   # the first number after 1 in Marsaglia, Xorshift RNGs (2003), with 13, 17, 5
        (270369, 0)
    """
    h = 0
    for byte in context:
        h = h + byte & _WORD
        h ^= h << 13 & _WORD
        h ^= h >> 17
        h ^= h << 5 & _WORD
    return h


def ends_in_run(text: Sequence[int]) -> bool:
    """Whether the last three bytes, the latest first, are one; they are before a text begins, where nothing is known.

    Example:
        >>> ends_in_run([32, 32, 32, 10]), ends_in_run([32, 32, 10, 10])
        (True, False)
    """
    return len({NO_BYTE if byte < 0 else byte for byte in text[:_BYTES_OF_A_RUN]}) == 1


def run_class(run: int) -> int:
    """The class of a run's length, from 1 on."""
    return sum(run > longest for longest in LONGEST_RUNS)


def write_reference(place: tuple[int, int, int, int, int], key: int, symbol: int) -> tuple[int, int, int, int, int]:
    """A place (key, symbol before, its run, latest, its run) after ``symbol`` followed the context with this key."""
    known, before, run_before, latest, run = place
    if run == 0 or known != key:
        return key, 0, 0, symbol, 1
    if symbol == latest:
        return key, before, run_before, latest, min(run + 1, _MOST_RUN)
    return key, latest, run, symbol, 1


def find_recent_reference(byte: Tensor, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of :func:`find_recent`."""
    found: list[list[list[tuple[int, int]]]] = []
    after = state.clone()
    for b, sequence in enumerate(tokens.tolist()):
        text = state[b, :STATE_SIZE].tolist()
        keys = state[b, STATE_SIZE : STATE_SIZE + N_RECENT].tolist()
        words = after[b, STATE_SIZE + N_RECENT :].view(N_RECENT, N_PLACES)
        of_sequence = []
        for token in sequence:
            for table, key in enumerate(() if ends_in_run(text) else keys):
                at = key >> (32 - PLACE_BITS)
                words[table, at] = _join(write_reference(_split(int(words[table, at])), key, token))
            text = advance_reference(text, int(byte[token]))
            keys = [key_of(context_of(text, kind)[:depth]) for kind, depth in RECENT_CONTEXTS]
            of_sequence.append([])
            reads = not ends_in_run(text)
            for table, key in enumerate(keys):
                known, before, run_before, latest, run = _split(int(words[table, key >> (32 - PLACE_BITS)]))
                for which, (symbol, length) in enumerate(((latest, run), (before, run_before))):
                    is_there = run > 0 and known == key and length > 0 and symbol < len(byte) and reads
                    cell = (2 * table + which) * N_RUN_CLASSES + run_class(length)
                    of_sequence[-1].append((symbol, cell) if is_there else (0, N_CELLS))
        found.append(of_sequence)
        after[b, : STATE_SIZE + N_RECENT] = torch.tensor(text + keys)
    pairs = torch.tensor(found, dtype=torch.uint8).reshape(*tokens.shape, 2 * N_RECENT, 2)
    return pairs[..., 0], pairs[..., 1], after


def _split(word: int) -> tuple[int, int, int, int, int]:
    return word >> 32 & _WORD, word >> 24 & 255, word >> 16 & 255, word >> 8 & 255, word & 255


def _join(place: tuple[int, int, int, int, int]) -> int:
    key, before, run_before, latest, run = place
    word = key << 32 | before << 24 | run_before << 16 | latest << 8 | run
    return word - (1 << 64) if word >> 63 else word


def find_recent(byte: Tensor, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Each token is written behind the contexts before it; then, what had followed the contexts after it.

    Neither where the text ends in a run (:func:`ends_in_run`).

    Args:
        byte: (K,) uint8, see :func:`polychron.ops.contexts.bytes_of_symbols`.
        tokens: (B, T) int64 symbols below K.
        state: (B, RECENT_STATE_SIZE) int64: :func:`start_recent_state`, or what an earlier call returned. None: the
            texts begin here, and no state is wanted, which saves its megabyte.

    Returns:
        Symbols (B, T, 2 I) uint8, of each table the latest and the one before it; cells (B, T, 2 I) uint8, numbers of
        :data:`CELLS_SHAPE` in one row, ``N_CELLS`` where there is nothing; the state after the last token, or None.

    Raises:
        ValueError: a symbol or a shape is out of range.

    Example:
        >>> byte = torch.tensor([97, 98, 99, 0], dtype=torch.uint8)
        >>> symbols, cells, _ = find_recent(byte, torch.tensor([[0, 0, 1, 2, 0, 0, 1]]), start_recent_state(1))
        >>> symbols[0, -1, 0].item(), cells[0, -1, 0].item()   # after "aab" once "c"
        (2, 0)
    """
    if not native_on(byte.device):
        found = find_recent_reference(byte, tokens, start_recent_state(len(tokens)) if state is None else state)
        return found if state is not None else (*found[:2], None)
    symbols = np.empty((*tokens.shape, 2 * N_RECENT), dtype=np.uint8)
    cells = np.empty_like(symbols)
    after = None if state is None else state.clone(memory_format=torch.contiguous_format)
    numbers = None if after is None else after.numpy()
    native.find_recent(byte.numpy(), tokens.contiguous().numpy(), numbers, symbols, cells, torch.get_num_threads())
    return torch.from_numpy(symbols), torch.from_numpy(cells), after


def add_recent_reference(y: Tensor, cells: Tensor, symbols: Tensor, found: Tensor) -> Tensor:
    """The definition of :func:`add_recent`."""
    added = torch.cat([cells.flatten(), cells.new_zeros(1)]).to(y.dtype)[found.long()]
    for of_one, symbol in zip(added.unbind(-1), symbols.long().unbind(-1), strict=True):
        y.scatter_add_(-1, symbol[..., None], of_one[..., None])
    return y


def add_recent(y: Tensor, cells: Tensor, symbols: Tensor, found: Tensor) -> Tensor:
    r"""Adds to logits what stands in the cells that were found, table after table, the latest symbol first.

    .. math:: y_t[\mathrm{symbol}_{t,i}] \mathrel{+}= \mathrm{cells}[\mathrm{found}_{t,i}]

    Args:
        y: (..., K) floating, changed.
        cells: CELLS_SHAPE floating.
        symbols: (..., 2 I) uint8, or whole numbers of another type.
        found: (..., 2 I) of the same type, ``N_CELLS``: none.

    Returns:
        y.

    Raises:
        ValueError: a symbol or cell is out of range, or shapes do not fit together; where native kernels run, which
            they do for float32 and uint8. Others leave that to PyTorch.
    """
    runs_here = runs_native(y) and runs_native(cells) and y.is_contiguous()
    if not (runs_here and symbols.dtype == found.dtype == torch.uint8):
        return add_recent_reference(y, cells, symbols, found)
    native.add_recent(
        y.view(-1, y.shape[-1]).numpy(),
        cells.reshape(-1).numpy(),
        symbols.reshape(-1, symbols.shape[-1]).contiguous().numpy(),
        found.reshape(-1, found.shape[-1]).contiguous().numpy(),
        torch.get_num_threads(),
    )
    return y
