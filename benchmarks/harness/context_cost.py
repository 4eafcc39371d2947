"""What one byte costs counted tables of exact contexts: it depends on the text, so it is averaged over one."""

from __future__ import annotations

import math

import numpy as np

from polychron.nn import ContextTables
from polychron.twins.cost import FLOAT, Cost

_OFFSETS = 4 * 4  # where a context's children and its entries begin and end
_SYMBOL = 1


def context_cost(contexts: ContextTables, tokens: np.ndarray) -> Cost:
    """Mean over the positions of a text (N,): for every context met a search among its children, and its row added.

    A search of n children by halves compares ceil(log2(n + 1)) symbols.
    """
    symbol = contexts.symbol.numpy()
    first_child, first_entry = contexts.first_child.numpy(), contexts.first_entry.numpy()
    operations = n_bytes = 0
    for end in range(contexts.depth, len(tokens)):
        context = 0
        for k in range(contexts.depth + 1):
            n_entries = int(first_entry[context + 1]) - int(first_entry[context])
            operations += n_entries
            n_bytes += n_entries * (FLOAT + _SYMBOL) + _OFFSETS
            if k == contexts.depth:
                break
            first, last = int(first_child[context]), int(first_child[context + 1])
            compared = math.ceil(math.log2(last - first + 1))
            operations += compared
            n_bytes += compared * _SYMBOL
            at = first + int(np.searchsorted(symbol[first:last], tokens[end - k - 1]))
            if at == last or symbol[at] != tokens[end - k - 1]:
                break
            context = at
    n = max(1, len(tokens) - contexts.depth)
    return Cost(operations / n, n_bytes / n)
