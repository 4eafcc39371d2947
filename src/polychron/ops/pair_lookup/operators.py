"""The transformer's attention as ``torch.library`` operators, and as an autograd function for fused updates."""

# B sequence, T position, I table, J row, K output, D distance

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops import dispatch


def arithmetic(tensor: Tensor):
    """The module whose functions compute on ``tensor``."""
    return dispatch.arithmetic(tensor, "pair_lookup")


def _sizes(anchors: Tensor, key_anchors: Tensor | None, position_code: Tensor) -> tuple[int, int, int]:
    return (
        anchors.shape[1],
        (anchors if key_anchors is None else key_anchors).shape[1],
        position_code.shape[2],
    )


@torch.library.custom_op("polychron::pair_lookup", mutates_args=())
def pair_operator(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    position_code: Tensor,
    key_anchors: Tensor | None,
    window: int | None,
    nearest: bool,
    residual: bool,
    kind: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y (B, T, K); row, pair and u of query (I, B, T), key (I, B, T) and relative position (I, D)."""
    run = arithmetic(x)
    addresses = run.address(x, anchors, key_anchors, position_code)
    sizes = _sizes(anchors, key_anchors, position_code)
    return run.gather(tables, addresses, *sizes, window, x if residual else None), *addresses


@pair_operator.register_fake
def _(x, tables, anchors, position_code, key_anchors, window, nearest, residual, kind):
    positions = (anchors.shape[0], x.shape[0], x.shape[1])
    kinds = (torch.int32, torch.uint8, x.dtype)
    return (
        x.new_empty((*x.shape[:2], tables.shape[2])),
        *(
            x.new_empty(shape, dtype=dtype)
            for shape in (positions, positions, position_code.shape[:2])
            for dtype in kinds
        ),
    )


@torch.library.custom_op("polychron::pair_lookup_backward_dense", mutates_args=())
def _backward_dense(
    tables: Tensor,
    anchors: Tensor,
    key_anchors: Tensor | None,
    addresses: list[Tensor],
    v: Tensor,
    n_inputs: int,
    n_code: int,
    window: int | None,
    nearest: bool,
    residual: bool,
    need_dx: bool,
    need_dV: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dx, dL/dposition_code and dL/dV; the first and the last are empty unless wanted."""
    kind = "dense" if need_dV else "none"
    dx, dcode, dV, _ = arithmetic(v).backward(
        tables, anchors, key_anchors, addresses, v, n_inputs, n_code, window, nearest, residual, need_dx, kind, None
    )
    return dx, dcode, v.new_empty(0) if dV is None else dV


@_backward_dense.register_fake
def _(tables, anchors, key_anchors, addresses, v, n_inputs, n_code, window, nearest, residual, need_dx, need_dV):
    return (
        v.new_empty((*v.shape[:2], n_inputs)) if need_dx else v.new_empty(0),
        v.new_empty((*addresses[6].shape, n_code)),
        torch.empty_like(tables, memory_format=torch.contiguous_format) if need_dV else v.new_empty(0),
    )


def _options(ctx, x, position_code, window, nearest, residual) -> None:
    ctx.options = (x.shape[2], position_code.shape[2], window, nearest, residual)
    ctx.set_materialize_grads(False)


def _keep(ctx, inputs, output):
    x, tables, anchors, position_code, key_anchors, window, nearest, residual, ctx.kind = inputs
    _, *addresses = output
    ctx.mark_non_differentiable(*addresses)
    ctx.save_for_backward(tables, anchors, key_anchors, *addresses)
    _options(ctx, x, position_code, window, nearest, residual)


def _backward(ctx, v, *_):
    if v is None:
        return (None,) * 9
    tables, anchors, key_anchors, *addresses = ctx.saved_tensors
    need_dx, need_dV, *_ = ctx.needs_input_grad
    if ctx.kind == "sparse" and need_dV:
        dx, dcode, _, (indices, values) = arithmetic(v).backward(
            tables, anchors, key_anchors, addresses, v, *ctx.options, need_dx, "sparse", None
        )
        # Each row is listed once and in order: that is what coalesced means.
        dV = torch.sparse_coo_tensor(indices, values, tables.shape, is_coalesced=True, check_invariants=False)
    else:
        dx, dcode, dV = _backward_dense(tables, anchors, key_anchors, addresses, v, *ctx.options, need_dx, need_dV)
    return dx if need_dx else None, dV if need_dV else None, None, dcode, None, None, None, None, None


pair_operator.register_autograd(_backward, setup_context=_keep)


class FusedPairLookup(torch.autograd.Function):
    """The same attention with the update of its rows inside the backward pass; see ``FusedLookup``."""

    @staticmethod
    def forward(ctx, x, tables, anchors, position_code, key_anchors, window, nearest, residual, update):
        """Y, as ``polychron::pair_lookup`` gives it."""
        run = arithmetic(x)
        addresses = run.address(x, anchors, key_anchors, position_code)
        learns = ctx.needs_input_grad[1]
        # Tables that learn are kept out of autograd's guard of saved tensors: they are changed on purpose.
        ctx.tables, ctx.update = (tables.detach(), update) if learns else (None, None)
        ctx.save_for_backward(None if learns else tables, anchors, key_anchors, *addresses)
        _options(ctx, x, position_code, window, nearest, residual)
        sizes = _sizes(anchors, key_anchors, position_code)
        return run.gather(tables, addresses, *sizes, window, x if residual else None)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v):
        """DL/dx and DL/dposition_code; tables that ask for a gradient change instead of getting one."""
        if v is None:
            return (None,) * 9
        tables, anchors, key_anchors, *addresses = ctx.saved_tensors
        update, need_dx = ctx.update, ctx.needs_input_grad[0]
        tables, kind = (tables, "none") if update is None else (ctx.tables, update.kind)
        dx, dcode, _, _ = arithmetic(v).backward(
            tables, anchors, key_anchors, addresses, v, *ctx.options, need_dx, kind, update
        )
        return dx if need_dx else None, None, None, dcode, None, None, None, None, None
