"""``lookup``: one layer of look-up tables addressed by spike order (paper, equations 1 to 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops import checks
from polychron.ops.dispatch import run_uncompiled
from polychron.ops.lookup import direct
from polychron.ops.lookup.operators import FusedLookup, lookup_operator
from polychron.ops.row_update import RowUpdate

__all__ = ["lookup"]


def lookup(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    delays: Tensor | None = None,
    *,
    history: Tensor | None = None,
    residual: bool = False,
    gradient: str = "dense",
    update: RowUpdate | None = None,
) -> Tensor:
    r"""Compares pairs of spike latencies, reads one row per table and adds the rows.

    .. math::
        u_{ir} = x_{t-d_a}[a_{ir}] - x_{t-d_b}[b_{ir}],\quad
        j_i = \sum_r [u_{ir} > 0]\,2^r,\quad
        y_t = [x_t +] \sum_i S_{i, j_i}

    The gradient in ``tables`` is exact (the selected rows only). The gradient in ``x`` is the paper's surrogate: in
    each table the comparison nearest to flipping, ties going to the first. Without ``residual`` it sums to zero
    over neurons and positions, but for what flows to before the sequence's start.

    Args:
        x: latencies, (B, n) or (B, T, n), float32 or float64, in the paper's arbitrary units of time.
        tables: synaptic vectors S, (n_tables, 2^n_comparisons, n_outputs), x's type; or bfloat16 where
            x is float32: sums are float32, a fused update rounds rows stochastically (:class:`RowUpdate`).
        anchors: neurons a and b of each comparison, (n_tables, n_comparisons, 2) int32 in [0, n).
        delays: conduction delays in positions, the anchors' shape, int32 >= 0. None: no delays, the paper's layer.
        history: (B, D, n) latencies of the D positions before the first, the oldest first; where neither the
            sequence nor the history reaches, a latency is 0. No gradient flows into it.
        residual: adds x (equation 10); needs n_outputs == n.
        gradient: of the tables: ``"dense"`` (any torch optimizer; but with ``fused=True`` only of contiguous tables,
            which a layer's are not always: see :func:`polychron.memory.zero_tables`), ``"sparse"`` (a coalesced
            sparse COO tensor), or ``"fused"`` (``update`` is applied during the backward pass, ``tables.grad`` stays
            None). Tables that ask for no gradient stay as they are, whatever it says.
        update: how rows change when ``gradient="fused"``.

    Returns:
        y, (B, n_outputs) or (B, T, n_outputs). An empty batch or sequence gives an empty y. A tie (u = 0) gives
        bit 0; so does NaN.

    Raises:
        ValueError: a wrong shape, type or range; the message names the argument.

    Source: Spiking Manifesto, equations 1 to 8 and 10; delays as in polychronization.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.3, -0.1, 0.2]])
        >>> anchors = torch.tensor([[[0, 1], [2, 0]]], dtype=torch.int32)   # x0 > x1?  x2 > x0?
        >>> tables = torch.arange(8.0).reshape(1, 4, 2)
        >>> lookup(x, tables, anchors)   # bits 1, 0: row 1
        tensor([[2., 3.]])
    """
    reader = direct.find_reader(x, tables, anchors, delays, history, residual, gradient, update)
    if reader is not None:
        return direct.read(reader, x, tables, residual, gradient, update)
    given, x = x, checks.as_sequences(x, delays, history)
    checks.check_latencies(x, shapes="(B, n) or (B, T, n)")
    checks.check_anchors(anchors)
    checks.check_delays(delays, anchors)
    checks.check_tables(tables, x, anchors.shape[0], anchors.shape[1])
    checks.check_history(history, x)
    if residual and tables.shape[2] != x.shape[2]:
        raise ValueError(f"residual needs n_outputs == n = {x.shape[2]}; got tables with {tables.shape[2]} outputs")
    checks.check_gradient(gradient, update, tables)
    if history is None and tables.dtype == torch.float32 and direct.can_go_direct(given, tables):
        direct.remember(anchors, delays, x.shape[2])
        # At once: a checkpoint that computes this call again must find the same tensors kept.
        reader = direct.find_reader(given, tables, anchors, delays, history, residual, gradient, update)
        if reader is not None:
            return direct.read(reader, given, tables, residual, gradient, update)
    if gradient == "fused":
        y = run_uncompiled(FusedLookup.apply, x, tables, anchors, delays, history, residual, update)
    else:
        y, *_ = lookup_operator(x, tables, anchors, delays, history, residual, gradient)
    return y if x is given else y[0]
