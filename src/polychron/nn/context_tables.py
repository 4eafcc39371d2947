"""Tables of contexts as a module: counted in one pass, read beside the trained tables."""

# B sequence, T position, K symbol

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from polychron.ops.contexts import ContextReader, ContextRows, count_contexts, empty_rows, start_state
from polychron.ops.dispatch import run_uncompiled


class ContextTables(nn.Module):
    r"""A table for each depth of context, 0 to ``depth`` bytes, whose rows were counted.

    .. math:: y_t = \sum_{k=0}^{D} R_k[\mathrm{context}_k(x_{\le t})]

    A context is made of the last three symbols, the word so far and the word before, see :mod:`polychron.ops.contexts`.
    Enough comparisons of delayed spikes tell symbols exactly, and neurons that hold their spikes until a word has ended
    do so for words; a table of so many comparisons has far more rows than a text has contexts, and only those that were
    met are stored. A row holds no number for what never followed. Counted, not trained: nothing is differentiated.

    Args:
        depth: D, bytes of the deepest contexts, 1 to 7.
        n_symbols: K.
        n_contexts: rows of all tables.
        n_entries: numbers in them.

    Example:
        >>> from polychron.ops.contexts import letters
        >>> text = np.array([0, 1, 2, 0, 1, 2, 0, 1], dtype=np.uint8)
        >>> tables = ContextTables.of_text(text, [(0, 8)], letters(b"ab"), depth=2)
        >>> tables(torch.tensor([[0, 1]])).argmax(-1).tolist()   # after 0: 1; after 0, 1: 2
        [[1, 2]]
    """

    def __init__(self, depth: int, n_symbols: int, n_contexts: int, n_entries: int):
        super().__init__()
        self.depth = depth
        self._reader: ContextReader | None = None
        self._read: list[object] = []
        self.register_buffer("letter", torch.zeros(n_symbols, dtype=torch.uint8))
        for name, part in empty_rows(n_contexts, n_entries)._asdict().items():
            self.register_buffer(name, part.zero_())
        # Until rows are loaded, none but the empty context's children: whatever is read lies inside.
        self.first_child.fill_(n_contexts)[0] = 1
        self.first_entry[-1] = n_entries

    @classmethod
    def of_text(
        cls, text: np.ndarray, segments: Sequence[tuple[int, int]], letter: Tensor, depth: int
    ) -> ContextTables:
        """Counted in the parts ``segments`` of a text (N,) uint8; see :func:`polychron.ops.contexts.count_contexts`."""
        rows = count_contexts(text, segments, letter, depth)
        tables = cls(depth, len(letter), len(rows.symbol), len(rows.value))
        tables.letter.copy_(letter)
        for name, part in rows._asdict().items():
            getattr(tables, name).copy_(part)
        return tables

    @property
    def rows(self) -> ContextRows:
        """All rows, as :func:`polychron.ops.contexts.read_contexts` takes them."""
        return ContextRows(self.symbol, self.first_child, self.first_entry, self.entry_symbol, self.value)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, K) float32 after each of the tokens (B, T), whole numbers, with which the text begins.

        Raises:
            ValueError: a token out of range.
        """
        return self.extend(tokens, None)[0]

    def extend(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same of tokens that follow those which made ``state``, None: none; and the new state, (B, 5) int64."""
        return run_uncompiled(self._extend, tokens, state)

    def _extend(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        before = start_state(len(tokens)) if state is None else state.cpu()
        logits, after = self._checked().read(tokens.to("cpu", torch.int64), before)
        return logits.to(tokens.device), after.to(tokens.device)

    def check(self) -> None:
        """Raises ValueError when the rows, as loaded from a file, cannot be read."""
        self._checked()

    def _checked(self) -> ContextReader:
        """Rows are looked through once, and again when a tensor has changed or was replaced."""
        parts = (*self.rows, self.letter)
        known = not any(part.is_inference() for part in parts)  # whether they have changed
        now = [(part.data_ptr(), part._version, part.device) for part in parts] if known else []
        if self._reader is None or not known or self._read != now:
            self._reader = ContextReader(
                ContextRows(*(part.cpu() for part in self.rows)), self.letter.cpu(), self.depth
            )
            self._read = now
        return self._reader

    def __getstate__(self) -> dict[str, object]:
        """Everything but what points into this module's memory."""
        return {**self.__dict__, "_reader": None}

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"depth={self.depth}, n_contexts={len(self.symbol)}, n_entries={len(self.value)}"
