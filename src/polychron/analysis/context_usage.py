"""Watching counted contexts being read: how many there are at each depth, and how deep a text's contexts were met."""

# N position, D depth, C context

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polychron.limits import require_memory
from polychron.models.language_model import LanguageModel
from polychron.nn.context_tables import ContextList
from polychron.nn.evaluated import evaluated
from polychron.ops.contexts import LISTS, advance_reference, context_of, start_state

# What the byte that a depth adds is of.
PARTS = {
    "text": ("nothing", "last byte", "second last", "third last", "fourth last", "2 before these", "3 before these",
             "4 before these"),
    "words": ("nothing", "last byte", "second last", "word so far", "word so far", "word before", "word before",
              "second before"),
    "line": ("nothing", "column", "last byte", "byte above"),
}  # fmt: skip
_NOWHERE = -2
_AT_ONCE = 1 << 14
_BYTES_OF_A_POSITION = 400  # measured: 350


@dataclass(frozen=True)
class ContextUsage:
    """What was seen of one kind of a model's counted contexts on some text. A position predicts the byte after it.

    Attributes:
        kind: of the contexts, see :data:`polychron.ops.contexts.LISTS`.
        n_contexts: (D + 1,) contexts of so many bytes that are stored.
        n_entries: (D + 1,) numbers in their rows.
        n_read: (D + 1,) those of them that the text read at least once.
        depth: (N,) bytes of the longest context that was met, at each position: how deep the walk went.
        n_added: (N,) numbers of the rows on its way, all of which are added.
        nats: (N,) what the next byte cost the whole model.
    """

    kind: str
    n_contexts: np.ndarray
    n_entries: np.ndarray
    n_read: np.ndarray
    depth: np.ndarray
    n_added: np.ndarray
    nats: np.ndarray

    @property
    def parts(self) -> tuple[str, ...]:
        """What the byte that each depth adds is of."""
        return PARTS[self.kind][: self.deepest + 1]

    @property
    def deepest(self) -> int:
        """D."""
        return len(self.n_contexts) - 1

    @property
    def ends(self) -> np.ndarray:
        """(D + 1,) positions whose walk ended at each depth."""
        return np.bincount(self.depth, minlength=self.deepest + 1)

    @property
    def arrivals(self) -> np.ndarray:
        """(D + 1,) positions whose walk came so deep, and read a row there."""
        return self.ends[::-1].cumsum()[::-1]

    @property
    def nats_by_depth(self) -> list[float | None]:
        """Mean nats a byte of the positions whose walk ended at each depth; None where none did."""
        sums = np.bincount(self.depth, weights=self.nats, minlength=self.deepest + 1)
        return [s / n if n else None for s, n in zip(sums.tolist(), self.ends.tolist(), strict=True)]

    def summary(self) -> dict[str, object]:
        """The figures, for JSON and for tables."""
        n = max(1, len(self.depth))
        levels = [
            {"depth": k, "tells": self.parts[k], "contexts": contexts, "numbers": entries, "contexts_read": read,
             "arrivals": arrivals / n, "ends": ends / n, "nats_per_byte": nats}
            for k, (contexts, entries, read, arrivals, ends, nats) in enumerate(zip(
                self.n_contexts.tolist(), self.n_entries.tolist(), self.n_read.tolist(), self.arrivals.tolist(),
                self.ends.tolist(), self.nats_by_depth, strict=True))
        ]  # fmt: skip
        return {
            "kind": self.kind,
            "positions": len(self.depth),
            "mean_depth": float(self.depth.mean()) if len(self.depth) else None,
            "mean_added": float(self.n_added.mean()) if len(self.depth) else None,
            "levels": levels,
        }


@torch.no_grad()
def inspect_contexts(model: LanguageModel, tokens: Tensor) -> list[ContextUsage]:
    """How each kind of a model's counted contexts is used on a text; nothing where it has none.

    Args:
        model: it is not changed.
        tokens: (1, T) int64, T >= 2; every position but the last is one that predicts.

    Raises:
        InputError: no memory for so many.

    Example:
        >>> from polychron.models import DelayConfig, DelayLM
        >>> from polychron.nn import ContextTables
        >>> from polychron.ops.contexts import bytes_of_symbols
        >>> model = DelayLM(DelayConfig(vocabulary_size=3, n_tables=1, n_comparisons=2, readout_n_comparisons=2))
        >>> text = np.array([0, 1, 0, 1, 0, 1], dtype=np.uint8)
        >>> model.set_contexts(ContextTables.of_text(text, [(0, 6)], bytes_of_symbols(b"ab"), depth=1))
        >>> text, words, line = inspect_contexts(model, torch.tensor([[0, 1, 2, 2]]))
        >>> text.n_contexts.tolist(), text.depth.tolist()   # 2 was never met: nothing deeper than the empty context
        ([1, 2], [1, 1, 0])
    """
    tables = model.contexts
    if tables is None:
        return []
    n = tokens.shape[1] - 1
    require_memory(
        n * _BYTES_OF_A_POSITION, f"the contexts at {n:,} positions", "read fewer (--bytes), or close other programs"
    )
    with evaluated(model):
        nats = _nats_along(model, tokens[0])
    along = _contexts_along(tokens[0, :-1], tables.byte)
    return [
        _walked(kind, of_kind, depth, along[kind], nats)
        for kind, of_kind, depth in zip(LISTS, tables.lists, tables.depths, strict=True)
    ]


def _nats_along(model: LanguageModel, tokens: Tensor) -> np.ndarray:
    """What each of the tokens (N,) but the first cost, after all before it: (N - 1,) float64; read in stretches."""
    state, nats = model.start(), []
    for some, targets in zip(tokens[:-1].split(_AT_ONCE), tokens[1:].split(_AT_ONCE), strict=True):
        logits, state = model.extend(some[None], state)
        nats.append(F.cross_entropy(logits[0], targets, reduction="none").double())
    return torch.cat(nats).numpy()


def _walked(kind: str, tables: ContextList, depth: int, along: np.ndarray, nats: np.ndarray) -> ContextUsage:
    first_child, first_entry = tables.first_child.numpy().astype(np.int64), tables.first_entry.numpy().astype(np.int64)
    n_contexts = len(tables.symbol)
    level = [0, 1]  # of depth k are the contexts level[k] to level[k + 1] - 1
    for _ in range(depth):
        level.append(int(first_child[level[-1]]))
    # Contexts but the first stand in the order of their parents, and below one parent in that of their symbols.
    parent = np.repeat(np.arange(n_contexts), np.diff(first_child))
    place = np.append(parent << 8 | tables.symbol.numpy()[1:], _NOWHERE)
    row_length = np.diff(first_entry)

    N = len(along)
    at, met = np.zeros(N, dtype=np.int64), np.arange(N)  # `met`: positions whose walk goes on
    reached, n_added = np.zeros(N, dtype=np.int64), np.full(N, row_length[0])
    n_read = [min(1, N)]
    for k in range(depth):
        wanted = at[met] << 8 | along[met, k]
        found = np.searchsorted(place[:-1], wanted)
        is_there = place[found] == wanted
        met, child = met[is_there], found[is_there] + 1
        at[met], reached[met] = child, k + 1
        n_added[met] += row_length[child]
        n_read.append(len(np.unique(child)))
    return ContextUsage(kind, np.diff(level), np.diff(first_entry[level]), np.array(n_read), reached, n_added, nats)


def _contexts_along(tokens: Tensor, byte: Tensor) -> dict[str, np.ndarray]:
    """Each kind's list after each of the tokens (N,) with which a text begins, the nearest byte first: (N, 3 or 7)."""
    byte_of = byte.tolist()
    [state] = start_state(1).tolist()
    rows = {kind: bytearray() for kind in LISTS}
    for symbol in tokens.tolist():
        state = advance_reference(state, byte_of[symbol])
        for kind, of_kind in rows.items():
            of_kind += bytes(context_of(state, kind))
    return {kind: np.frombuffer(rows[kind], dtype=np.uint8).reshape(-1, length) for kind, length in LISTS.items()}
