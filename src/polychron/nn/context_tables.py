"""Tables of contexts as a module: counted in one pass, read beside the trained tables."""

# B sequence, T position, K symbol

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from polychron.ops.contexts import (
    LISTS,
    STATE_SIZE,
    ContextReader,
    ContextRows,
    count_contexts,
    empty_rows,
    start_state,
)
from polychron.ops.dispatch import run_uncompiled
from polychron.ops.recent import CELLS_SHAPE, add_recent, find_recent, start_recent_state


class ContextList(nn.Module):
    """The tables of one kind of contexts: as buffers, what :class:`polychron.ops.contexts.ContextRows` has.

    Args:
        n_contexts: rows.
        n_entries: numbers in them.
    """

    def __init__(self, n_contexts: int, n_entries: int):
        super().__init__()
        for name, part in empty_rows(n_contexts, n_entries)._asdict().items():
            self.register_buffer(name, part.zero_())
        # Until rows are loaded, none but the empty context's children: whatever is read lies inside.
        self.first_child.fill_(n_contexts)[0] = 1
        self.first_entry[-1] = n_entries

    @property
    def rows(self) -> ContextRows:
        """All rows, as :func:`polychron.ops.contexts.read_contexts` takes them."""
        return ContextRows(self.symbol, self.first_child, self.first_entry, self.entry_symbol, self.value)

    def scale(self, factors: Sequence[float]) -> None:
        """Multiply the rows of each depth by its two factors: of rows that change one logit, and of all others."""
        begin, end = 0, 1
        for lone, others in zip(factors[::2], factors[1::2], strict=True):
            bounds = self.first_entry[begin : end + 1].long()
            of_depth = self.value[bounds[0] : bounds[-1]]
            changes = torch.cat([bounds.new_zeros(1), (of_depth != 0).cumsum(0)])[bounds - bounds[0]].diff()
            of_rows = torch.where(changes == 1, lone, others).to(of_depth)
            of_depth.mul_(of_rows.repeat_interleave(bounds.diff()))
            begin, end = end, int(self.first_child[end])  # the children of a depth are the next one


class ContextTables(nn.Module):
    r"""A table for each kind of contexts and each depth, 0 to ``depth`` bytes, whose rows were counted.

    .. math:: y_t = \sum_i \sum_{k=0}^{D} R^i_k[\mathrm{context}^i_k(x_{\le t})] + \mathrm{recent}(x_{\le t})

    The kinds i: the last bytes, the last words, and a place in a line, see :mod:`polychron.ops.contexts`. Enough
    comparisons of delayed spikes tell bytes exactly, and neurons that hold their spikes until a word or line has ended
    do so for these; a table of so many comparisons has far more rows than a text has contexts, and only those that were
    met are stored. A row holds no number for what never followed. Counted, not trained: nothing is differentiated.

    With ``recent``, tables that are written while a text is read add to what followed a context when it was last met
    there (:mod:`polychron.ops.recent`). They are the state of a text, so that what stands far back in it still counts.

    Args:
        depth: D, bytes of the deepest contexts, 1 to 7; a place in a line has three at most.
        n_symbols: K.
        n_contexts: rows of all tables of each kind.
        n_entries: numbers in them.
        recent: whether there are recent tables.

    Attributes:
        recent: what their cells add, `polychron.ops.recent.CELLS_SHAPE` float32, or None.

    Example:
        >>> from polychron.ops.contexts import bytes_of_symbols
        >>> text = np.array([0, 1, 2, 0, 1, 2, 0, 1], dtype=np.uint8)
        >>> tables = ContextTables.of_text(text, [(0, 8)], bytes_of_symbols(b"ab"), depth=2)
        >>> tables(torch.tensor([[0, 1]])).argmax(-1).tolist()   # after 0: 1; after 0, 1: 2
        [[1, 2]]
    """

    recent: Tensor | None

    def __init__(
        self, depth: int, n_symbols: int, n_contexts: Sequence[int], n_entries: Sequence[int], recent: bool = False
    ):
        super().__init__()
        self.depth = depth
        self.register_buffer("recent", torch.zeros(CELLS_SHAPE) if recent else None)
        self._readers: list[ContextReader] = []
        self._read: list[object] = []
        self.register_buffer("byte", torch.zeros(n_symbols, dtype=torch.uint8))
        for kind, *sizes in zip(LISTS, n_contexts, n_entries, strict=True):
            self.add_module(kind, ContextList(*sizes))

    @classmethod
    def of_text(cls, text: np.ndarray, segments: Sequence[tuple[int, int]], byte: Tensor, depth: int) -> ContextTables:
        """Counted in the parts ``segments`` of a text (N,) uint8; see :func:`polychron.ops.contexts.count_contexts`."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            rows = list(pool.map(lambda kind: count_contexts(text, segments, byte, kind, depth), LISTS))
        return cls.of_rows(dict(zip(LISTS, rows, strict=True)), byte, depth)

    @classmethod
    def of_rows(cls, rows: Mapping[str, ContextRows], byte: Tensor, depth: int) -> ContextTables:
        """Of the rows of each kind."""
        n_contexts = [len(rows[kind].symbol) for kind in LISTS]
        tables = cls(depth, len(byte), n_contexts, [len(rows[kind].value) for kind in LISTS])
        tables.byte.copy_(byte)
        for kind, of_kind in zip(LISTS, tables.lists, strict=True):
            for name, part in rows[kind]._asdict().items():
                setattr(of_kind, name, part)
        return tables

    @property
    def lists(self) -> list[ContextList]:
        """The tables of each kind, in the order of :data:`polychron.ops.contexts.LISTS`."""
        return [self.get_submodule(kind) for kind in LISTS]

    @property
    def n_contexts(self) -> tuple[int, ...]:
        """Rows of each kind."""
        return tuple(len(of_kind.symbol) for of_kind in self.lists)

    @property
    def n_entries(self) -> tuple[int, ...]:
        """Numbers of each kind."""
        return tuple(len(of_kind.value) for of_kind in self.lists)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, K) float32 after each of the tokens (B, T), whole numbers, with which the text begins.

        Raises:
            ValueError: a token out of range.
        """
        return run_uncompiled(self._from_the_beginning, tokens)

    def extend(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same of tokens that follow those which made ``state``, None: none; and the new state."""
        return run_uncompiled(self._extend, tokens, state)

    def _extend(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        ids = tokens.to("cpu", torch.int64)
        start = start_state if self.recent is None else start_recent_state
        before = start(len(tokens)) if state is None else state.cpu()
        logits, after = self._counted(ids, before[:, :STATE_SIZE].contiguous())
        if self.recent is not None:
            symbols, found, after = find_recent(self.byte.cpu(), ids, before)
            add_recent(logits, self.recent.cpu(), symbols, found)
        return logits.to(tokens.device), after.to(tokens.device)

    def _from_the_beginning(self, tokens: Tensor) -> Tensor:
        ids = tokens.to("cpu", torch.int64)
        logits, _ = self._counted(ids, start_state(len(tokens)))
        if self.recent is not None:
            symbols, found, _ = find_recent(self.byte.cpu(), ids, None)
            add_recent(logits, self.recent.cpu(), symbols, found)
        return logits.to(tokens.device)

    def counted(self, tokens: Tensor, recalled: Tensor | None = None) -> Tensor:
        """What of :meth:`forward` was counted, (B, T, K): it knows the last bytes of a text only.

        ``recalled``: what :meth:`recall` found for these tokens is added.
        """
        ids = tokens.to("cpu", torch.int64)
        logits, _ = self._counted(ids, start_state(len(tokens)))
        if recalled is not None:
            add_recent(logits, self.recent.cpu(), *recalled.cpu().unbind(-1))
        return logits.to(tokens.device)

    def recall(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """The rest: what recent tables know after each of the tokens (B, T), which follow ``state``; new state.

        Symbols and cells, (B, T, 2 I, 2) uint8, see :func:`polychron.ops.recent.find_recent`.

        Raises:
            ValueError: there are none, or a token is out of range.
        """
        if self.recent is None:
            raise ValueError("these tables of contexts have no recent tables")
        ids = tokens.to("cpu", torch.int64)
        symbols, found, after = find_recent(
            self.byte.cpu(), ids, start_recent_state(len(tokens)) if state is None else state.cpu()
        )
        return torch.stack([symbols, found], dim=-1), after

    def _counted(self, ids: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return ContextReader.read_all(self._checked(), ids, before)

    @property
    def depths(self) -> list[int]:
        """Bytes of the deepest contexts of each kind."""
        return [min(self.depth, length) for length in LISTS.values()]

    def each(self, tokens: Tensor) -> list[Tensor]:
        """What each depth of each kind adds to the sum of :meth:`forward`: of every kind (depth + 1, B, T, K)."""
        begin, ids = start_state(len(tokens)), tokens.to("cpu", torch.int64)
        return [reader.each(ids, begin).to(tokens.device) for reader in self._checked()]

    def scale(self, factors: Sequence[Sequence[float]]) -> None:
        """Multiply the counted rows of each depth of each kind by its two factors, see :meth:`ContextList.scale`."""
        for of_kind, of_depths in zip(self.lists, factors, strict=True):
            of_kind.scale(of_depths)

    def set_recent(self, cells: Tensor | None) -> None:
        """Recent tables with these cells, `polychron.ops.recent.CELLS_SHAPE`, from now on; None: none."""
        self.register_buffer("recent", cells)

    def check(self) -> None:
        """Raises ValueError when the rows, as loaded from a file, cannot be read."""
        self._checked()

    def _checked(self) -> list[ContextReader]:
        """Rows are looked through once, and again when a tensor has changed or was replaced."""
        parts = (*(part for of_kind in self.lists for part in of_kind.rows), self.byte)
        known = not any(part.is_inference() for part in parts)  # whether they have changed
        now = [(part.data_ptr(), part._version, part.device) for part in parts] if known else []
        if not self._readers or not known or self._read != now:
            self._readers = [
                ContextReader(ContextRows(*(part.cpu() for part in of_kind.rows)), self.byte.cpu(), kind, self.depth)
                for kind, of_kind in zip(LISTS, self.lists, strict=True)
            ]
            self._read = now
        return self._readers

    def __getstate__(self) -> dict[str, object]:
        """Everything but what points into this module's memory."""
        return {**self.__dict__, "_readers": []}

    def extra_repr(self) -> str:
        """Its sizes."""
        recent = ", recent=True" if self.recent is not None else ""
        return f"depth={self.depth}, n_contexts={self.n_contexts}, n_entries={self.n_entries}{recent}"
