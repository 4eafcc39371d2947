"""The native kernels of the transformer's attention: float32, CPU."""

# B sequence, T position, I table, J row, K output, D distance

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polychron.ops.checks import check_anchor_range
from polychron.ops.dispatch import native
from polychron.ops.lookup import native as lookup
from polychron.ops.lookup.native import rows_view, update_numbers, view, writable


def address(x: Tensor, anchors: Tensor, key_anchors: Tensor | None, code: Tensor) -> tuple[Tensor, ...]:
    """Row (int32), pair (uint8) and u of query (I, B, T), key (I, B, T) and relative position (I, D): nine tensors."""
    query = lookup.address(x, anchors, None, None)
    if key_anchors is not None:
        check_anchor_range(key_anchors, x.shape[2], "key_anchors")  # the extension would say "anchors"
    # Shared anchors: a position is hashed once; the copy is for the operator, whose outputs must not overlap.
    key = tuple(a.clone() for a in query) if key_anchors is None else lookup.address(x, key_anchors, None, None)
    return *query, *key, *address_code(code)


def address_code(code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, pair and u of the relative-position code (I, D, p): each (I, D)."""
    row = np.empty(code.shape[:2], dtype=np.int32)
    pair = np.empty(code.shape[:2], dtype=np.uint8)
    u = np.empty(code.shape[:2], dtype=np.float32)
    native.hash_position_code(view(code), row, pair, u)
    return torch.from_numpy(row), torch.from_numpy(pair), torch.from_numpy(u)


def _window(window: int | None, n_positions: int) -> int:
    return max(1, n_positions) if window is None else window


def gather(
    tables: Tensor, addresses, n_query: int, n_key: int, n_code: int, window: int | None, residual: Tensor | None
) -> Tensor:
    """[residual +] the sum of the rows of all pairs: (B, T, K).

    Keys (I, B, n_past + T) may begin before the queries (I, B, T).
    """
    query_row, key_row, code_row = addresses[0], addresses[3], addresses[6]
    if residual is None:
        y = np.zeros((*query_row.shape[1:], tables.shape[2]), dtype=np.float32)
    else:
        y = view(residual).copy()
    native.pair_gather(
        rows_view(tables), view(query_row), view(key_row), view(code_row), n_query, n_key, n_code,
        _window(window, key_row.shape[2]), y, torch.get_num_threads(),
    )  # fmt: skip
    return torch.from_numpy(y)


def backward(
    tables, anchors, key_anchors, addresses, v, n_inputs, n_code, window, nearest, residual, need_dx, kind, update
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
    """dL/dx (empty unless wanted), dL/dposition_code, and for the tables:

    dL/dV if kind is "dense", (indices, values) if "sparse", nothing if "none"; otherwise they are updated in place.
    """
    dx = np.empty((*v.shape[:2], n_inputs), dtype=np.float32) if need_dx else None
    dcode = np.empty((*addresses[6].shape, n_code), dtype=np.float32)
    dense = torch.zeros(tables.shape, dtype=torch.float32, device="cpu") if kind == "dense" else None
    sparse = native.pair_backward(
        rows_view(tables), view(anchors), view(key_anchors), *(view(a) for a in addresses), view(v),
        n_inputs, n_code, _window(window, v.shape[1]), nearest, residual, dx, dcode, kind,
        *update_numbers(update), writable(dense), torch.get_num_threads(),
    )  # fmt: skip
    pieces = None
    if sparse is not None:
        pieces = torch.from_numpy(sparse[0]), torch.from_numpy(sparse[1]).to(tables.dtype)
    dense = None if dense is None else dense.to(tables.dtype)
    dx = torch.from_numpy(dx) if need_dx else torch.empty(0, dtype=torch.float32, device="cpu")
    return dx, torch.from_numpy(dcode), dense, pieces
