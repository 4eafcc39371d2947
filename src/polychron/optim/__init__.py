"""Optimizers that update rows inside the backward pass."""

from polychron.ops.row_update import RowUpdate
from polychron.optim.frozen import FrozenTables
from polychron.optim.rows import RowOptimizer, attach

__all__ = ["FrozenTables", "RowOptimizer", "RowUpdate", "attach"]
