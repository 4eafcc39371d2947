"""The layer of look-up tables in plain PyTorch, in the order of the paper's equations: the definition.

:func:`lookup` is differentiable by autograd and *is* the layer. The other functions are its parts, and its gradient
written out, in the form that the native kernels share: they serve where no kernel fits.
"""

# B sequence, T position, I table, R comparison, J row, K output

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops.checks import check_anchor_range, check_delay_range
from polychron.ops.row_update import RowUpdate, apply_merged


def surrogate(u: Tensor) -> Tensor:
    """U(u) = 0.5 / (1 + |u|) of equation 4, whose slope at a tie is +0.5: sign(0) = -1, so that a tie still learns."""
    magnitude = torch.where(u > 0, u, -u)
    return 0.5 / (1 + magnitude)


def surrogate_slope(u: Tensor) -> Tensor:
    """U'(u) = -0.5 sign(u) / (1 + |u|)^2 with sign(0) = -1."""
    return torch.where(u > 0, -0.5, 0.5).to(u.dtype) / (1 + u.abs()).square()


def comparisons(x: Tensor, anchors: Tensor, delays: Tensor | None = None, history: Tensor | None = None) -> Tensor:
    """u[i, r, b, t] = x[b, t - d_a, a] - x[b, t - d_b, b']: (I, R, B, T); before sequence and history x is 0."""
    B, T, n = x.shape
    if delays is None:
        return (x[..., anchors[..., 0].long()] - x[..., anchors[..., 1].long()]).permute(2, 3, 0, 1)
    n_past = int(delays.max())
    past = x.new_zeros(B, n_past, n)
    if history is not None and n_past > 0:
        kept = min(n_past, history.shape[1])
        past[:, n_past - kept :] = history[:, history.shape[1] - kept :]
    x = torch.cat([past, x], dim=1)
    time = torch.arange(T, device=x.device) + n_past
    spike = x[:, time - delays[..., None].long(), anchors[..., None].long()]  # B I R 2 T
    return (spike[:, :, :, 0] - spike[:, :, :, 1]).permute(1, 2, 0, 3)


def hash_order(
    x: Tensor, anchors: Tensor, delays: Tensor | None = None, history: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Row, pair nearest to flipping, and its u (equations 2 and 6), each (I, B, T).

    j = sum_r (u_r > 0) << r; a tie (u = 0) gives bit 0; the first of several smallest |u| is taken; NaN counts as
    furthest from flipping.
    """
    u = comparisons(x, anchors, delays, history)
    weight = 1 << torch.arange(u.shape[1], device=x.device)
    row = ((u > 0) * weight[:, None, None]).sum(dim=1)
    pair = u.detach().abs().nan_to_num(nan=torch.inf, posinf=torch.inf).argmin(dim=1)
    return row, pair, u.gather(1, pair[:, None])[:, 0]


def read_rows(tables: Tensor, row: Tensor) -> Tensor:
    """S[i, row_i]: (I, B, T, K), rows of bfloat16 as float32."""
    rows = tables[torch.arange(len(tables), device=tables.device)[:, None, None], row.long()]
    return rows.float() if rows.dtype == torch.bfloat16 else rows


def flip(row: Tensor, pair: Tensor) -> Tensor:
    """The neighbour row: bit ``pair`` inverted."""
    return row.long() ^ (1 << pair.long())


def lookup(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    delays: Tensor | None = None,
    history: Tensor | None = None,
    residual: bool = False,
) -> Tensor:
    """y = [x +] sum_i S[i, j_i] (equation 3), differentiable: exact in S, the surrogate of equation 4 in x.

    The surrogate y ~ sum_i S_j + U(u) (S_jbar - S_j) enters with its value taken away, so that only its gradient acts.
    """
    row, pair, u = hash_order(x, anchors, delays, history)
    here = read_rows(tables, row)
    there = read_rows(tables, flip(row, pair))
    weight = surrogate(u)[..., None]
    y = (here + (weight - weight.detach()) * (there - here).detach()).sum(dim=0)
    return x + y if residual else y


def address(x: Tensor, anchors: Tensor, delays: Tensor | None, history: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`hash_order` in the storage types of the operators: int32, uint8 and x's own."""
    check_anchor_range(anchors, x.shape[2])
    check_delay_range(delays)
    row, pair, u = hash_order(x, anchors, delays, history)
    return row.int().contiguous(), pair.to(torch.uint8).contiguous(), u.contiguous()


def gather(tables: Tensor, row: Tensor, residual: Tensor | None) -> Tensor:
    """[residual +] sum_i S[i, row_i]."""
    y = read_rows(tables, row).sum(dim=0)
    return y if residual is None else residual + y


def latency_gradient(
    tables: Tensor,
    anchors: Tensor,
    delays: Tensor | None,
    row: Tensor,
    pair: Tensor,
    u: Tensor,
    v: Tensor,
    n_inputs: int,
    residual: bool,
) -> Tensor:
    """dL/dx (equations 5 and 8): g_i = v . (S_jbar - S_j); U'(u_i) g_i is added at one anchor, taken at the other."""
    gain = ((read_rows(tables, flip(row, pair)) - read_rows(tables, row)) * v).sum(dim=-1)
    start = v if residual else v.new_zeros(*v.shape[:2], n_inputs)
    return scatter(start, surrogate_slope(u) * gain, anchors, delays, pair)


def scatter(start: Tensor, slope: Tensor, anchors: Tensor, delays: Tensor | None, pair: Tensor) -> Tensor:
    """start + slope at (t - d_a, a) - slope at (t - d_b, b); what would arrive before the sequence is lost."""
    dx = start.clone()
    n_tables, B, T = slope.shape
    table = torch.arange(n_tables, device=dx.device)[:, None, None]
    sequence = torch.arange(B, device=dx.device)[:, None].expand(n_tables, B, T)
    for end, sign in ((0, 1), (1, -1)):
        neuron = anchors[table, pair.long(), end].long()
        time = torch.arange(T, device=dx.device).expand(n_tables, B, T)
        if delays is not None:
            time = time - delays[table, pair.long(), end]
        inside = time >= 0
        dx.index_put_((sequence[inside], time[inside], neuron[inside]), sign * slope[inside], accumulate=True)
    return dx


def table_gradient(tables: Tensor, row: Tensor, v: Tensor) -> Tensor:
    """dL/dS (equation 7): v is added to the selected row of each table, nothing to any other. Exact; of v's type."""
    dS = torch.zeros(tables.shape, dtype=v.dtype, device=tables.device)
    table = torch.arange(len(tables), device=tables.device)[:, None, None].expand(row.shape)
    return dS.index_put_((table, row.long()), v.expand(*row.shape, v.shape[-1]), accumulate=True)


def online_sgd(tables: Tensor, row: Tensor, pair: Tensor, v: Tensor, rate: float) -> Tensor:
    """One position after another: the gain (I, B, T) from the rows as they are now, then S_j <- S_j - rate v."""
    gain = torch.empty(row.shape, dtype=v.dtype, device=v.device)
    table = torch.arange(len(tables), device=tables.device)
    for b in range(row.shape[1]):
        for t in range(row.shape[2]):
            here = row[:, b, t].long()
            there = flip(row[:, b, t], pair[:, b, t])
            gain[:, b, t] = (tables[table, there] - tables[table, here]) @ v[b, t]
            tables[table, here] -= rate * v[b, t]
    return gain


def backward_dense(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx) -> tuple[Tensor, Tensor]:
    """dL/dx (empty unless wanted) and dL/dS."""
    dx, dS = _gradients(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx)
    return dx, dS.to(tables.dtype)


def _gradients(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx) -> tuple[Tensor, Tensor]:
    dx = v.new_empty(0)
    if need_dx:
        dx = latency_gradient(tables, anchors, delays, row, pair, u, v, n_inputs, residual)
    return dx, table_gradient(tables, row, v)


def backward_sparse(
    tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dx (empty unless wanted), indices (2, M) of the rows read, table first, and their gradients (M, K)."""
    dx, dS = backward_dense(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx)
    table = torch.arange(len(tables), device=tables.device)[:, None, None].expand(row.shape)
    indices = torch.unique(torch.stack([table.flatten(), row.long().flatten()]), dim=1)
    return dx, indices, dS[indices[0], indices[1]]


def count_visits(tables: Tensor, row: Tensor) -> Tensor:
    """How often each row is read: row (I, ...) to (I, J)."""
    visits = row.new_zeros(tables.shape[:2], dtype=torch.int64)
    return visits.scatter_add_(1, row.long().flatten(1), torch.ones_like(row, dtype=torch.int64).flatten(1))


def backward_fused(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx, update: RowUpdate) -> Tensor:
    """dL/dx (empty unless wanted); ``tables`` and ``update.state`` are updated in place."""
    if update.kind == "online_sgd":
        gain = online_sgd(tables, row, pair, v, update.step_rate)
        if not need_dx:
            return v.new_empty(0)
        start = v if residual else v.new_zeros(*v.shape[:2], n_inputs)
        return scatter(start, surrogate_slope(u) * gain, anchors, delays, pair)
    dx, dS = _gradients(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx)
    apply_merged(tables, dS, count_visits(tables, row), update)
    return dx
