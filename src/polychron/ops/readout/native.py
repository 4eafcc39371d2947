"""The native kernels of the readout: float32, CPU."""

# B sequence, T position, K output

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops.dispatch import native
from polychron.ops.lookup.native import rows_view, view
from polychron.ops.row_layout import row_stride


def loss_and_error(tables: Tensor, row: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Nats (B, T), and softmax - one-hot (B, T, K): the gradient of the nats in the logits."""
    return _loss_and_error(tables, row, targets, tables.shape[2])


def loss_and_padded_error(tables: Tensor, row: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same, the error's rows spaced so that they straddle no more cache lines than they must."""
    return _loss_and_error(tables, row, targets, row_stride(tables.shape[2]))


def _loss_and_error(tables: Tensor, row: Tensor, targets: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    nats = torch.empty(targets.shape, dtype=torch.float32, device="cpu")
    error = torch.empty((*targets.shape, stride), dtype=torch.float32, device="cpu")[..., : tables.shape[2]]
    native.readout_cross_entropy(
        rows_view(tables), view(row), view(targets), nats.numpy(), error.numpy(), torch.get_num_threads()
    )
    return nats, error


def weigh(error: Tensor, weight: Tensor) -> Tensor:
    """Weight (B, T) times error (B, T, K); the error itself where every weight is 1, as for a sum of losses."""
    weight = weight.detach().contiguous().numpy()
    if (weight == 1.0).all():
        return error
    out = torch.empty_strided(error.shape, error.stride(), dtype=torch.float32, device="cpu")
    native.weigh_error(error.numpy(), weight, out.numpy(), torch.get_num_threads())
    return out
