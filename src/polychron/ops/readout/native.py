"""The native kernels of the readout: float32, CPU."""

# B sequence, T position, K output

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polychron.ops.dispatch import native
from polychron.ops.lookup.native import view


def loss_and_error(tables: Tensor, row: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Nats (B, T), and softmax - one-hot (B, T, K): the gradient of the nats in the logits."""
    nats = np.empty(targets.shape, dtype=np.float32)
    error = np.empty((*targets.shape, tables.shape[2]), dtype=np.float32)
    native.readout_cross_entropy(view(tables), view(row), view(targets), nats, error, torch.get_num_threads())
    return torch.from_numpy(nats), torch.from_numpy(error)


def weigh(error: Tensor, weight: Tensor) -> Tensor:
    """Weight (B, T) times error (B, T, K); the error itself where every weight is 1, as for a sum of losses."""
    weight = weight.detach().contiguous().numpy()
    if (weight == 1.0).all():
        return error
    out = np.empty(error.shape, dtype=np.float32)
    native.weigh_error(view(error), weight, out, torch.get_num_threads())
    return torch.from_numpy(out)
