"""The native kernels of the layer, with outputs allocated here: float32 (tables: or bfloat16), CPU, contiguous.

The extension takes numpy views of the tensors' memory: they cost a third of what a tensor's own DLPack export does.
"""

# B sequence, T position, I table, J row, K output

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from polychron.ops.dispatch import native
from polychron.ops.row_layout import has_even_rows
from polychron.ops.row_update import RowUpdate


def view(tensor: Tensor | None) -> np.ndarray | None:
    """The same memory as the extension takes it; a copy only where the tensor is not contiguous."""
    if tensor is None:
        return None
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def writable(tensor: Tensor | None) -> np.ndarray | None:
    """The same memory, for the extension to write to; the tensor must be contiguous."""
    if tensor is None:
        return None
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def rows_view(rows: Tensor) -> np.ndarray:
    """The memory of rows (., ., K) as the extension takes it: they may be padded, if evenly; otherwise a copy."""
    if not has_even_rows(rows):
        rows = rows.contiguous()
    if rows.requires_grad:
        rows = rows.detach()
    # numpy has no bfloat16: the extension takes its 16 bits.
    return (rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows).numpy()


def address(x: Tensor, anchors: Tensor, delays: Tensor | None, history: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Row (int32), pair (uint8) and u (float32), each (I, B, T)."""
    shape = (anchors.shape[0], x.shape[0], x.shape[1])
    row = np.empty(shape, dtype=np.int32)
    pair = np.empty(shape, dtype=np.uint8)
    u = np.empty(shape, dtype=np.float32)
    native.hash(view(x), view(history), view(anchors), view(delays), row, pair, u, torch.get_num_threads())
    return torch.from_numpy(row), torch.from_numpy(pair), torch.from_numpy(u)


def gather(tables: Tensor, row: Tensor, residual: Tensor | None) -> Tensor:
    """[residual +] sum_i S[i, row_i]: (B, T, K)."""
    y = np.empty((row.shape[1], row.shape[2], tables.shape[2]), dtype=np.float32)
    native.gather(rows_view(tables), view(row), view(residual), y, torch.get_num_threads())
    return torch.from_numpy(y)


def backward_of(
    tables: Tensor,
    anchors: np.ndarray,
    delays: np.ndarray | None,
    row: np.ndarray,
    pair: np.ndarray,
    u: np.ndarray,
    v: Tensor,
    n_inputs: int,
    residual: bool,
    need_dx: bool,
    kind: str,
    update: RowUpdate | None = None,
    dense: Tensor | None = None,
) -> tuple[np.ndarray | None, tuple[np.ndarray, np.ndarray] | None]:
    """dL/dx, and for kind "sparse" the rows read and their gradients; the others write to ``dense`` or ``tables``."""
    dx = np.empty((*v.shape[:2], n_inputs), dtype=np.float32) if need_dx else None
    sparse = native.lookup_backward(
        rows_view(tables), anchors, delays, row, pair, u, rows_view(v), n_inputs, residual, dx, kind,
        *update_numbers(update), writable(dense), torch.get_num_threads(),
    )  # fmt: skip
    return dx, sparse


def _backward(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx, kind, update=None, dense=None):
    addresses = (view(anchors), view(delays), view(row), view(pair), view(u))
    dx, sparse = backward_of(tables, *addresses, v, n_inputs, residual, need_dx, kind, update, dense)
    return torch.from_numpy(dx) if need_dx else torch.empty(0, dtype=torch.float32, device="cpu"), sparse


def update_numbers(
    update: RowUpdate | None,
) -> tuple[float, float, tuple[float, ...], float, int, np.ndarray | None]:
    """Rate, epsilon, betas, cap, seed and state as the extension takes them; an infinite cap is none."""
    if update is None:
        return 0.0, 0.0, (), math.inf, 0, None
    cap = math.inf if update.visit_cap is None else float(update.visit_cap)
    betas = tuple(number for beta in update.betas for number in (beta, 1 - beta)) if update.kind == "adam" else ()
    state = None if update.state is None else update.state.flatten(1)
    return update.step_rate, update.epsilon, betas, cap, update.seed, writable(state)


def latency_gradient(tables, anchors, delays, row, pair, u, v, n_inputs: int, residual: bool) -> Tensor:
    """dL/dx (B, T, n_inputs); nothing becomes of the rows' gradient."""
    return _backward(tables, anchors, delays, row, pair, u, v, n_inputs, residual, True, "none")[0]


def backward_dense(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx) -> tuple[Tensor, Tensor]:
    """dL/dx (empty unless wanted) and dL/dS (I, J, K)."""
    dense = torch.zeros(tables.shape, dtype=torch.float32, device="cpu")
    dx, _ = _backward(
        tables,
        anchors,
        delays,
        row,
        pair,
        u,
        v,
        n_inputs,
        residual,
        need_dx,
        "dense",
        dense=dense,
    )
    return dx, dense.to(tables.dtype)


def backward_sparse(
    tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dx (empty unless wanted), indices (2, M) of the rows read, table first, and their gradients (M, K)."""
    dx, (indices, values) = _backward(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx, "sparse")
    return dx, torch.from_numpy(indices), torch.from_numpy(values).to(tables.dtype)


def backward_fused(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx, update: RowUpdate) -> Tensor:
    """dL/dx (empty unless wanted); ``tables`` and ``update.state`` are updated in place."""
    return _backward(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx, update.kind, update)[0]
