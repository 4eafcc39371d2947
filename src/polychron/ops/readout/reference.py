"""Readout with cross-entropy in plain PyTorch: the definition, and the parts that serve where no kernel fits."""

# B sequence, T position, K output

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops.checks import check_target_range
from polychron.ops.lookup.reference import gather, lookup


def readout_cross_entropy(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    targets: Tensor,
    delays: Tensor | None = None,
    history: Tensor | None = None,
) -> Tensor:
    """-log softmax(lookup(x))[target], (B, T); differentiable: exact in S, surrogate in x."""
    logits = lookup(x, tables, anchors, delays, history)
    return -logits.log_softmax(dim=-1).gather(-1, targets[..., None])[..., 0]


def loss_and_error(tables: Tensor, row: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Nats (B, T), and softmax - one-hot (B, T, K): the gradient of the nats in the logits."""
    check_target_range(targets, tables.shape[2])
    log_p = gather(tables, row, None).log_softmax(dim=-1)
    nats = -log_p.gather(-1, targets[..., None])[..., 0]
    return nats, log_p.exp() - torch.nn.functional.one_hot(targets, tables.shape[2])


loss_and_padded_error = loss_and_error  # padding suits the kernels only


def weigh(error: Tensor, weight: Tensor) -> Tensor:
    """Weight (B, T) times error (B, T, K)."""
    return weight[..., None] * error
