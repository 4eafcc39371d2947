"""The layer as Triton kernels, for CUDA: float32 (tables: or bfloat16). The functions are those of the reference.

No two programs write one number, and every sum has an order that follows from the sizes alone: the same call gives the
same bits. Divisions are rounded as the reference rounds them.
"""

# B sequence, T position in it, P position of all sequences, I table, R comparison, J row, K output, N neuron, D delay

from __future__ import annotations

import weakref

import torch
import triton
import triton.language as tl
from torch import Tensor

from polychron.ops import triton_rows
from polychron.ops.checks import check_anchor_range, check_delay_range
from polychron.ops.lookup import reference
from polychron.ops.row_update import RowUpdate
from polychron.ops.triton_rows import device_of, readable, tile

_POSITIONS = 128
# A program that adds the contributions to latencies looks at so many readings of a position; further tables go to
# another program, and the programs' sums are added in order.
_READINGS = 64
# Where delays are longer, contributions are sorted by torch instead of being looked for delay by delay.
_LONGEST_SOUGHT = 64


@triton.jit
def _fired(x, past, neuron, delay, p, t, b, inside, P, B, n_past, HAS_PAST: tl.constexpr):
    """x[b, t - delay, neuron]; from the past where the sequence has not begun, 0 where that has not either."""
    at = t - delay
    latency = tl.load(x + neuron.to(tl.int64) * P + p - delay, mask=inside & (at >= 0), other=0.0)
    if HAS_PAST:
        earlier = past + (neuron.to(tl.int64) * B + b) * n_past + n_past + at
        latency = tl.where(at >= 0, latency, tl.load(earlier, mask=inside & (at < 0) & (at >= -n_past), other=0.0))
    return latency


@triton.jit
def _address(
    x, past, anchors, delays, row, pair, nearest_u, P, B, T, n_past,
    R: tl.constexpr, HAS_DELAYS: tl.constexpr, HAS_PAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Row, pair and u of one table at a block of positions; x (N, P) and past (N, B, n_past) are neuron-major."""
    i = tl.program_id(1)
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = p < P
    b, t = p // T, p % T
    j = tl.zeros([BLOCK], tl.int32)
    nearest_r = tl.zeros([BLOCK], tl.int32)
    u_there = tl.zeros([BLOCK], tl.float32)
    least = tl.zeros([BLOCK], tl.float32)
    for r in range(R):
        at = (i * R + r) * 2
        a, c = tl.load(anchors + at), tl.load(anchors + at + 1)
        if HAS_DELAYS:
            delay_a, delay_c = tl.load(delays + at), tl.load(delays + at + 1)
        else:
            delay_a, delay_c = 0, 0
        u = _fired(x, past, a, delay_a, p, t, b, inside, P, B, n_past, HAS_PAST)
        u -= _fired(x, past, c, delay_c, p, t, b, inside, P, B, n_past, HAS_PAST)
        j |= (u > 0).to(tl.int32) << r
        magnitude = tl.where(u == u, tl.abs(u), float("inf"))  # NaN is the last to flip
        nearer = (magnitude < least) | (r == 0)
        nearest_r = tl.where(nearer, r, nearest_r)
        u_there = tl.where(nearer, u, u_there)
        least = tl.where(nearer, magnitude, least)
    out = i.to(tl.int64) * P + p
    tl.store(row + out, j, mask=inside)
    tl.store(pair + out, nearest_r.to(tl.uint8), mask=inside)
    tl.store(nearest_u + out, u_there, mask=inside)


@triton.jit
def _gather(
    tables, row, start, y, n_tables, P, K, stride_i, stride_j,
    HAS_START: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """[start +] sum_i S[i, row_i], tables ascending."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (p < P)[:, None] & (k < K)[None, :]
    total = tl.zeros([BLOCK_P, BLOCK_K], tl.float32)
    for _ in range(n_tables):
        j = tl.load(row + p, mask=p < P, other=0).to(tl.int64)
        total += tl.load(tables + j[:, None] * stride_j + k[None, :], mask=inside, other=0.0).to(tl.float32)
        tables += stride_i
        row += P
    out = p.to(tl.int64)[:, None] * K + k[None, :]
    if HAS_START:
        total += tl.load(start + out, mask=inside, other=0.0)
    tl.store(y + out, total, mask=inside)


@triton.jit
def slope_of(u):
    """U'(u) = -0.5 sign(u) / (1 + |u|)^2 with sign(0) = -1."""
    return tl.math.div_rn(tl.where(u > 0, -0.5, 0.5), (1 + tl.abs(u)) * (1 + tl.abs(u)))


@triton.jit
def _slopes(
    tables, row, pair, nearest_u, v, slope, P, K, stride_i, stride_j, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr
):
    """U'(u_i) g_i with g_i = v . (S_jbar - S_j), of one table at a block of positions."""
    i = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    at = i * P + p
    j = tl.load(row + at, mask=p < P, other=0)
    flipped = j ^ (1 << tl.load(pair + at, mask=p < P, other=0).to(tl.int32))
    here = tables + i * stride_i + j.to(tl.int64)[:, None] * stride_j
    there = tables + i * stride_i + flipped.to(tl.int64)[:, None] * stride_j
    gain = tl.zeros([BLOCK_P], tl.float32)
    for begin in range(0, K, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)[None, :]
        inside = (p < P)[:, None] & (k < K)
        change = tl.load(there + k, mask=inside, other=0.0).to(tl.float32)
        change -= tl.load(here + k, mask=inside, other=0.0).to(tl.float32)
        gain += tl.sum(change * tl.load(v + p.to(tl.int64)[:, None] * K + k, mask=inside, other=0.0), axis=1)
    u = tl.load(nearest_u + at, mask=p < P, other=0.0)
    tl.store(slope + at, slope_of(u) * gain, mask=p < P)


@triton.jit
def _scatter(
    slope, pair, anchors, delays, sums, P, T, N, n_tables, n_sought, n_together,
    R: tl.constexpr, HAS_DELAYS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """What some tables contribute to the gradient of the latencies at a block of positions, each looked for there."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    neuron = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    group = tl.program_id(2)
    t = p % T
    total = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    first = group.to(tl.int64) * n_together
    slope += first * P + p
    pair += first * P + p
    at = first.to(tl.int32) * R
    for _ in range(tl.minimum(n_together, n_tables - group * n_together)):
        for delay in range(n_sought):
            reads = (p < P) & (t + delay < T)
            ends = (at + tl.load(pair + delay, mask=reads, other=0).to(tl.int32)) * 2
            change = tl.load(slope + delay, mask=reads, other=0.0)
            a = tl.load(anchors + ends, mask=reads, other=-1)
            c = tl.load(anchors + ends + 1, mask=reads, other=-1)
            if HAS_DELAYS:
                a = tl.where(tl.load(delays + ends, mask=reads, other=-1) == delay, a, -1)
                c = tl.where(tl.load(delays + ends + 1, mask=reads, other=-1) == delay, c, -1)
            total += tl.where(a[:, None] == neuron, change[:, None], 0.0)
            total -= tl.where(c[:, None] == neuron, change[:, None], 0.0)
        slope += P
        pair += P
        at += R
    out = (group.to(tl.int64) * P + p)[:, None] * N + neuron
    tl.store(sums + out, total, mask=(p < P)[:, None] & (neuron < N))


class _Checked:
    """Anchors and delays whose range was looked at once: on a GPU a look makes the program wait.

    Those that are a part of others, which were looked at, are as good, and have no ``longest`` delay but theirs.
    """

    def __init__(self, anchors: Tensor, delays: Tensor | None, n_inputs: int, longest: int | None = None):
        if longest is None:
            check_anchor_range(anchors, n_inputs)
            check_delay_range(delays)
            longest = 0 if delays is None else int(delays.max())
        self.anchors = weakref.ref(anchors)
        self.n_inputs = n_inputs
        self.longest = longest
        self.delays = None if delays is None else weakref.ref(delays)
        self.stamp = _stamp(anchors, delays)

    def is_of(self, anchors: Tensor, delays: Tensor | None, n_inputs: int) -> bool:
        """Whether it was made from these, and they did not change since."""
        return (
            self.anchors() is anchors
            and (None if self.delays is None else self.delays()) is delays
            and self.n_inputs == n_inputs
            and self.stamp == _stamp(anchors, delays)
        )


def _stamp(*tensors: Tensor | None) -> list[tuple[int, int]]:
    """Changes when a tensor's memory or what it holds does."""
    return [(tensor._version, tensor.data_ptr()) for tensor in tensors if tensor is not None]


_checked: dict[int, _Checked] = {}


def longest_delay(anchors: Tensor, delays: Tensor | None, n_inputs: int) -> int:
    """The longest delay, of anchors and delays that are in range.

    Raises:
        ValueError: a neuron or delay out of range.
    """
    if anchors.is_inference() or (delays is not None and delays.is_inference()):
        return _Checked(anchors, delays, n_inputs).longest  # they do not say when they change
    known = _checked.get(id(anchors))
    if known is None or not known.is_of(anchors, delays, n_inputs):
        known = _remember(_Checked(anchors, delays, n_inputs), anchors)
    return known.longest


def _remember(known: _Checked, anchors: Tensor) -> _Checked:
    if id(anchors) not in _checked:
        weakref.finalize(anchors, _checked.pop, id(anchors), None).atexit = False
    _checked[id(anchors)] = known
    return known


def address(x: Tensor, anchors: Tensor, delays: Tensor | None, history: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Row (int32), pair (uint8) and u (float32), each (I, B, T)."""
    B, T, N = x.shape
    longest = longest_delay(anchors, delays, N)
    shape = (anchors.shape[0], B, T)
    row = torch.empty(shape, dtype=torch.int32, device=x.device)
    pair = torch.empty(shape, dtype=torch.uint8, device=x.device)
    u = torch.empty(shape, dtype=torch.float32, device=x.device)
    if row.numel() == 0:
        return row, pair, u
    by_neuron = x.detach().permute(2, 0, 1).contiguous()
    reaches_back = history is not None and longest > 0 and history.shape[1] > 0
    past = history.detach().permute(2, 0, 1).contiguous() if reaches_back else by_neuron
    with device_of(x):
        _address[(triton.cdiv(B * T, _POSITIONS), len(anchors))](
            by_neuron, past, anchors.contiguous(), anchors if delays is None else delays.contiguous(), row, pair, u,
            B * T, B, T, history.shape[1] if reaches_back else 0,
            R=anchors.shape[1], HAS_DELAYS=delays is not None, HAS_PAST=reaches_back, BLOCK=_POSITIONS,
        )  # fmt: skip
    return row, pair, u


def gather(tables: Tensor, row: Tensor, residual: Tensor | None) -> Tensor:
    """[residual +] sum_i S[i, row_i]: (B, T, K)."""
    tables = readable(tables)
    K, P = tables.shape[2], row[0].numel()
    y = torch.empty((*row.shape[1:], K), dtype=torch.float32, device=row.device)
    if P == 0:
        return y
    block_p, block_k = tile(K)
    with device_of(row):
        _gather[(triton.cdiv(P, block_p), triton.cdiv(K, block_k))](
            tables, row.contiguous(), y if residual is None else residual.detach().contiguous(), y,
            len(row), P, K, tables.stride(0), tables.stride(1),
            HAS_START=residual is not None, BLOCK_P=block_p, BLOCK_K=block_k,
        )  # fmt: skip
    return y


def scatter(
    start: Tensor | None, slope: Tensor, anchors: Tensor, delays: Tensor | None, pair: Tensor, n_inputs: int
) -> Tensor:
    """[start +] slope at (t - d_a, a) - slope at (t - d_b, b); what would arrive before the sequence is lost."""
    n_tables, B, T = slope.shape
    longest = longest_delay(anchors, delays, n_inputs)
    if slope.numel() == 0 or longest >= _LONGEST_SOUGHT:
        zeros = slope.new_zeros(B, T, n_inputs) if start is None else start
        return reference.scatter(zeros, slope, anchors, delays, pair)
    n_together = max(1, _READINGS // (longest + 1))
    n_groups = triton.cdiv(n_tables, n_together)
    block_p, block_n = tile(n_inputs)
    sums = torch.empty((n_groups, B, T, n_inputs), dtype=torch.float32, device=slope.device)
    with device_of(slope):
        _scatter[(triton.cdiv(B * T, block_p), triton.cdiv(n_inputs, block_n), n_groups)](
            slope, pair.contiguous(), anchors.contiguous(), anchors if delays is None else delays.contiguous(), sums,
            B * T, T, n_inputs, n_tables, longest + 1, n_together,
            R=anchors.shape[1], HAS_DELAYS=delays is not None, BLOCK_P=block_p, BLOCK_N=block_n,
        )  # fmt: skip
    total = sums[0] if n_groups == 1 else sums.sum(dim=0)
    return total if start is None else start + total


def latency_gradient(tables, anchors, delays, row, pair, u, v, n_inputs: int, residual: bool) -> Tensor:
    """dL/dx (B, T, n_inputs)."""
    tables, v = readable(tables), v.contiguous()
    K, P = tables.shape[2], row[0].numel()
    slope = torch.empty(row.shape, dtype=torch.float32, device=row.device)
    if P:
        block_p, block_k = tile(K)
        with device_of(v):
            _slopes[(triton.cdiv(P, block_p), len(row))](
                tables, row.contiguous(), pair.contiguous(), u.contiguous(), v, slope,
                P, K, tables.stride(0), tables.stride(1), BLOCK_P=block_p, BLOCK_K=block_k,
            )  # fmt: skip
    return scatter(v if residual else None, slope, anchors, delays, pair, n_inputs)


def _latency_gradient_if(needed: bool, tables, anchors, delays, row, pair, u, v, n_inputs, residual) -> Tensor:
    if not needed:
        return v.new_empty(0)
    return latency_gradient(tables, anchors, delays, row, pair, u, v, n_inputs, residual)


def backward_dense(tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx) -> tuple[Tensor, Tensor]:
    """dL/dx (empty unless wanted) and dL/dS (I, J, K)."""
    dx = _latency_gradient_if(need_dx, tables, anchors, delays, row, pair, u, v, n_inputs, residual)
    return dx, triton_rows.dense(tables, row.flatten(1), v).to(tables.dtype)


def backward_sparse(
    tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dx (empty unless wanted), indices (2, M) of the rows read, table first, and their gradients (M, K)."""
    dx = _latency_gradient_if(need_dx, tables, anchors, delays, row, pair, u, v, n_inputs, residual)
    indices, values = triton_rows.sparse(tables, row.flatten(1), v)
    return dx, indices, values.to(tables.dtype)


def backward_fused(
    tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx, update: RowUpdate,
    numbers: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """dL/dx (empty unless wanted); ``tables`` and ``update.state`` are updated in place."""
    if update.kind == "online_sgd":
        return reference.backward_fused(
            tables, anchors, delays, row, pair, u, v, n_inputs, residual, need_dx, update
        )  # fmt: skip
    dx = _latency_gradient_if(need_dx, tables, anchors, delays, row, pair, u, v, n_inputs, residual)
    triton_rows.change(tables, row.flatten(1), v, update, numbers=numbers)
    return dx


def read_some(
    x: Tensor, tables: Tensor, anchors: Tensor, delays: Tensor | None, history: Tensor | None, kept: Tensor,
    update: RowUpdate,
) -> Tensor:  # fmt: skip
    """The sum over the ``kept`` tables (m,), whose rows change in the backward pass: (B, T, K)."""
    longest = longest_delay(anchors, delays, x.shape[2])
    kept = kept.to(x.device, torch.int64)
    some, waits = anchors[kept], None if delays is None else delays[kept]
    _remember(_Checked(some, waits, x.shape[2], longest), some)
    return _ReadSome.apply(x, tables, some, waits, history, kept, update)


class _ReadSome(torch.autograd.Function):
    """Works on a copy of the kept tables: what that costs is little beside what reading rows here and there does."""

    @staticmethod
    def forward(ctx, x, tables, anchors, delays, history, kept, update):
        """Y, (B, T, K)."""
        row, pair, u = address(x, anchors, delays, history)
        ctx.save_for_backward(row, pair, u, anchors, delays, kept)
        ctx.tables, ctx.n_inputs = tables.detach(), x.shape[2]
        ctx.update = update if ctx.needs_input_grad[1] else None
        return gather(ctx.tables[kept], row, None)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v):
        """DL/dx; the kept tables change, if they ask for a gradient."""
        row, pair, u, anchors, delays, kept = ctx.saved_tensors
        part = ctx.tables[kept]
        if ctx.update is None:
            dx = latency_gradient(part, anchors, delays, row, pair, u, v, ctx.n_inputs, False)
            return dx, None, None, None, None, None, None
        update = ctx.update.of_table(0)
        if ctx.update.state is not None:
            update.state = ctx.update.state[kept]
        dx = backward_fused(
            part, anchors, delays, row, pair, u, v, ctx.n_inputs, False, ctx.needs_input_grad[0], update,
            kept,
        )  # fmt: skip
        ctx.tables.index_copy_(0, kept, part)
        if update.state is not None:
            ctx.update.state.index_copy_(0, kept, update.state)
        return dx if ctx.needs_input_grad[0] else None, None, None, None, None, None, None
