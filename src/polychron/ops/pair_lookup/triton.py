"""The transformer's attention as Triton kernels, for CUDA; what they promise is said in ``lookup/triton.py``."""

# B sequence, T position in it, P position of all sequences, I table, J row, K output, W earlier positions, D distance

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from polychron.ops import triton_rows
from polychron.ops.lookup import triton as lookup
from polychron.ops.lookup.reference import surrogate_slope
from polychron.ops.lookup.triton import slope_of
from polychron.ops.pair_lookup import reference
from polychron.ops.triton_rows import device_of, readable

_TILE = 1024
# A program reads so many rows for a position; further tables go to another, and their sums are added in order.
_READINGS = 128


@triton.jit
def _gather(
    tables, query, key, code, sums, n_tables, P, T, K, W, D, n_past, n_together, stride_i, stride_j, key_bit, query_bit,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Of some tables: the sum of the rows of all pairs of a block of positions."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    group = tl.program_id(2)
    t = p % T
    n_keys = P // T * (T + n_past)
    first = group.to(tl.int64) * n_together
    tables += first * stride_i
    query += first * P
    key += first * n_keys + p // T * (T + n_past) + n_past + t
    code += first * D
    total = tl.zeros([BLOCK_P, BLOCK_K], tl.float32)
    for _ in range(tl.minimum(n_together, n_tables - group * n_together)):
        high = tl.load(query + p, mask=p < P, other=0) << query_bit
        for w in range(W):
            distance = W - w  # keys ascending
            reads = (p < P) & (t + n_past >= distance)
            j = high | tl.load(key - distance, mask=reads, other=0) << key_bit | tl.load(code + distance)
            inside = reads[:, None] & (k < K)[None, :]
            at = j.to(tl.int64)[:, None] * stride_j + k[None, :]
            total += tl.load(tables + at, mask=inside, other=0.0).to(tl.float32)
        tables += stride_i
        query += P
        key += n_keys
        code += D
    out = (group.to(tl.int64) * P + p)[:, None] * K + k[None, :]
    tl.store(sums + out, total, mask=(p < P)[:, None] & (k < K)[None, :])


@triton.jit
def _pairs(
    tables, query, query_pair, query_u, key, key_pair, key_u, code, code_pair, code_u, v,
    rows, query_slope, key_gain, code_gain, P, T, K, J, W, D, stride_i, stride_j, key_bit, query_bit,
    NEAREST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Of one table at a block of positions t: the row of every pair, J where there is none, and to whom its gain goes.

    The query's gains are summed here; the key's and the code's (I, P, W) by their owners.
    """
    i = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_K)[None, :]
    t = p % T
    at = i * P + p
    v_here = tl.load(v + p.to(tl.int64)[:, None] * K + k, mask=(p < P)[:, None] & (k < K), other=0.0)
    q_row = tl.load(query + at, mask=p < P, other=0)
    q_pair = tl.load(query_pair + at, mask=p < P, other=0).to(tl.int32)
    q_u = tl.load(query_u + at, mask=p < P, other=0.0)
    query_gain = tl.zeros([BLOCK_P], tl.float32)
    tables += i * stride_i
    for w in range(W):
        distance = W - w  # keys ascending
        reads = (p < P) & (t >= distance)
        k_row = tl.load(key + at - distance, mask=reads, other=0)
        k_pair = tl.load(key_pair + at - distance, mask=reads, other=0).to(tl.int32)
        k_u = tl.load(key_u + at - distance, mask=reads, other=0.0)
        j = q_row << query_bit | k_row << key_bit | tl.load(code + i * D + distance)
        c_u = tl.load(code_u + i * D + distance)
        query_nearer = tl.abs(q_u) < tl.abs(k_u)
        code_nearest = (tl.abs(c_u) < tl.abs(q_u)) & (tl.abs(c_u) < tl.abs(k_u)) & reads
        acts = reads
        if NEAREST:
            acts = reads & (code_nearest == 0)
        inside = reads[:, None] & (k < K)
        here = tl.load(tables + j.to(tl.int64)[:, None] * stride_j + k, mask=inside, other=0.0).to(tl.float32)
        flipped = j ^ (1 << tl.where(query_nearer, q_pair + query_bit, k_pair + key_bit))
        there = tl.load(
            tables + flipped.to(tl.int64)[:, None] * stride_j + k, mask=acts[:, None] & (k < K), other=0.0
        ).to(tl.float32)  # fmt: skip
        gain = tl.where(acts, tl.sum((there - here) * v_here, axis=1), 0.0)
        query_gain += tl.where(query_nearer, gain, 0.0)
        flipped = j ^ (1 << tl.load(code_pair + i * D + distance).to(tl.int32))
        there = tl.load(
            tables + flipped.to(tl.int64)[:, None] * stride_j + k, mask=code_nearest[:, None] & (k < K), other=0.0
        ).to(tl.float32)  # fmt: skip
        of_code = tl.where(code_nearest, tl.sum((there - here) * v_here, axis=1), 0.0)
        out = at * W + w
        tl.store(rows + out, tl.where(reads, j, J), mask=p < P)
        tl.store(key_gain + out, tl.where(query_nearer, 0.0, gain), mask=p < P)
        tl.store(code_gain + out, of_code, mask=p < P)
    tl.store(query_slope + at, slope_of(q_u) * query_gain, mask=p < P)


@triton.jit
def _key_slopes(key_gain, key_u, key_slope, P, T, W, BLOCK: tl.constexpr):
    """U'(u) times the gains of the later positions that read this one as a key."""
    i = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at = i * P + p
    gain = tl.zeros([BLOCK], tl.float32)
    for distance in range(1, W + 1):
        reads = (p < P) & (p % T + distance < T)
        gain += tl.load(key_gain + (at + distance) * W + W - distance, mask=reads, other=0.0)
    u = tl.load(key_u + at, mask=p < P, other=0.0)
    tl.store(key_slope + at, slope_of(u) * gain, mask=p < P)


def address(x: Tensor, anchors: Tensor, key_anchors: Tensor | None, code: Tensor) -> tuple[Tensor, ...]:
    """Row (int32), pair (uint8) and u of query (I, B, T), key (I, B, T) and relative position (I, D): nine tensors."""
    query = lookup.address(x, anchors, None, None)
    key = tuple(a.clone() for a in query) if key_anchors is None else lookup.address(x, key_anchors, None, None)
    kinds = (torch.int32, torch.uint8, torch.float32)
    hashed = reference.hash_code(code.detach())
    return *query, *key, *(a.to(kind).contiguous() for a, kind in zip(hashed, kinds, strict=True))


def _reach(window: int | None, n_keys: int) -> int:
    """How many earlier positions any position attends to at most."""
    return max(0, n_keys - 1 if window is None else min(window, n_keys - 1))


def gather(
    tables: Tensor, addresses, n_query: int, n_key: int, n_code: int, window: int | None, residual: Tensor | None
) -> Tensor:
    """[residual +] the sum of the rows of all pairs: (B, T, K).

    Keys (I, B, n_past + T) may begin before the queries (I, B, T).
    """
    query, key, code = (addresses[at].contiguous() for at in (0, 3, 6))
    tables = readable(tables)
    n_tables, B, T = query.shape
    K, W = tables.shape[2], _reach(window, key.shape[2])
    if B * T == 0 or W == 0:
        zeros = torch.zeros((B, T, K), dtype=torch.float32, device=query.device)
        return zeros if residual is None else residual + zeros
    n_together = max(1, _READINGS // W)
    n_groups = triton.cdiv(n_tables, n_together)
    block_p, block_k = triton_rows.tile(K)
    sums = torch.empty((n_groups, B, T, K), dtype=torch.float32, device=query.device)
    with device_of(query):
        _gather[(triton.cdiv(B * T, block_p), triton.cdiv(K, block_k), n_groups)](
            tables, query, key, code, sums, n_tables, B * T, T, K, W, code.shape[1], key.shape[2] - T, n_together,
            tables.stride(0), tables.stride(1), n_code, n_key + n_code, BLOCK_P=block_p, BLOCK_K=block_k,
        )  # fmt: skip
    total = sums[0] if n_groups == 1 else sums.sum(dim=0)
    return total if residual is None else residual + total


def backward(
    tables, anchors, key_anchors, addresses, v, n_inputs, n_code, window, nearest, residual, need_dx, kind, update
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor] | None]:
    """dL/dx (empty unless wanted), dL/dposition_code, and for the tables:

    dL/dV if kind is "dense", (indices, values) if "sparse", nothing if "none"; otherwise they are updated in place.
    """
    query, key, code = (tuple(a.contiguous() for a in addresses[at : at + 3]) for at in (0, 3, 6))
    n_tables, B, T = query[0].shape
    K, D, W = tables.shape[2], code[0].shape[1], _reach(window, T)
    if kind == "online_sgd" or B == 0 or W == 0:
        return reference.backward(
            tables, anchors, key_anchors, addresses, v, n_inputs, n_code, window, nearest, residual, need_dx, kind,
            update,
        )  # fmt: skip
    n_key = (anchors if key_anchors is None else key_anchors).shape[1]
    v, read = v.contiguous(), readable(tables)
    rows = torch.empty((n_tables, B * T, W), dtype=torch.int32, device=v.device)
    key_gain, code_gain = (torch.empty(rows.shape, dtype=torch.float32, device=v.device) for _ in range(2))
    query_slope, key_slope = (torch.empty_like(query[2]) for _ in range(2))
    block_k = triton.next_power_of_2(K)
    block_p = max(1, min(32, _TILE // block_k))
    with device_of(v):
        _pairs[(triton.cdiv(B * T, block_p), n_tables)](
            read, *query, *key, *code, v, rows, query_slope, key_gain, code_gain, B * T, T, K, tables.shape[1], W, D,
            read.stride(0), read.stride(1), n_code, n_key + n_code,
            NEAREST=nearest, BLOCK_P=block_p, BLOCK_K=block_k,
        )  # fmt: skip
        if need_dx:
            _key_slopes[(triton.cdiv(B * T, 128), n_tables)](key_gain, key[2], key_slope, B * T, T, W, BLOCK=128)
    dx = v.new_empty(0)
    if need_dx:
        dx = lookup.scatter(v if residual else None, query_slope, anchors, None, query[1], n_inputs)
        dx = lookup.scatter(
            dx, key_slope, anchors if key_anchors is None else key_anchors, None, key[1], n_inputs
        )  # fmt: skip
    dcode = v.new_zeros(n_tables, D, n_code)
    if n_code > 0:
        gain = torch.zeros_like(code[2])
        gain[:, 1 : W + 1] = code_gain.sum(dim=1).flip(1)
        slope = torch.where(code[2].isnan(), 0.0, surrogate_slope(code[2]) * gain)  # NaN is never nearest
        dcode.scatter_(2, code[1].long()[..., None], slope[..., None])
    if kind == "none":
        return dx, dcode, None, None
    rows = rows.flatten(1)
    if kind == "dense":
        return dx, dcode, triton_rows.dense(tables, rows, v, W).to(tables.dtype), None
    if kind == "sparse":
        indices, values = triton_rows.sparse(tables, rows, v, W)
        return dx, dcode, None, (indices, values.to(tables.dtype))
    triton_rows.change(tables, rows, v, update, W)
    return dx, dcode, None, None
