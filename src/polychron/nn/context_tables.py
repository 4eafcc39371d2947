"""Tables of exact contexts as a module: counted in one pass, read beside the trained tables."""

# B sequence, T position, K symbol

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from polychron.ops.contexts import ContextRows, count_contexts, empty_rows, flaw_of_rows, read_contexts


class ContextTables(nn.Module):
    r"""A table for each length of context, 0 to ``depth`` bytes, whose rows were counted.

    .. math:: y_t = \sum_{k=0}^{D} R_k[x_{t-k+1} \dots x_t]

    Enough comparisons of delayed spikes tell the last k bytes exactly; a table of so many comparisons has far more
    rows than a text has contexts, and only those that were met are stored. A row holds no number for what never
    followed. Counted, not trained: nothing is differentiated.

    Args:
        depth: D, bytes of the longest contexts, 1 to 7.
        n_symbols: K.
        n_contexts: rows of all tables.
        n_entries: numbers in them.

    Example:
        >>> text = np.array([0, 1, 2, 0, 1, 2, 0], dtype=np.uint8)
        >>> tables = ContextTables.of_text(text, [(0, 7)], depth=2, n_symbols=3)
        >>> tables(torch.tensor([[0, 1]])).argmax(-1).tolist()   # after 0: 1; after 0, 1: 2
        [[1, 2]]
    """

    def __init__(self, depth: int, n_symbols: int, n_contexts: int, n_entries: int):
        super().__init__()
        self.depth = depth
        self.n_symbols = n_symbols
        for name, part in empty_rows(n_contexts, n_entries)._asdict().items():
            self.register_buffer(name, part.zero_())
        # Until rows are loaded, none but the empty context's children: whatever is read lies inside.
        self.first_child.fill_(n_contexts)[0] = 1
        self.first_entry[-1] = n_entries

    @classmethod
    def of_text(
        cls, text: np.ndarray, segments: Sequence[tuple[int, int]], depth: int, n_symbols: int
    ) -> ContextTables:
        """Counted in the parts ``segments`` of a text (N,) uint8; see :func:`polychron.ops.contexts.count_contexts`."""
        rows = count_contexts(text, segments, depth, n_symbols)
        tables = cls(depth, n_symbols, len(rows.symbol), len(rows.value))
        for name, part in rows._asdict().items():
            getattr(tables, name).copy_(part)
        return tables

    @property
    def rows(self) -> ContextRows:
        """All rows, as :func:`polychron.ops.contexts.read_contexts` takes them."""
        return ContextRows(self.symbol, self.first_child, self.first_entry, self.entry_symbol, self.value)

    def forward(self, tokens: Tensor, before: Tensor | None = None) -> Tensor:
        """Logits (B, T, K) float32 after each of the tokens (B, T) int64, which the tokens (B, L) ``before`` precede.

        Raises:
            ValueError: a token out of range.
        """
        T = tokens.shape[1]
        known = tokens if before is None else torch.cat([before, tokens], dim=1)
        rows = ContextRows(*(part.cpu() for part in self.rows))
        return read_contexts(rows, self.depth, known.cpu(), T, self.n_symbols).to(tokens.device)

    def check(self) -> None:
        """Raises ValueError when the rows, as loaded from a file, cannot be read."""
        flaw = flaw_of_rows(self.rows, self.depth, self.n_symbols)
        if flaw is not None:
            raise ValueError(flaw)

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"depth={self.depth}, n_contexts={len(self.symbol)}, n_entries={len(self.value)}"
