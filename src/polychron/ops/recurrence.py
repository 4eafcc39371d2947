"""``recurrence``: a layer of tables that reads its own output of the position before (paper, equation 11).

The hash, the gather and the gradients are those of :mod:`polychron.ops.lookup`, one position after another. The rows'
gradients of all positions are merged and applied once, after every latency's gradient was read from the rows as they
were: backpropagation through time with the paper's surrogate, whatever becomes of the rows.
"""

# B sequence, T position, I table, K output

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops import checks
from polychron.ops.dispatch import run_uncompiled
from polychron.ops.lookup import operators
from polychron.ops.row_update import RowUpdate

__all__ = ["recurrence"]


def recurrence(
    z: Tensor,
    tables: Tensor,
    anchors: Tensor,
    start: Tensor | None = None,
    *,
    truncation: int | None = None,
    gradient: str = "dense",
    update: RowUpdate | None = None,
) -> Tensor:
    r"""Adds to each input the rows that the output before it addresses.

    .. math:: h_t = z_t + \sum_i S_{i, j_i(h_{t-1})},\qquad h_{-1} = \mathrm{start}

    Args:
        z: inputs, (B, T, n), float32 or float64.
        tables: synaptic vectors S, (n_tables, 2^n_comparisons, n), z's type.
        anchors: (n_tables, n_comparisons, 2) int32 in [0, n).
        start: (B, n), the output before the first position; None: 0. No gradient flows into it.
        truncation: no gradient flows from position t to t - 1 where t is a multiple of it; None: back to the first.
        gradient: of the tables: ``"dense"``, ``"sparse"`` or ``"fused"``, as in :func:`polychron.ops.lookup`.
        update: how rows change when ``gradient="fused"``; online updates have no meaning here.

    Returns:
        h, (B, T, n). An empty batch or sequence gives an empty h.

    Raises:
        ValueError: a wrong shape, type or range; the message names the argument.

    Source: Spiking Manifesto, equation 11.

    Example:
        >>> anchors = torch.tensor([[[0, 1]]], dtype=torch.int32)
        >>> tables = torch.tensor([[[0.0, 0.0], [10.0, 20.0]]])   # fires where neuron 0 came after neuron 1
        >>> recurrence(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), tables, anchors)
        tensor([[[ 1.,  0.],
                 [10., 20.]]])
    """
    checks.check_latencies(z, "z")
    n = z.shape[2]
    checks.check_anchors(anchors)
    checks.check_tables(tables, z, anchors.shape[0], anchors.shape[1], "z")
    if tables.shape[2] != n:
        raise ValueError(f"tables must drive the {n} neurons that they read; got {tables.shape[2]} outputs")
    if start is not None and (start.shape != (z.shape[0], n) or start.dtype != z.dtype):
        raise ValueError(
            f"start must be {z.dtype} of shape ({z.shape[0]}, {n}); got {start.dtype} {tuple(start.shape)}"
        )
    if truncation is not None and truncation < 1:
        raise ValueError(f"truncation must be at least 1; got {truncation}")
    checks.check_gradient(gradient, update, tables)
    if update is not None and update.kind == "online_sgd":
        raise ValueError("update must not be online_sgd: a row that changed between two positions has no one gradient")
    return run_uncompiled(_Recurrence.apply, z, tables, anchors, start, truncation, gradient, update)


class _Recurrence(torch.autograd.Function):
    """Keeps (row, pair, u) of every position, as (T, I, B)."""

    @staticmethod
    def forward(ctx, z, tables, anchors, start, truncation, gradient, update):
        """H, (B, T, n)."""
        run = operators.arithmetic(z)
        B, T, n = z.shape
        inputs = z.detach().transpose(0, 1).contiguous()  # time-major: the positions of a step are neighbours
        h = torch.empty_like(inputs)
        before = z.new_zeros(1, B, n) if start is None else start.detach()[None].contiguous()
        kept = []
        for t in range(T):
            address = run.address(before, anchors, None, None)
            before = run.gather(tables.detach(), address[0], inputs[t : t + 1])
            h[t] = before[0]
            kept += address
        # A fused update changes the tables on purpose: they are kept out of autograd's guard of saved tensors.
        ctx.tables = tables.detach() if gradient == "fused" else None
        ctx.save_for_backward(anchors, None if gradient == "fused" else tables, *kept)
        ctx.options = (truncation, gradient, update)
        return h.transpose(0, 1).contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v):
        """DL/dz and DL/dS; v is DL/dh without what flows back through time."""
        truncation, gradient, update = ctx.options
        run = operators.arithmetic(v)
        anchors, tables, *parts = ctx.saved_tensors
        tables = ctx.tables if tables is None else tables
        _, T, n = v.shape
        kept = [parts[3 * t : 3 * t + 3] for t in range(T)]
        whole = v.transpose(0, 1).clone(memory_format=torch.contiguous_format)  # v is autograd's: it must not change
        for t in range(T - 1, 0, -1):
            if truncation is not None and t % truncation == 0:
                continue
            whole[t - 1] += run.latency_gradient(tables, anchors, None, *kept[t], whole[t : t + 1], n, False)[0]
        dS = None
        if T and ctx.needs_input_grad[1]:
            row, pair, u = (torch.cat(part, dim=1) for part in zip(*kept, strict=True))  # (I, T, B)
            reading = (tables, anchors, None, row, pair, u, whole, n, False, False)
            if gradient == "fused":
                run.backward_fused(*reading, update)
            elif gradient == "sparse":
                _, indices, values = run.backward_sparse(*reading)
                dS = torch.sparse_coo_tensor(indices, values, tables.shape, is_coalesced=True, check_invariants=False)
            else:
                _, dS = run.backward_dense(*reading)
        return whole.transpose(0, 1), dS, None, None, None, None, None
