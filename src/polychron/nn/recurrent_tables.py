"""A layer of tables that reads its own output of the position before."""

# B sequence, T position

from __future__ import annotations

from torch import Tensor

from polychron.nn.lookup_tables import LookupTables
from polychron.nn.row_layer import check_width
from polychron.ops import RowUpdate
from polychron.ops.recurrence import recurrence


class RecurrentTables(LookupTables):
    r"""The paper's recurrent network: :func:`polychron.ops.recurrence.recurrence`.

    .. math:: h_t = z_t + \sum_i S_{i, j_i(h_{t-1})}

    Args:
        n_neurons: of the input and of the output.
        n_tables: tables.
        n_comparisons: anchor pairs a table.
        truncation: backpropagation through time ends after so many positions; None: at the sequence's start.
        anchors: ``"random"``, ``"covering"`` or ``"independent"``.
        gradient: of the tables: ``"dense"``, ``"sparse"`` or ``"fused"``.
        update: for ``"fused"``; no table is dropped here.
        seed: of the anchors.

    Shapes: z (B, T, n_neurons), start (B, n_neurons), h (B, T, n_neurons).

    Source: Spiking Manifesto, equation 11.

    Example:
        >>> import torch
        >>> RecurrentTables(n_neurons=16, n_tables=4, n_comparisons=3)(torch.randn(2, 5, 16)).shape
        torch.Size([2, 5, 16])
    """

    drops_tables = False

    def __init__(
        self,
        n_neurons: int,
        n_tables: int,
        n_comparisons: int,
        *,
        truncation: int | None = None,
        anchors: str = "random",
        gradient: str = "dense",
        update: RowUpdate | None = None,
        seed: int = 0,
    ):
        super().__init__(
            n_neurons, n_neurons, n_tables, n_comparisons, anchors=anchors, gradient=gradient, update=update, seed=seed
        )
        self.truncation = truncation

    def forward(self, z: Tensor, start: Tensor | None = None) -> Tensor:
        """h of the inputs z, going on from ``start``."""
        check_width(z, self.n_inputs, "z")
        self.draw_step()
        return recurrence(
            z, self.synaptic_vectors, self.anchors, start, truncation=self.truncation, **self._options()
        )  # fmt: skip
