"""What one byte costs counted tables of exact contexts: it depends on the text, so it is averaged over one."""

from __future__ import annotations

import math

import numpy as np

from polychron.nn import ContextTables
from polychron.ops.contexts import LISTS, ContextRows, advance_reference, context_of, start_state
from polychron.ops.recent import LONGEST_RUNS, N_RECENT, RECENT_CONTEXTS
from polychron.twins.cost import FLOAT, Cost

_OFFSETS = 4 * 4  # where a context's children and its entries begin and end
_SYMBOL = 1
_PLACE = 8


def context_cost(contexts: ContextTables, tokens: np.ndarray) -> Cost:
    """Mean over the positions of a text (N,): for every context met a search among its children, and its row added.

    A search of n children by halves compares ceil(log2(n + 1)) symbols.
    """
    kinds = {kind: of_kind.rows for kind, of_kind in zip(LISTS, contexts.lists, strict=True)}
    byte, [state] = contexts.byte.tolist(), start_state(1).tolist()
    operations = n_bytes = 0
    for token in tokens.tolist():
        state = advance_reference(state, byte[token])
        for kind, rows in kinds.items():
            cost = _path_cost(rows, context_of(state, kind)[: contexts.depth])
            operations, n_bytes = operations + cost.operations, n_bytes + cost.bytes
    n = max(1, len(tokens))
    return Cost(operations / n, n_bytes / n)


def recent_cost() -> Cost:
    """What tables that are written while a text is read cost at most.

    A token is written to each, two symbols are read of each. Of each byte of a context's key an addition and three
    times a shift and an exclusive or; of a place written its key and symbol compared, four numbers changed; of one read
    its key and run compared; of a symbol its run's class found by seven comparisons, and its cell added.
    """
    keys = 7 * sum(depth for _, depth in RECENT_CONTEXTS)
    places = N_RECENT * (2 + 4 + 2)
    symbols = 2 * N_RECENT * (len(LONGEST_RUNS) + 1)
    return Cost(keys + places + symbols, N_RECENT * 3 * _PLACE + 2 * N_RECENT * FLOAT)


def _path_cost(rows: ContextRows, known: tuple[int, ...]) -> Cost:
    """Of the contexts that some bytes begin with, from the empty one to the deepest that was met."""
    symbol, first_child, first_entry = (part.numpy() for part in rows[:3])
    operations = n_bytes = context = 0
    for byte in (*known, None):
        n_entries = int(first_entry[context + 1]) - int(first_entry[context])
        operations += n_entries
        n_bytes += n_entries * (FLOAT + _SYMBOL) + _OFFSETS
        if byte is None:
            break
        first, last = int(first_child[context]), int(first_child[context + 1])
        compared = math.ceil(math.log2(last - first + 1))
        operations += compared
        n_bytes += compared * _SYMBOL
        at = first + int(np.searchsorted(symbol[first:last], byte))
        if at == last or symbol[at] != byte:
            break
        context = at
    return Cost(operations, n_bytes)
