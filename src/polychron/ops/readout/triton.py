"""The readout as a Triton kernel, for CUDA: row sums, softmax, its gradient in one pass; see ``lookup/triton.py``."""

# B sequence, T position in it, P position of all sequences, I table, K output

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from polychron.ops.checks import check_target_range
from polychron.ops.readout import reference
from polychron.ops.readout.reference import weigh
from polychron.ops.triton_rows import device_of, readable

__all__ = ["loss_and_error", "loss_and_padded_error", "weigh"]

_TILE = 1024
# A program holds all logits of its positions; what has more outputs goes to the reference.
_MOST_OUTPUTS = 1 << 14


@triton.jit
def _loss_and_error(
    tables, row, targets, nats, error, n_tables, P, K, stride_i, stride_j, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr
):
    """-log softmax(sum_i S[i, row_i])[target] and softmax - one-hot."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)
    inside = (p < P)[:, None] & (k < K)[None, :]
    logits = tl.zeros([BLOCK_P, BLOCK_K], tl.float32)
    for _ in range(n_tables):
        j = tl.load(row + p, mask=p < P, other=0).to(tl.int64)
        logits += tl.load(tables + j[:, None] * stride_j + k[None, :], mask=inside, other=0.0).to(tl.float32)
        tables += stride_i
        row += P
    logits = tl.where((k < K)[None, :], logits, float("-inf"))
    logits -= tl.max(logits, axis=1)[:, None]
    odds = tl.exp(logits)
    total = tl.sum(odds, axis=1)
    is_target = tl.load(targets + p, mask=p < P, other=0)[:, None] == k[None, :]
    tl.store(nats + p, tl.log(total) - tl.sum(tl.where(is_target, logits, 0.0), axis=1), mask=p < P)
    probability = tl.math.div_rn(odds, tl.zeros_like(odds) + total[:, None])
    out = p.to(tl.int64)[:, None] * K + k[None, :]
    tl.store(error + out, tl.where(is_target, probability - 1, probability), mask=inside)


def loss_and_error(tables: Tensor, row: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Nats (B, T), and softmax - one-hot (B, T, K): the gradient of the nats in the logits."""
    K, P = tables.shape[2], targets.numel()
    if K > _MOST_OUTPUTS or P == 0:
        return reference.loss_and_error(tables, row, targets)
    check_target_range(targets, K)
    tables = readable(tables)
    nats = torch.empty(targets.shape, dtype=torch.float32, device=row.device)
    error = torch.empty((*targets.shape, K), dtype=torch.float32, device=row.device)
    block_k = triton.next_power_of_2(K)
    block_p = max(1, min(32, _TILE // block_k))
    with device_of(row):
        _loss_and_error[(triton.cdiv(P, block_p),)](
            tables, row.contiguous(), targets.contiguous(), nats, error,
            len(row), P, K, tables.stride(0), tables.stride(1), BLOCK_P=block_p, BLOCK_K=block_k,
        )  # fmt: skip
    return nats, error


loss_and_padded_error = loss_and_error  # padding suits the native kernels only
