"""The readout with its loss as a ``torch.library`` operator, and as an autograd function for fused updates.

The gradient of the logits (softmax - one-hot) is made in the forward pass, while they are in cache, and kept: the
backward pass weighs it with the loss's gradient and goes the way of the layer's.
"""

# B sequence, T position, I table, K output

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops import dispatch
from polychron.ops.lookup import operators as lookup


def _arithmetic(tensor: Tensor):
    return dispatch.arithmetic(tensor, "readout")


@torch.library.custom_op("polychron::readout_cross_entropy", mutates_args=())
def readout_operator(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    delays: Tensor | None,
    targets: Tensor,
    history: Tensor | None,
    kind: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Nats (B, T); error (B, T, K); row, pair, u, each (I, B, T)."""
    row, pair, u = lookup.arithmetic(x).address(x, anchors, delays, history)
    return *_arithmetic(x).loss_and_error(tables, row, targets), row, pair, u


@readout_operator.register_fake
def _(x, tables, anchors, delays, targets, history, kind):
    shape = (anchors.shape[0], x.shape[0], x.shape[1])
    return (
        x.new_empty(targets.shape),
        x.new_empty((*targets.shape, tables.shape[2])),
        x.new_empty(shape, dtype=torch.int32),
        x.new_empty(shape, dtype=torch.uint8),
        x.new_empty(shape),
    )


@torch.library.custom_op("polychron::weigh_error", mutates_args=())
def _weigh(error: Tensor, weight: Tensor) -> Tensor:
    out = _arithmetic(error).weigh(error, weight)
    return out.clone() if out is error else out  # an operator must not return its input


@_weigh.register_fake
def _(error, weight):
    return torch.empty_like(error)


def _keep(ctx, inputs, output):
    x, tables, anchors, delays, _, _, kind = inputs
    _, error, row, pair, u = output
    ctx.mark_non_differentiable(error, row, pair, u)
    lookup.SavedReading(ctx, tables, anchors, delays, row, pair, u, x.shape[2], False, kind, error=error)


def _backward(ctx, weight, *_):
    if weight is None:
        return (None,) * 7
    saved = ctx.saved_tensors
    dx, dS = lookup.finish_backward(ctx, _weigh(saved[-1], weight), saved)
    return dx, dS, None, None, None, None, None


readout_operator.register_autograd(_backward, setup_context=_keep)


class FusedReadout(torch.autograd.Function):
    """The same readout with the update of its rows inside the backward pass; see ``FusedLookup``."""

    @staticmethod
    def forward(ctx, x, tables, anchors, delays, targets, history, update):
        """Nats, as ``polychron::readout_cross_entropy`` gives them."""
        row, pair, u = lookup.arithmetic(x).address(x, anchors, delays, history)
        nats, error = _arithmetic(x).loss_and_padded_error(tables, row, targets)
        lookup.SavedReading(ctx, tables, anchors, delays, row, pair, u, x.shape[2], False, "fused", update, error)
        return nats

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, weight):
        """DL/dx; tables that ask for a gradient change instead of getting one."""
        if weight is None:
            return (None,) * 7
        saved = ctx.saved_tensors
        dx, _ = lookup.finish_backward(ctx, _arithmetic(weight).weigh(saved[-1], weight), saved)
        return dx, None, None, None, None, None, None
