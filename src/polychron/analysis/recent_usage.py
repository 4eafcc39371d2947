"""Watching recent tables being read: how often a text meets its own past, and how often that past is right."""

# N position, I table, C class of runs

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polychron.models.language_model import LanguageModel
from polychron.ops.recent import (
    CELLS_SHAPE,
    LONGEST_RUNS,
    N_CELLS,
    N_RECENT,
    RECENT_CONTEXTS,
    find_recent,
    start_recent_state,
)

# Of the classes of runs: how long they are.
RUNS = (
    *(
        f"{low + 1}" if low + 1 == high else f"{low + 1}-{high}"
        for low, high in zip((0, *LONGEST_RUNS), LONGEST_RUNS, strict=False)
    ),
    f"{LONGEST_RUNS[-1] + 1}+",
)


@dataclass(frozen=True)
class RecentUsage:
    """What was seen of a model's recent tables on some text. A position predicts the symbol after it.

    Attributes:
        n_positions: N.
        n_found: (I, 2, C) positions at which a table named a symbol, the latest or the one before, after such a run.
        n_right: (I, 2, C) those of them after which that symbol came.
        cells: (I, 2, C) what is added to the symbol's logit.
    """

    n_positions: int
    n_found: np.ndarray
    n_right: np.ndarray
    cells: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tables: a kind of list, and how many of its bytes are known."""
        return tuple(f"{kind} {depth}" for kind, depth in RECENT_CONTEXTS)

    @property
    def met(self) -> list[float | None]:
        """The part of the positions at which each table named a symbol."""
        return _shares(self.n_found[:, 0].sum(1), np.full(N_RECENT, self.n_positions))

    def right(self, which: int) -> list[float | None]:
        """Where a table named a symbol, the latest (0) or the one before (1), the part after which that one came."""
        return _shares(self.n_right[:, which].sum(1), self.n_found[:, which].sum(1))

    def right_by_run(self, table: int) -> list[float | None]:
        """The same of a table's latest symbol, by how long its run was."""
        return _shares(self.n_right[table, 0], self.n_found[table, 0])

    def summary(self) -> dict[str, object]:
        """The figures, for JSON."""
        of_tables = zip(self.names, self.met, self.right(0), self.right(1), strict=True)
        return {
            "positions": self.n_positions,
            "runs": list(RUNS),
            "tables": [
                {"table": name, "met": met, "latest_right": latest, "before_right": before,
                 "found": self.n_found[i].tolist(), "right": self.n_right[i].tolist(), "cells": self.cells[i].tolist()}
                for i, (name, met, latest, before) in enumerate(of_tables)
            ],
        }  # fmt: skip


def _shares(parts: np.ndarray, wholes: np.ndarray) -> list[float | None]:
    return [part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)]


def percent(part: float | None) -> str:
    """A part for a table's cell, which is empty where nothing was found."""
    return "" if part is None else f"{part:.1%}"


@torch.no_grad()
def inspect_recent(model: LanguageModel, tokens: Tensor) -> RecentUsage | None:
    """How a model's recent tables are used on a text that begins here; None where it has none.

    Args:
        model: it is not changed.
        tokens: (1, T) int64, T >= 2; every position but the last is one that predicts.

    Example:
        >>> from polychron.models import DelayConfig, DelayLM
        >>> from polychron.nn import ContextTables
        >>> from polychron.ops.contexts import bytes_of_symbols
        >>> model = DelayLM(DelayConfig(vocabulary_size=4, n_tables=1, n_comparisons=2, readout_n_comparisons=2))
        >>> tables = ContextTables.of_text(np.zeros(9, dtype=np.uint8), [(0, 9)], bytes_of_symbols(b"abc"), depth=1)
        >>> tables.set_recent(torch.zeros(CELLS_SHAPE))
        >>> model.set_contexts(tables)
        >>> usage = inspect_recent(model, torch.tensor([[0, 1, 2, 0, 1, 2, 0]]))
        >>> usage.names[0], usage.n_found[0, 0, 0].item(), usage.right(0)[0]   # "abc" is met again, and so is its "a"
        ('text 3', 1, 1.0)
    """
    tables = model.contexts
    if tables is None or tables.recent is None:
        return None
    ids = tokens[:, :-1].contiguous()
    symbols, cells, _ = find_recent(tables.byte, ids, start_recent_state(1))
    right = cells[symbols.long() == tokens[:, 1:, None]]
    n_found, n_right = (
        torch.bincount(some.flatten().long(), minlength=N_CELLS + 1)[:N_CELLS].view(CELLS_SHAPE).numpy()
        for some in (cells, right)
    )
    return RecentUsage(ids.numel(), n_found, n_right, tables.recent.detach().numpy().copy())
