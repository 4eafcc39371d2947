"""The layer as ``torch.library`` operators: what autograd, ``torch.compile`` and ``opcheck`` see.

``polychron::lookup`` keeps (row, pair, u) for the backward pass and nothing else: no activations. What becomes of the
rows' gradient is its argument ``kind``: ``dense`` or ``sparse``. :class:`FusedLookup` applies an update instead.
"""

# B sequence, T position, I table, J row, K output

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops import dispatch
from polychron.ops.row_update import RowUpdate


def arithmetic(tensor: Tensor):
    """The module whose functions compute on ``tensor``."""
    return dispatch.arithmetic(tensor, "lookup")


def read_one_table(table: Tensor, row: Tensor) -> Tensor:
    """Rows (B, T) int64 of one table (J, K) that is not trained: (B, T, K), read by the pool's threads.

    torch's own embedding would wake its threads in the middle of a step, to fight over the cores with ours. On a GPU it
    is the one that looks whether a row is there.
    """
    if table.is_cuda:
        return torch.nn.functional.embedding(row, table)
    return arithmetic(table).gather(table[None], row[None].int(), None)


@torch.library.custom_op("polychron::lookup", mutates_args=())
def lookup_operator(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    delays: Tensor | None,
    history: Tensor | None,
    residual: bool,
    kind: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (B, T, K), and row, pair, u, each (I, B, T)."""
    run = arithmetic(x)
    row, pair, u = run.address(x, anchors, delays, history)
    return run.gather(tables, row, x if residual else None), row, pair, u


@lookup_operator.register_fake
def _(x, tables, anchors, delays, history, residual, kind):
    shape = (anchors.shape[0], x.shape[0], x.shape[1])
    return (
        x.new_empty((*x.shape[:2], tables.shape[2])),
        x.new_empty(shape, dtype=torch.int32),
        x.new_empty(shape, dtype=torch.uint8),
        x.new_empty(shape),
    )


@torch.library.custom_op("polychron::lookup_backward_dense", mutates_args=())
def backward_dense(
    tables: Tensor,
    anchors: Tensor,
    delays: Tensor | None,
    row: Tensor,
    pair: Tensor,
    u: Tensor,
    v: Tensor,
    n_inputs: int,
    residual: bool,
    need_dx: bool,
    need_dS: bool,
) -> tuple[Tensor, Tensor]:
    """dL/dx and dL/dS, each empty unless wanted."""
    if not need_dS:
        dx = arithmetic(v).latency_gradient(tables, anchors, delays, row, pair, u, v, n_inputs, residual)
        return dx, v.new_empty(0)
    return arithmetic(v).backward_dense(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx)


@backward_dense.register_fake
def _(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx, need_dS):
    dx = v.new_empty((*v.shape[:2], n_inputs)) if need_dx else v.new_empty(0)
    dS = torch.empty_like(tables, memory_format=torch.contiguous_format) if need_dS else v.new_empty(0)
    return dx, dS


@torch.library.custom_op("polychron::lookup_backward_sparse", mutates_args=())
def backward_sparse(
    tables: Tensor,
    anchors: Tensor,
    delays: Tensor | None,
    row: Tensor,
    pair: Tensor,
    u: Tensor,
    v: Tensor,
    n_inputs: int,
    residual: bool,
    need_dx: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dx (empty unless wanted), indices (2, M) of the rows read and their gradients (M, K)."""
    return arithmetic(v).backward_sparse(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx)


@backward_sparse.register_fake
def _(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx):
    n_read = torch.library.get_ctx().new_dynamic_size()
    dx = v.new_empty((*v.shape[:2], n_inputs)) if need_dx else v.new_empty(0)
    return dx, row.new_empty((2, n_read), dtype=torch.int64), v.new_empty((n_read, tables.shape[2]))


class SavedReading:
    """What a forward pass keeps for :func:`finish_backward`; shared by the layer and the readout.

    ``error``: the readout's, which comes last of the saved tensors.
    """

    def __init__(self, ctx, tables, anchors, delays, row, pair, u, n_inputs: int, residual: bool, kind: str,
                 update: RowUpdate | None = None, error: Tensor | None = None):  # fmt: skip
        self.options = (n_inputs, residual)
        self.kind = kind
        # Tables that ask for no gradient do not learn.
        self.update = update if ctx.needs_input_grad[1] else None
        # A fused update changes the tables on purpose: they are kept out of autograd's guard of saved tensors.
        self.tables = None if self.update is None else tables.detach()
        ctx.save_for_backward(row, pair, u, anchors, delays, tables if self.update is None else None, error)
        ctx.set_materialize_grads(False)
        ctx.reading = self


def finish_backward(ctx, v: Tensor, saved: tuple[Tensor | None, ...]) -> tuple[Tensor | None, Tensor | None]:
    """(dL/dx or None, dL/dS or None) from what :class:`SavedReading` ``saved`` and v = dL/dy."""
    reading: SavedReading = ctx.reading
    row, pair, u, anchors, delays, tables, _ = saved
    need_dx, need_dS, *_ = ctx.needs_input_grad
    addresses = (anchors, delays, row, pair, u, v, *reading.options)
    dx = dS = None
    if reading.update is not None:
        dx = arithmetic(v).backward_fused(reading.tables, *addresses, need_dx, reading.update)
    elif reading.kind == "fused":
        dx = arithmetic(v).latency_gradient(tables, *addresses)
    elif reading.kind == "sparse" and need_dS:
        dx, indices, values = backward_sparse(tables, *addresses, need_dx)
        # Each row is listed once and in order: that is what coalesced means.
        dS = torch.sparse_coo_tensor(indices, values, tables.shape, is_coalesced=True, check_invariants=False)
    else:
        dx, dS = backward_dense(tables, *addresses, need_dx, need_dS)
    return (dx if need_dx else None), (dS if need_dS else None)


def _keep(ctx, inputs, output):
    x, tables, anchors, delays, _, residual, kind = inputs
    _, row, pair, u = output
    ctx.mark_non_differentiable(row, pair, u)
    SavedReading(ctx, tables, anchors, delays, row, pair, u, x.shape[2], residual, kind)


def _backward(ctx, v, *_):
    if v is None:
        return (None,) * 7
    dx, dS = finish_backward(ctx, v, ctx.saved_tensors)
    return dx, dS, None, None, None, None, None


lookup_operator.register_autograd(_backward, setup_context=_keep)


class FusedLookup(torch.autograd.Function):
    """The same layer with the update of its rows inside the backward pass.

    An operator must not change its inputs while gradients flow, so this one is a plain autograd function:
    ``torch.compile`` leaves it uncompiled and goes on after it.
    """

    @staticmethod
    def forward(ctx, x, tables, anchors, delays, history, residual, update):
        """Y, as ``polychron::lookup`` gives it."""
        run = arithmetic(x)
        row, pair, u = run.address(x, anchors, delays, history)
        SavedReading(ctx, tables, anchors, delays, row, pair, u, x.shape[2], residual, "fused", update)
        return run.gather(tables, row, x if residual else None)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v):
        """DL/dx; tables that ask for a gradient change instead of getting one."""
        if v is None:
            return (None,) * 7
        dx, _ = finish_backward(ctx, v, ctx.saved_tensors)
        return dx, None, None, None, None, None, None
