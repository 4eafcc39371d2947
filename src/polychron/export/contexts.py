"""Tables of counted contexts as arrays, cut to what a reading reaches."""

# C context, E entry

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Contexts:
    """The arrays of :class:`polychron.nn.ContextTables`, without children of the deepest contexts: there are none.

    Attributes:
        depth: D, bytes of the deepest contexts.
        letter: (V,) uint8, what a token adds to a word's hash; 0: it ends the word.
        symbol: (C,) uint8, a context's furthest byte.
        first_child: (P + 1,) int32: the children of context c < P are ``first_child[c]`` to ``first_child[c + 1] - 1``;
            contexts from P on are the deepest.
        first_entry: (C + 1,) int32: the row of context c is the entries ``first_entry[c]`` to
            ``first_entry[c + 1] - 1``.
        entry_symbol: (E,) uint8, the token that an entry is added to.
        value: (E,) float32; of an int8 model int16, in the logits' unit.
    """

    depth: int
    letter: np.ndarray
    symbol: np.ndarray
    first_child: np.ndarray
    first_entry: np.ndarray
    entry_symbol: np.ndarray
    value: np.ndarray

    @property
    def n_parents(self) -> int:
        """P, contexts that may have children."""
        return len(self.first_child) - 1

    @property
    def n_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(part.nbytes for part in vars(self).values() if isinstance(part, np.ndarray))


def reachable(
    depth: int,
    letter: np.ndarray,
    symbol: np.ndarray,
    first_child: np.ndarray,
    first_entry: np.ndarray,
    entry_symbol: np.ndarray,
    value: np.ndarray,
) -> Contexts | None:
    """The contexts of at most ``depth`` bytes of a trie that was checked; None where they have no entries.

    Example:
        >>> i = lambda *numbers: np.array(numbers)
        >>> two = reachable(1, i(0, 0), i(0, 0, 1), i(1, 3, 3, 3), i(0, 2, 3, 4), i(0, 1, 1, 0), i(5, 6, 7, 8))
        >>> two.first_child.tolist(), two.n_parents   # after nothing, after 0, after 1
        ([1, 3], 1)
    """
    begin, end = 0, 1  # of the empty context; a level's children are the next level
    for _ in range(depth):
        begin, end = end, int(first_child[end])
    n_entries = int(first_entry[end])
    if n_entries == 0:
        return None
    return Contexts(
        depth, letter, symbol[:end], first_child[: begin + 1], first_entry[: end + 1], entry_symbol[:n_entries],
        value[:n_entries],
    )  # fmt: skip
