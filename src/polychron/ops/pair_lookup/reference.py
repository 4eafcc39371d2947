"""The transformer's attention in plain PyTorch (paper, equations 14 and 15): the definition.

:func:`pair_lookup` is differentiable by autograd. :func:`backward` is its gradient written out in the form that the
native kernels share; it serves where no kernel fits.
"""

# B sequence, T position, I table, R comparison, J row, K output, M pair of positions (t, s), D distance

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops.checks import check_anchor_range
from polychron.ops.lookup.reference import count_visits, hash_order, scatter, surrogate, surrogate_slope
from polychron.ops.row_update import apply_merged


def pairs_of_positions(
    n_positions: int, window: int | None, n_past: int = 0, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """All (t, s, distance), t ascending, then s ascending, each (M,); s counts from ``n_past`` keys before t = 0."""
    t, s = torch.tril_indices(n_positions, n_past + n_positions, offset=n_past - 1, device=device)
    distance = t + n_past - s
    inside = distance <= (n_past + n_positions if window is None else window)
    return t[inside], s[inside], distance[inside]


def hash_code(code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, pair and u of the relative-position code (I, D, p), each value compared with 0: each (I, D)."""
    if code.shape[2] == 0:
        nothing = torch.zeros(code.shape[:2], dtype=torch.int64, device=code.device)
        return nothing, nothing, code.new_full(code.shape[:2], torch.inf)
    weight = 1 << torch.arange(code.shape[2], device=code.device)
    pair = code.detach().abs().nan_to_num(nan=torch.inf, posinf=torch.inf).argmin(dim=2)
    return ((code > 0) * weight).sum(dim=2), pair, code.gather(2, pair[..., None])[..., 0]


def join(query: Tensor, key: Tensor, code: Tensor, n_key: int, n_code: int) -> Tensor:
    """The index of equation 15: query bits, then key bits, then those of the relative position."""
    return query.long() << (n_key + n_code) | key.long() << n_code | code.long()


class Readings:
    """Rows, neighbours and the comparison nearest to flipping, of every pair of positions: each (I, B, M)."""

    def __init__(self, addresses, n_key: int, n_code: int, n_positions: int, window: int | None, nearest: bool):
        query, key, code = addresses
        self.t, self.s, self.d = pairs_of_positions(n_positions, window, device=query[0].device)
        (q_row, q_pair, q_u), (k_row, k_pair, k_u) = ([a[..., at] for a in part] for part, at in
                                                      ((query, self.t), (key, self.s)))  # fmt: skip
        c_row, c_pair, c_u = (a[:, None, self.d].expand(q_row.shape) for a in code)
        self.row = join(q_row, k_row, c_row, n_key, n_code)
        self.query_nearer = q_u.abs() < k_u.abs()
        self.code_nearest = (c_u.abs() < q_u.abs()) & (c_u.abs() < k_u.abs())
        bit = torch.where(self.query_nearer, q_pair.long() + n_key + n_code, k_pair.long() + n_code)
        self.flipped = self.row ^ (1 << bit)
        self.flipped_code = self.row ^ (1 << c_pair.long())
        self.acts = ~self.code_nearest if nearest else torch.ones_like(self.code_nearest)
        self.u = torch.where(self.query_nearer, q_u, k_u)
        self.u_code = c_u


def _read(tables: Tensor, row: Tensor) -> Tensor:
    rows = tables[torch.arange(len(tables), device=tables.device)[:, None, None], row]  # I B M K
    return rows.float() if rows.dtype == torch.bfloat16 else rows


def pair_lookup(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    position_code: Tensor,
    key_anchors: Tensor | None = None,
    window: int | None = None,
    position_gradient: str = "additional",
    residual: bool = False,
) -> Tensor:
    """y[t] = [x[t] +] sum_{s<t} sum_i V[i, q(t) || k(s) || PE(t - s)]; exact in V, surrogate in x and in the code."""
    query = hash_order(x, anchors)
    key = query if key_anchors is None else hash_order(x, key_anchors)
    n_key = (anchors if key_anchors is None else key_anchors).shape[1]
    nearest = position_gradient == "nearest"
    r = Readings((query, key, hash_code(position_code)), n_key, position_code.shape[2], x.shape[1], window, nearest)
    here = _read(tables, r.row)
    value = here
    for u, flipped, acts in ((r.u, r.flipped, r.acts), (r.u_code, r.flipped_code, r.code_nearest)):
        weight = surrogate(torch.where(acts, u, 0.0))[..., None]
        value = value + (weight - weight.detach()) * (acts[..., None] * (_read(tables, flipped) - here)).detach()
    y = x if residual else x.new_zeros(*x.shape[:2], tables.shape[2])
    return y.index_add(1, r.t, value.sum(dim=0))


def address(x: Tensor, anchors: Tensor, key_anchors: Tensor | None, code: Tensor) -> tuple[Tensor, ...]:
    """Row (int32), pair (uint8) and u of query (I, B, T), key (I, B, T) and relative position (I, D): nine tensors."""
    check_anchor_range(anchors, x.shape[2])
    if key_anchors is not None:
        check_anchor_range(key_anchors, x.shape[2], "key_anchors")
    query = hash_order(x, anchors)
    key = query if key_anchors is None else hash_order(x, key_anchors)
    kinds = (torch.int32, torch.uint8, x.dtype)
    return tuple(
        a.to(kind, copy=True) for part in (query, key, hash_code(code)) for a, kind in zip(part, kinds, strict=True)
    )


def gather(
    tables: Tensor, addresses, n_query: int, n_key: int, n_code: int, window: int | None, residual: Tensor | None
) -> Tensor:
    """[residual +] the sum of the rows of all pairs: (B, T, K).

    Keys (I, B, n_past + T) may begin before the queries (I, B, T).
    """
    query, key, code = addresses[0], addresses[3], addresses[6]
    _, B, T = query.shape
    t, s, d = pairs_of_positions(T, window, n_past=key.shape[2] - T, device=query.device)
    row = join(query[..., t], key[..., s], code[:, None, d], n_key, n_code)
    y = _read(tables, row).sum(dim=0)
    start = y.new_zeros(B, T, tables.shape[2]) if residual is None else residual
    return start.index_add(1, t, y)


def backward(
    tables, anchors, key_anchors, addresses, v, n_inputs, n_code, window, nearest, residual, need_dx, kind, update
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
    """dL/dx (empty unless wanted), dL/dposition_code, and for the tables:

    dL/dV if kind is "dense", (indices, values) if "sparse", nothing if "none"; otherwise they are updated in place.
    """
    query, key, code = addresses[0:3], addresses[3:6], addresses[6:9]
    n_tables, B, T = query[0].shape
    n_key = (anchors if key_anchors is None else key_anchors).shape[1]
    r = Readings((query, key, code), n_key, n_code, T, window, nearest)
    v_pair = v[:, r.t]  # B M K
    if kind == "online_sgd":
        gain, gain_code = _online_sgd(tables, r, v_pair, update.step_rate)
    else:
        here = _read(tables, r.row)
        gain = ((_read(tables, r.flipped) - here) * v_pair).sum(dim=-1)
        gain_code = ((_read(tables, r.flipped_code) - here) * v_pair).sum(dim=-1)
    gain = gain * r.acts
    gain_code = gain_code * r.code_nearest

    dx = v.new_empty(0)
    if need_dx:
        start = v if residual else v.new_zeros(B, T, n_inputs)
        dx = _latency_gradient(start, r, gain, query, key, anchors, key_anchors)
    code_gain = v.new_zeros(n_tables, code[0].shape[1]).index_add(1, r.d, gain_code.sum(dim=1))
    dcode = v.new_zeros(n_tables, code[0].shape[1], n_code)
    if n_code > 0:
        slope = torch.where(code[2].isnan(), 0.0, surrogate_slope(code[2]) * code_gain)  # NaN is never nearest
        dcode.scatter_(2, code[1].long()[..., None], slope[..., None])

    if kind in ("none", "online_sgd"):
        return dx, dcode, None, None
    dV = torch.zeros(tables.shape, dtype=v.dtype, device=v.device)
    table = torch.arange(n_tables, device=v.device)[:, None, None].expand(r.row.shape)
    dV.index_put_((table, r.row), v_pair.expand(*r.row.shape, v.shape[2]), accumulate=True)
    if kind == "dense":
        return dx, dcode, dV.to(tables.dtype), None
    if kind == "sparse":
        indices = torch.unique(torch.stack([table.flatten(), r.row.flatten()]), dim=1)
        return dx, dcode, None, (indices, dV[indices[0], indices[1]].to(tables.dtype))
    apply_merged(tables, dV, count_visits(tables, r.row), update)
    return dx, dcode, None, None


def _latency_gradient(start: Tensor, r: Readings, gain: Tensor, query, key, anchors, key_anchors) -> Tensor:
    """Each pair's gain goes to the query's or the key's nearest comparison, at its own position."""
    none = torch.zeros_like(query[2])
    query_gain = none.index_add(2, r.t, gain * r.query_nearer)
    key_gain = none.index_add(2, r.s, gain * ~r.query_nearer)
    dx = scatter(start, surrogate_slope(query[2]) * query_gain, anchors, None, query[1])
    return scatter(
        dx, surrogate_slope(key[2]) * key_gain, anchors if key_anchors is None else key_anchors, None, key[1]
    )


def _online_sgd(tables: Tensor, r: Readings, v_pair: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Pair after pair: gains from the rows as they are now, then S_j <- S_j - rate v."""
    gain, gain_code = torch.empty(2, *r.row.shape, dtype=v_pair.dtype, device=v_pair.device)
    table = torch.arange(len(tables), device=tables.device)
    for b in range(r.row.shape[1]):
        for m in range(r.row.shape[2]):
            row, v = r.row[:, b, m], v_pair[b, m]
            here = tables[table, row]
            gain[:, b, m] = (tables[table, r.flipped[:, b, m]] - here) @ v
            gain_code[:, b, m] = (tables[table, r.flipped_code[:, b, m]] - here) @ v
            tables[table, row] = here - rate * v
    return gain, gain_code
