"""Readings merged by row, as Triton kernels: the gradient of a row is the sum of v over all that read it, in order.

Readings are sorted by row (stable: positions stay ascending) and every row's are added one after another, as the
reference adds them; of a row with many, pieces of a set length are added, then the pieces. Nothing is added atomically.
"""

# P position, I table, J row, K output, M reading (of a table, sorted by row)

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from polychron.ops.row_layout import has_even_rows
from polychron.ops.row_update import RowUpdate

# Elements of a tile: it, and what is loaded for it, stay in registers.
_TILE = 512
_READINGS = 256
# Few of a tile's readings begin a row, and all wait for memory: many small programs hide more of that.
_WARPS = 1

# What becomes of a row's sum.
_ADD, _SGD, _ADAGRAD, _ADAM = (tl.constexpr(kind) for kind in range(4))


def tile(n_outputs: int) -> tuple[int, int]:
    """Positions and outputs of one program's tile."""
    block_k = min(triton.next_power_of_2(n_outputs), _TILE)
    return max(1, min(32, _TILE // block_k)), block_k


def device_of(tensor: Tensor) -> AbstractContextManager:
    """Kernels start on the current device: makes it the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def readable(tables: Tensor) -> Tensor:
    """Tables whose rows are contiguous and evenly spaced; a copy only where they were not."""
    tables = tables.detach()
    return tables if has_even_rows(tables) else tables.contiguous()


@triton.jit
def _find_runs(rows, begin, end, M, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """Where the readings of the same row begin and end: binary searches in sorted rows."""
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    base = tl.program_id(1).to(tl.int64) * M
    inside = m < M
    row = tl.load(rows + base + m, mask=inside, other=0)
    low, high = tl.zeros([BLOCK], tl.int32), m
    for _ in range(ROUNDS):
        middle = (low + high) // 2
        less = tl.load(rows + base + middle, mask=inside, other=0) < row
        low = tl.where(less, middle + 1, low)
        high = tl.where(less, high, middle)
    tl.store(begin + base + m, low, mask=inside)
    low, high = m + 1, tl.zeros([BLOCK], tl.int32) + M
    for _ in range(ROUNDS):
        middle = (low + high) // 2
        same = (tl.load(rows + base + middle, mask=inside & (middle < M), other=0) <= row) & (middle < high)
        low = tl.where(same, middle + 1, low)
        high = tl.where(same, high, middle)
    tl.store(end + base + m, low, mask=inside)


@triton.jit
def _mix(x):
    x = (x ^ (x >> 16)) * tl.full([1], 0x7FEB352D, tl.uint32)
    x = (x ^ (x >> 15)) * tl.full([1], 0x846CA68B, tl.uint32)
    return x ^ (x >> 16)


@triton.jit
def _round_stochastically(value, seed, number, row, k):
    """As :func:`polychron.ops.row_update.round_stochastically`: 16 random bits are added below the 16 that stay."""
    of_table = seed.to(tl.uint32) + number.to(tl.uint32) * tl.full([1], 0xC2B2AE3D, tl.uint32)
    of_row = _mix(of_table ^ (row.to(tl.uint32) * tl.full([1], 0x85EBCA77, tl.uint32)))
    y = of_row[:, None] + (k.to(tl.uint32) * tl.full([1], 0x9E3779B9, tl.uint32))[None, :]
    x = (y ^ (y >> 16)) * tl.full([1, 1], 0x7FEB352D, tl.uint32)
    bits = value.to(tl.uint32, bitcast=True) + ((x ^ (x >> 15)) >> 16)
    return (bits & tl.full([1, 1], 0xFFFF0000, tl.uint32)).to(tl.float32, bitcast=True).to(tl.bfloat16)


@triton.jit
def _finish(
    total, ends, n_visits, i, place, k, out, state, stride_i, stride_j, J, K, rate, epsilon, visit_cap, seed, numbers,
    beta1, rest1, beta2, rest2, KIND: tl.constexpr, CAPPED: tl.constexpr, RATE_LIES: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Puts the sums of rows that end here where they belong: stores them, or changes the rows by them."""
    inside = ends[:, None] & (k < K)[None, :]
    at = out + i * stride_i + place.to(tl.int64)[:, None] * stride_j + k[None, :]
    if KIND == _ADD:
        tl.store(at, total, mask=inside)
    else:
        if RATE_LIES:
            rate = tl.load(rate)
        if KIND == _SGD:
            if CAPPED:
                visits = tl.maximum(n_visits.to(tl.float32), visit_cap)
                share = tl.math.div_rn(tl.zeros_like(visits) + visit_cap, visits)
                step = (rate * share)[:, None] * total
            else:
                step = rate * total
        elif KIND == _ADAGRAD:
            squares = state + i * J + place
            sums = tl.load(squares, mask=ends, other=0.0) + tl.math.div_rn(
                tl.sum(total * total, axis=1), tl.zeros_like(n_visits).to(tl.float32) + K
            )
            tl.store(squares, sums, mask=ends)
            step = tl.math.div_rn(rate * total, tl.sqrt_rn(sums)[:, None] + epsilon)
        else:
            moments = state + (i * J + place.to(tl.int64)) * (K + 3)
            at_m = moments[:, None] + k[None, :]
            m = beta1 * tl.load(at_m, mask=inside, other=0.0) + rest1 * total
            tl.store(at_m, m, mask=inside)
            n_outputs = tl.zeros_like(n_visits).to(tl.float32) + K
            mean_square = tl.math.div_rn(tl.sum(total * total, axis=1), n_outputs)
            v = beta2 * tl.load(moments + K, mask=ends, other=0.0) + rest2 * mean_square
            p = beta1 * tl.load(moments + K + 1, mask=ends, other=0.0) + rest1
            q = beta2 * tl.load(moments + K + 2, mask=ends, other=0.0) + rest2
            tl.store(moments + K, v, mask=ends)
            tl.store(moments + K + 1, p, mask=ends)
            tl.store(moments + K + 2, q, mask=ends)
            row_rate = tl.math.div_rn(tl.zeros_like(p) + rate, p * (tl.sqrt_rn(tl.math.div_rn(v, q)) + epsilon))
            step = row_rate[:, None] * m
        changed = tl.load(at, mask=inside, other=0.0).to(tl.float32) - step
        if ROUNDS:
            tl.store(at, _round_stochastically(changed, tl.load(seed), tl.load(numbers + i), place, k), mask=inside)
        else:
            tl.store(at, changed, mask=inside)


@triton.jit
def _sum_readings(
    v, order, rows, places, begin, end, pieces, out, state, M, J, K, n_pairs, n_slots, stride_i, stride_j,
    rate, epsilon, visit_cap, seed, numbers,
    beta1, rest1, beta2, rest2, KIND: tl.constexpr, CAPPED: tl.constexpr, RATE_LIES: tl.constexpr, ROUNDS: tl.constexpr,
    PIECE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows with up to PIECE readings are finished; of others the sums of their pieces are kept.

    Two pieces that begin within PIECE readings of each other are the last of one row and the first of the next: so
    each has a slot of its own.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    i = tl.program_id(1).to(tl.int64)
    k = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = m < M
    first = tl.load(begin + i * M + m, mask=inside, other=0)
    last = tl.load(end + i * M + m, mask=inside, other=0)
    row = tl.load(rows + i * M + m, mask=inside, other=J)
    starts = (row < J) & ((m - first) % PIECE == 0)
    length = tl.where(starts, tl.minimum(last - m, PIECE), 0)
    total = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    longest = tl.max(length, axis=0)
    order += i * M + m
    s = 0
    while s < longest:  # four at a time: they are waited for together, and added in order
        p0 = tl.load(order + s, mask=s < length, other=0) // n_pairs
        p1 = tl.load(order + s + 1, mask=s + 1 < length, other=0) // n_pairs
        p2 = tl.load(order + s + 2, mask=s + 2 < length, other=0) // n_pairs
        p3 = tl.load(order + s + 3, mask=s + 3 < length, other=0) // n_pairs
        v0 = tl.load(v + p0[:, None] * K + k[None, :], mask=(s < length)[:, None] & (k < K)[None, :], other=0.0)
        v1 = tl.load(v + p1[:, None] * K + k[None, :], mask=(s + 1 < length)[:, None] & (k < K)[None, :], other=0.0)
        v2 = tl.load(v + p2[:, None] * K + k[None, :], mask=(s + 2 < length)[:, None] & (k < K)[None, :], other=0.0)
        v3 = tl.load(v + p3[:, None] * K + k[None, :], mask=(s + 3 < length)[:, None] & (k < K)[None, :], other=0.0)
        total = (((total + v0) + v1) + v2) + v3
        s += 4
    whole = last - first <= PIECE
    place = tl.load(places + i * M + m, mask=inside, other=0)
    _finish(
        total, starts & whole, last - first, i, place, k, out, state, stride_i, stride_j, J, K, rate, epsilon,
        visit_cap, seed, numbers, beta1, rest1, beta2, rest2, KIND, CAPPED, RATE_LIES, ROUNDS,
    )  # fmt: skip
    slot = i * n_slots + 2 * (m // PIECE) + (m == first).to(tl.int32)
    tl.store(pieces + slot[:, None] * K + k[None, :], total, mask=(starts & ~whole)[:, None] & (k < K)[None, :])


@triton.jit
def _sum_pieces(
    rows, places, begin, end, pieces, out, state, M, J, K, n_slots, stride_i, stride_j, rate, epsilon, visit_cap,
    seed, numbers, beta1, rest1, beta2, rest2,
    KIND: tl.constexpr, CAPPED: tl.constexpr, RATE_LIES: tl.constexpr, ROUNDS: tl.constexpr,
    PIECE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Finishes the rows with more than PIECE readings."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    i = tl.program_id(1).to(tl.int64)
    k = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = m < M
    first = tl.load(begin + i * M + m, mask=inside, other=0)
    last = tl.load(end + i * M + m, mask=inside, other=0)
    row = tl.load(rows + i * M + m, mask=inside, other=J)
    starts = (row < J) & (m == first) & (last - first > PIECE)
    n_pieces = tl.where(starts, (last - first + PIECE - 1) // PIECE, 0)
    longest = tl.max(n_pieces, axis=0)
    if longest > 0:
        total = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
        slot = i * n_slots + 2 * (m // PIECE)
        for s in range(longest):
            at = slot + 2 * s + (1 if s == 0 else 0)
            mask = (s < n_pieces)[:, None] & (k < K)[None, :]
            total += tl.load(pieces + at[:, None] * K + k[None, :], mask=mask, other=0.0)
        place = tl.load(places + i * M + m, mask=inside, other=0)
        _finish(
            total, starts, last - first, i, place, k, out, state, stride_i, stride_j, J, K, rate, epsilon, visit_cap,
            seed, numbers, beta1, rest1, beta2, rest2, KIND, CAPPED, RATE_LIES, ROUNDS,
        )  # fmt: skip


class Merged:
    """Readings (I, M) of rows below J, sorted; a row of J stands for no reading."""

    def __init__(self, row: Tensor, J: int):
        self.J = J
        # Radix sort takes a pass for every byte.
        self.rows, self.order = (row.to(torch.int16) if J < 1 << 15 else row).sort(dim=1, stable=True)
        self.begin, self.end = (torch.empty_like(row) for _ in range(2))
        n_tables, M = row.shape
        with device_of(row):
            _find_runs[(triton.cdiv(M, _READINGS), n_tables)](
                self.rows, self.begin, self.end, M, ROUNDS=M.bit_length(), BLOCK=_READINGS
            )

    def add(
        self, v: Tensor, n_pairs: int, out: Tensor, strides: tuple[int, int], places: Tensor | None = None,
        update: RowUpdate | None = None, numbers: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Stores the sums of v (P, K) in ``out`` at ``places`` (I, M), else by row; or changes the rows by them."""
        n_tables, M = self.rows.shape
        K = v.shape[1]
        kind = _ADD if update is None else {"adagrad": _ADAGRAD, "adam": _ADAM}.get(update.kind, _SGD)
        block_m, block_k = tile(K)
        keeps = kind in (_ADAGRAD, _ADAM)
        if keeps:  # the mean over a row's squares takes the whole row
            block_k = triton.next_power_of_2(K)
        # About as many pieces as a piece has readings, where all read one row.
        piece = min(512, max(16, triton.next_power_of_2(int(M**0.5))))
        n_slots = 2 * triton.cdiv(M, piece)
        pieces = torch.empty((n_tables, n_slots, K) if piece < M else (1,), dtype=torch.float32, device=v.device)
        state = update.state if keeps else v
        rate, epsilon, cap = (
            (0.0, 0.0, None) if update is None else (update.step_rate, update.epsilon, update.visit_cap)
        )
        rate_lies = update is not None and update.device_rate is not None
        rounds = update is not None and out.dtype == torch.bfloat16
        seed = v
        if rounds:
            seed = torch.tensor(update.seed, device=v.device) if update.device_seed is None else update.device_seed
            numbers = torch.arange(n_tables, device=v.device) if numbers is None else numbers
        places = self.rows if places is None else places
        sizes = (*strides, update.step_device_rate if rate_lies else rate, epsilon, 1.0 if cap is None else float(cap))
        betas = (0.0, 0.0) if update is None else update.betas
        sizes = (*sizes, seed, v if numbers is None else numbers, *(n for beta in betas for n in (beta, 1 - beta)))
        options = {"KIND": kind, "CAPPED": cap is not None, "RATE_LIES": rate_lies, "ROUNDS": rounds}
        options |= {"num_warps": _WARPS, "PIECE": piece, "BLOCK_M": block_m, "BLOCK_K": block_k}
        grid = (triton.cdiv(M, block_m), n_tables, triton.cdiv(K, block_k))
        with device_of(v):
            _sum_readings[grid](
                v, self.order, self.rows, places, self.begin, self.end, pieces, out, state, M, self.J, K, n_pairs,
                n_slots, *sizes, **options,
            )  # fmt: skip
            if piece < M:
                _sum_pieces[grid](
                    self.rows, places, self.begin, self.end, pieces, out, state, M, self.J, K, n_slots, *sizes,
                    **options,
                )  # fmt: skip


def _by_position(v: Tensor) -> Tensor:
    return v.detach().reshape(-1, v.shape[-1]).contiguous()


def dense(tables: Tensor, row: Tensor, v: Tensor, n_pairs: int = 1) -> Tensor:
    """dL/dS (I, J, K) float32 of rows (I, P * n_pairs) that were read by v's positions, n_pairs by each."""
    dS = torch.zeros(tables.shape, dtype=torch.float32, device=v.device)
    if row.numel():
        Merged(row, tables.shape[1]).add(_by_position(v), n_pairs, dS, (dS.stride(0), dS.stride(1)))
    return dS


def sparse(tables: Tensor, row: Tensor, v: Tensor, n_pairs: int = 1) -> tuple[Tensor, Tensor]:
    """Indices (2, n) of the rows that were read, table first, ascending, and their gradients (n, K) float32."""
    if row.numel() == 0:
        nothing = torch.empty((2, 0), dtype=torch.int64, device=v.device)
        return nothing, torch.empty((0, tables.shape[2]), dtype=torch.float32, device=v.device)
    merged = Merged(row, tables.shape[1])
    m = torch.arange(row.shape[1], device=row.device)
    is_first = (merged.begin == m) & (merged.rows < merged.J)
    table, at = is_first.nonzero(as_tuple=True)
    # The rows before this one, in the order of the indices; what lies between two firsts is not looked at.
    places = is_first.flatten().cumsum(0).view(row.shape) - 1
    values = torch.empty((len(table), tables.shape[2]), dtype=torch.float32, device=v.device)
    merged.add(_by_position(v), n_pairs, values, (0, tables.shape[2]), places=places)
    return torch.stack([table, merged.rows[table, at].long()]), values


@torch.no_grad()
def change(
    tables: Tensor, row: Tensor, v: Tensor, update: RowUpdate, n_pairs: int = 1, numbers: Tensor | None = None
) -> None:
    """Changes the rows that were read, each once, by the sum of v over its readings: ``polychron.ops.row_update``.

    ``numbers`` (I,) int64: what the tables are called where rounding is left to chance; None: 0, 1, ...
    """
    if row.numel() == 0:
        return
    Merged(row, tables.shape[1]).add(
        _by_position(v),
        n_pairs,
        tables.detach(),
        (tables.stride(0), tables.stride(1)),
        update=update,
        numbers=numbers,
    )
