"""Tables of counted contexts as arrays, cut to what a reading reaches."""

# C context, E entry

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polychron.ops.contexts import LISTS


@dataclass(frozen=True)
class ContextArrays:
    """The arrays of one kind of contexts, without children of the deepest: there are none.

    Attributes:
        depth: D, bytes of the deepest contexts.
        symbol: (C,) uint8, a context's furthest byte.
        first_child: (P + 1,) int32: the children of context c < P are ``first_child[c]`` to ``first_child[c + 1] - 1``;
            contexts from P on are the deepest.
        first_entry: (C + 1,) int32: the row of context c is the entries ``first_entry[c]`` to
            ``first_entry[c + 1] - 1``.
        entry_symbol: (E,) uint8, the token that an entry is added to.
        value: (E,) float32; of an int8 model int16, in the logits' unit.
    """

    depth: int
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


@dataclass(frozen=True)
class Contexts:
    """The arrays of :class:`polychron.nn.ContextTables`.

    Attributes:
        byte: (V,) uint8, which byte contexts know a token as.
        kinds: of each of :data:`polychron.ops.contexts.LISTS`.
        recent: cells of recent tables, `polychron.ops.recent.CELLS_SHAPE`, of the values' type; None: there are none.
    """

    byte: np.ndarray
    kinds: Mapping[str, ContextArrays]
    recent: np.ndarray | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes of all arrays."""
        recent = 0 if self.recent is None else self.recent.nbytes
        return self.byte.nbytes + recent + sum(arrays.n_bytes for arrays in self.kinds.values())


def reachable(
    kind: str,
    depth: int,
    symbol: np.ndarray,
    first_child: np.ndarray,
    first_entry: np.ndarray,
    entry_symbol: np.ndarray,
    value: np.ndarray,
) -> ContextArrays:
    """The contexts of at most ``depth`` bytes of a trie that was checked, and at least one entry, read or not.

    Example:
        >>> i = lambda *numbers: np.array(numbers)
        >>> two = reachable("line", 1, i(0, 0, 1), i(1, 3, 3, 3), i(0, 2, 3, 4), i(0, 1, 1, 0), i(5, 6, 7, 8))
        >>> two.first_child.tolist(), two.n_parents   # after nothing, after 0, after 1
        ([1, 3], 1)
    """
    depth = min(depth, LISTS[kind])
    begin, end = 0, 1  # of the empty context; a level's children are the next level
    for _ in range(depth):
        begin, end = end, int(first_child[end])
    n_entries = max(1, int(first_entry[end]))
    return ContextArrays(
        depth, symbol[:end], first_child[: begin + 1], first_entry[: end + 1], entry_symbol[:n_entries],
        value[:n_entries],
    )  # fmt: skip
