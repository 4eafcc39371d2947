"""The layer on the native kernels without what stands between autograd and them: for eager calls.

An operator of ``torch.library`` costs more than the kernels do where a batch is small. It is what ``torch.compile``,
export and other tracers see; here a layer's anchors are checked and laid out once and remembered, arguments that are
as they usually are take one look, and all others go the long way (:func:`polychron.ops.lookup`), which explains them.
"""

# B sequence, T position, I table, J row, K output

from __future__ import annotations

import atexit
import math
import weakref

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import _get_current_dispatch_mode

from polychron.ops.checks import GRADIENTS
from polychron.ops.dispatch import native, runs_native
from polychron.ops.lookup.native import backward_of, view
from polychron.ops.row_layout import has_even_rows
from polychron.ops.row_update import RowUpdate

_PLAIN = (Tensor, Parameter)


class Reader:
    """Anchors and delays of one layer as the native kernels take them, checked.

    Raises:
        ValueError: a neuron or delay out of range.
    """

    __slots__ = (
        "__weakref__", "_anchors", "_delays", "_stamp", "anchors", "delays", "layer", "n_inputs", "n_rows", "n_tables",
    )  # fmt: skip

    def __init__(self, anchors: Tensor, delays: Tensor | None, n_inputs: int):
        self.anchors, self.delays = view(anchors), view(delays)
        self.layer = native.LookupLayer(self.anchors, self.delays, n_inputs)
        self.n_inputs = n_inputs
        self.n_tables = anchors.shape[0]
        self.n_rows = 1 << anchors.shape[1]
        self._anchors = weakref.ref(anchors)
        self._delays = None if delays is None else weakref.ref(delays)
        self._stamp = _stamp(anchors, delays)
        _made.add(self)

    def is_of(self, anchors: Tensor, delays: Tensor | None, n_inputs: int) -> bool:
        """Whether it was made from these, and they did not change since."""
        same_delays = delays is None if self._delays is None else self._delays() is delays
        return (
            self._anchors() is anchors
            and same_delays
            and self.n_inputs == n_inputs
            and self._stamp == _stamp(anchors, delays)
        )


def _stamp(anchors: Tensor, delays: Tensor | None) -> tuple[int, ...]:
    """Changes when either tensor's memory or what it holds does."""
    if delays is None:
        return anchors._version, anchors.data_ptr()
    return anchors._version, anchors.data_ptr(), delays._version, delays.data_ptr()


_readers: dict[int, Reader] = {}
_made: weakref.WeakSet[Reader] = weakref.WeakSet()  # also those that only graphs still hold


@atexit.register
def _forget() -> None:
    """Before the extension, which asks for what it made, is unloaded."""
    _readers.clear()
    for reader in _made:
        reader.layer = None


def remember(anchors: Tensor, delays: Tensor | None, n_inputs: int) -> None:
    """Makes the reader of these anchors, which are checked already, for the next call with them."""
    if anchors.is_inference() or (delays is not None and delays.is_inference()):
        return  # they do not say when they change
    key = id(anchors)
    if key not in _readers:
        weakref.finalize(anchors, _readers.pop, key, None).atexit = False
    _readers[key] = Reader(anchors, delays, n_inputs)


def can_go_direct(x: Tensor, tables: Tensor) -> bool:
    """Whether the native kernels run, and nobody watches: no compiler, tracer, transform or subclass of tensors."""
    return (
        runs_native(x)
        and type(x) in _PLAIN
        and type(tables) in _PLAIN
        and not torch.compiler.is_compiling()
        and _get_current_dispatch_mode() is None
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None
    )


def find_reader(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    delays: Tensor | None,
    history: Tensor | None,
    residual: bool,
    gradient: str,
    update: RowUpdate | None,
) -> Reader | None:
    """The remembered reader, if these arguments need no further check; otherwise None, whatever is wrong with them."""
    reader = _readers.get(id(anchors))
    if reader is None or history is not None or not can_go_direct(x, tables):
        return None
    shape = x.shape
    if not reader.is_of(anchors, delays, shape[-1]) or not (len(shape) == 3 or (len(shape) == 2 and delays is None)):
        return None
    rows = tables.shape
    if (
        tables.dtype is not torch.float32
        or not tables.is_cpu
        or len(rows) != 3
        or rows[0] != reader.n_tables
        or rows[1] != reader.n_rows
        or rows[2] < 1
        or (residual and rows[2] != reader.n_inputs)
    ):
        return None
    if gradient == "fused":
        if type(update) is not RowUpdate or not has_even_rows(tables):
            return None
        update.prepare(tables)
    elif gradient not in GRADIENTS or update is not None:
        return None
    return reader


def read(reader: Reader, x: Tensor, tables: Tensor, residual: bool, gradient: str, update: RowUpdate | None) -> Tensor:
    """The layer of :func:`polychron.ops.lookup` for arguments that passed :func:`find_reader`."""
    if torch.is_grad_enabled() and (x.requires_grad or tables.requires_grad):
        return DirectLookup.apply(x, tables, (reader, residual, gradient, update))
    return _forward(reader, x, tables, residual, None)


def _forward(reader: Reader, x: Tensor, tables: Tensor, residual: bool, kept: Tensor | None) -> Tensor:
    if x.is_neg() or not x.is_contiguous():
        x = x.resolve_neg().contiguous()
    if not has_even_rows(tables):
        tables = tables.contiguous()
    shape, n_outputs = x.shape, tables.shape[2]
    y = torch.empty((*shape[:-1], n_outputs), dtype=torch.float32, device="cpu")
    reader.layer.read(
        x.data_ptr(), *_batch(shape), tables.data_ptr(), n_outputs, tables.stride(1), residual, y.data_ptr(),
        0 if kept is None else kept.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return y


def _batch(shape: torch.Size) -> tuple[int, int]:
    return (1, shape[0]) if len(shape) == 2 else (shape[0], shape[1])


class DirectLookup(torch.autograd.Function):
    """The same with its gradients: dense or sparse in the tables, or their update inside the backward pass."""

    @staticmethod
    def forward(ctx, x, tables, call):
        """Y; row, pair and u are kept in one tensor, which autograd frees with the graph."""
        reader, residual, gradient, _ = call
        n_readings = x.numel() // reader.n_inputs * reader.n_tables
        kept = torch.empty(9 * n_readings, dtype=torch.uint8, device="cpu")
        ctx.call = call
        ctx.shape = x.shape
        ctx.set_materialize_grads(False)
        if gradient == "fused":  # the update changes the tables on purpose: autograd is not to guard them
            ctx.tables = tables.detach()
            ctx.save_for_backward(kept)
        else:
            ctx.save_for_backward(kept, tables)
        return _forward(reader, x, tables, residual, kept)

    @staticmethod
    def backward(ctx, v):
        """DL/dx and dL/dS, or the update in place of the latter."""
        return (_differentiate_once if torch.is_grad_enabled() else _differentiate)(ctx, v)


def _differentiate(ctx, v: Tensor | None):
    if v is None:
        return None, None, None
    kept, *saved = ctx.saved_tensors
    if v.is_neg():
        v = v.resolve_neg()
    if not saved and ctx.call[3].kind != "adagrad" and _are_usual(ctx, kept, v):
        return _update(ctx, kept, v), None, None
    return _differentiate_by_arrays(ctx, kept, saved, v)


def _are_usual(ctx, kept: Tensor, v: Tensor) -> bool:
    """Whether addresses say all of what was kept and of dL/dy: hooks may have had both in their hands."""
    reader, shape = ctx.call[0], ctx.shape
    return (
        type(kept) is Tensor
        and type(v) in _PLAIN
        and kept.dtype is torch.uint8
        and v.dtype is torch.float32
        and kept.is_cpu
        and v.is_cpu
        and kept.is_contiguous()
        and kept.numel() == 9 * reader.n_tables * (shape.numel() // reader.n_inputs)
        and v.shape == (*shape[:-1], ctx.tables.shape[2])
    )


def _update(ctx, kept: Tensor, v: Tensor) -> Tensor | None:
    """The update of the tables by v, dL/dx if it is wanted; one native call."""
    reader, residual, _, update = ctx.call
    shape, tables = ctx.shape, ctx.tables
    if not v.is_contiguous():
        v = v.contiguous()
    dx = torch.empty(shape, dtype=torch.float32, device="cpu") if ctx.needs_input_grad[0] else None
    cap = update.visit_cap
    reader.layer.update(
        kept.data_ptr(), *_batch(shape), tables.data_ptr(), tables.shape[2], tables.stride(1), residual, v.data_ptr(),
        0 if dx is None else dx.data_ptr(), update.kind, update.step_rate, math.inf if cap is None else cap,
        torch.get_num_threads(),
    )  # fmt: skip
    return dx


def _addresses(kept: Tensor, n_tables: int, shape: torch.Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, pair and u, each (I, B, T), which are parts of ``kept``."""
    block = kept.numpy()
    n = block.size // 9
    each = (n_tables, *_batch(shape))
    row, u = np.ndarray(each, np.int32, block), np.ndarray(each, np.float32, block, 4 * n)
    return row, np.ndarray(each, np.uint8, block, 8 * n), u


def _differentiate_by_arrays(ctx, kept: Tensor, saved: list[Tensor], v: Tensor):
    """The same where the gradient of the tables is made, or something is not as it usually is."""
    reader, residual, gradient, update = ctx.call
    tables = saved[0].detach() if saved else ctx.tables
    if v.dim() == 2:
        v = v[None]
    need_dx = ctx.needs_input_grad[0]
    dense = torch.zeros(tables.shape, device="cpu") if gradient == "dense" else None
    dx, rows = backward_of(
        tables, reader.anchors, reader.delays, *_addresses(kept, reader.n_tables, ctx.shape), v, ctx.shape[-1],
        residual, need_dx, gradient if update is None else update.kind, update, dense,
    )  # fmt: skip
    if rows is not None:
        indices, values = map(torch.from_numpy, rows)
        # Each row is listed once and in order: that is what coalesced means.
        dense = torch.sparse_coo_tensor(indices, values, tables.shape, is_coalesced=True, check_invariants=False)
    return (torch.from_numpy(dx).view(ctx.shape) if need_dx else None), dense, None


_differentiate_once = torch.autograd.function.once_differentiable(_differentiate)
