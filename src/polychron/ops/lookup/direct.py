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
from polychron.ops.row_update import STATEFUL, RowUpdate

_PLAIN = (Tensor, Parameter)

# Looked up once: a small layer's call takes a few microseconds, each name on the way to these some tens of nanoseconds.
_float32, _n_threads, _gradients_wanted = torch.float32, torch.get_num_threads, torch.is_grad_enabled
_is_compiling, _tracing_state = torch.compiler.is_compiling, torch._C._get_tracing_state
_is_transformed = torch._C._are_functorch_transforms_active


class Reader:
    """Anchors and delays of one layer as the native kernels take them, checked.

    Raises:
        ValueError: a neuron or delay out of range.
    """

    __slots__ = (
        "__weakref__", "_anchors", "_anchors_stamp", "_delays", "_delays_stamp", "anchors", "delays", "layer",
        "n_inputs", "n_rows", "n_tables", "read", "update",
    )  # fmt: skip

    def __init__(self, anchors: Tensor, delays: Tensor | None, n_inputs: int):
        self.anchors, self.delays = view(anchors), view(delays)
        self.layer = native.LookupLayer(self.anchors, self.delays, n_inputs)
        self.read, self.update = self.layer.read, self.layer.update  # found once
        self.n_inputs = n_inputs
        self.n_tables = anchors.shape[0]
        self.n_rows = 1 << anchors.shape[1]
        self._anchors = weakref.ref(anchors)
        self._delays = None if delays is None else weakref.ref(delays)
        # A tensor's memory or its version changes when what it holds does.
        self._anchors_stamp = anchors._version, anchors.data_ptr()
        self._delays_stamp = None if delays is None else (delays._version, delays.data_ptr())
        _made.add(self)

    def is_of(self, anchors: Tensor, delays: Tensor | None, n_inputs: int) -> bool:
        """Whether it was made from these, and they did not change since."""
        return (
            self.n_inputs == n_inputs
            and self._anchors() is anchors
            and self._anchors_stamp == (anchors._version, anchors.data_ptr())
            and (self._delays is None) == (delays is None)
            and (
                delays is None
                or (self._delays() is delays and self._delays_stamp == (delays._version, delays.data_ptr()))
            )
        )


_readers: dict[int, Reader] = {}
_made: weakref.WeakSet[Reader] = weakref.WeakSet()  # also those that only graphs still hold


@atexit.register
def _forget() -> None:
    """Before the extension, which asks for what it made, is unloaded."""
    _readers.clear()
    for reader in _made:
        reader.layer = reader.read = reader.update = None


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
        (type(x) is Tensor or type(x) is Parameter)
        and (type(tables) is Parameter or type(tables) is Tensor)
        and runs_native(x)
        and not _is_compiling()
        and _get_current_dispatch_mode() is None
        and not _is_transformed()
        and _tracing_state() is None
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
        tables.dtype is not _float32
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
        if update.kind in STATEFUL:
            update.prepare(tables)
    elif gradient not in GRADIENTS or update is not None:
        return None
    return reader


def read(reader: Reader, x: Tensor, tables: Tensor, residual: bool, gradient: str, update: RowUpdate | None) -> Tensor:
    """The layer of :func:`polychron.ops.lookup` for arguments that passed :func:`find_reader`."""
    learns = tables.requires_grad
    if _gradients_wanted() and (learns or x.requires_grad):
        if not learns:
            gradient, update = "none", None
        elif gradient == "fused" and x.requires_grad:
            # Nothing is left for the tables: where x has a gradient to receive, the graph need not reach them.
            tables = tables.detach()
        return _apply(x, tables, (reader, residual, gradient, update))
    return _forward(reader, x, tables, residual, 0)


def _forward(reader: Reader, x: Tensor, tables: Tensor, residual: bool, kept: int) -> Tensor:
    """``kept``: the address of what is kept for the gradients; 0: nothing is."""
    if not x.is_contiguous() or x.is_neg():
        x = x.resolve_neg().contiguous()
    if not has_even_rows(tables):
        tables = tables.contiguous()
    shape, n_outputs = x.shape, tables.shape[2]
    if len(shape) == 2:
        n_sequences, n_positions = 1, shape[0]
        y = x.new(n_positions, n_outputs)  # half of what torch.empty takes
    else:
        n_sequences, n_positions, _ = shape
        y = x.new(n_sequences, n_positions, n_outputs)
    reader.read(
        x.data_ptr(), n_sequences, n_positions, tables.data_ptr(), n_outputs, tables.stride(1), residual, y.data_ptr(),
        kept, _n_threads(),
    )  # fmt: skip
    return y


def _batch(shape: torch.Size) -> tuple[int, int]:
    return (1, shape[0]) if len(shape) == 2 else (shape[0], shape[1])


def _kept_floats(n_readings: int) -> int:
    """How many float32 numbers hold row, pair and u of so many readings, nine bytes each."""
    return (9 * n_readings + 3) // 4


class DirectLookup(torch.autograd.Function):
    """The same with its gradients: dense, sparse or none in the tables, or their update inside the backward pass."""

    @staticmethod
    def forward(ctx, x, tables, call):
        """Y; row, pair and u are kept in one tensor, which autograd frees with the graph."""
        reader, residual, gradient, _ = call
        if x.is_neg():
            x = x.resolve_neg()
        n_kept = _kept_floats(x.numel() // reader.n_inputs * reader.n_tables)
        kept = x.new(n_kept)
        ctx.set_materialize_grads(False)
        ctx.call = call
        ctx.shape = x.shape
        ctx.n_kept = n_kept
        if gradient == "fused":  # the update changes the tables on purpose: autograd is not to guard them
            ctx.tables = tables.detach() if tables.requires_grad else tables
            ctx.save_for_backward(kept)
        else:
            ctx.save_for_backward(kept, tables)
        return _forward(reader, x, tables, residual, kept.data_ptr())

    @staticmethod
    def backward(ctx, v):
        """DL/dx and dL/dS, or the update in place of the latter."""
        return (_differentiate_once if _gradients_wanted() else _differentiate)(ctx, v)


# Past Function.apply, which asks once more whether a transform is active, and whether there is a setup_context.
_apply = super(torch.autograd.Function, DirectLookup).apply


def _differentiate(ctx, v: Tensor | None):
    if v is None:
        return None, None, None
    kept, *saved = ctx.saved_tensors
    if v.is_neg():
        v = v.resolve_neg()
    if not saved and ctx.call[3].kind not in STATEFUL and _are_usual(ctx, kept, v):
        return _update(ctx, kept, v), None, None
    return _differentiate_by_arrays(ctx, kept, saved, v)


def _are_usual(ctx, kept: Tensor, v: Tensor) -> bool:
    """Whether addresses say all of what was kept and of dL/dy: hooks may have had both in their hands."""
    return (
        type(kept) is Tensor
        and (type(v) is Tensor or type(v) is Parameter)
        and kept.dtype is _float32
        and v.dtype is _float32
        and kept.is_cpu
        and v.is_cpu
        and kept.is_contiguous()
        and kept.numel() == ctx.n_kept
        and v.shape == (*ctx.shape[:-1], ctx.tables.shape[2])
    )


def _update(ctx, kept: Tensor, v: Tensor) -> Tensor | None:
    """The update of the tables by v, dL/dx if it is wanted; one native call."""
    reader, residual, _, update = ctx.call
    shape, tables = ctx.shape, ctx.tables
    if not v.is_contiguous():
        v = v.contiguous()
    dx = v.new(*shape) if ctx.needs_input_grad[0] else None
    cap = update.visit_cap
    reader.update(
        kept.data_ptr(), *_batch(shape), tables.data_ptr(), tables.shape[2], tables.stride(1), residual, v.data_ptr(),
        0 if dx is None else dx.data_ptr(), update.kind, update.step_rate, math.inf if cap is None else cap,
        _n_threads(),
    )  # fmt: skip
    return dx


def _addresses(kept: Tensor, n_tables: int, shape: torch.Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, pair and u, each (I, B, T), which are parts of ``kept``."""
    each = (n_tables, *_batch(shape))
    n = math.prod(each)
    if kept.dtype is not _float32 or kept.numel() != _kept_floats(n):
        raise ValueError(
            f"what was kept for the backward pass must come back as {_kept_floats(n)} float32 numbers; got "
            f"{kept.numel()} of {kept.dtype}: does a hook of saved tensors change them?"
        )
    block = kept.numpy()
    row, u = np.ndarray(each, np.int32, block), np.ndarray(each, np.float32, block, 4 * n)
    return row, np.ndarray(each, np.uint8, block, 8 * n), u


def _differentiate_by_arrays(ctx, kept: Tensor, saved: list[Tensor], v: Tensor):
    """The same where the gradient of the tables is made, or something is not as it usually is."""
    reader, residual, gradient, update = ctx.call
    tables = saved[0].detach() if saved else ctx.tables
    if v.dim() == 2:
        v = v[None]
    need_dx = ctx.needs_input_grad[0]
    dense = torch.zeros(tables.shape, dtype=_float32, device="cpu") if gradient == "dense" else None
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
