"""The border of the operators: shapes and types are checked here once, in words that name the argument.

What anchors and delays hold is checked where they are read: by the native kernels themselves, elsewhere by
:func:`check_anchor_range` and :func:`check_delay_range`.
"""

# B sequence, T position, I table, R comparison, J row, K output

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops.row_layout import has_even_rows
from polychron.ops.row_update import RowUpdate

GRADIENTS = ("dense", "sparse", "fused")


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def as_sequences(x: Tensor, delays: Tensor | None, history: Tensor | None) -> Tensor:
    """x (B, n) as one sequence (1, B, n), which must have neither delays nor history; of another shape as it is."""
    if x.dim() != 2:
        return x
    if delays is not None or history is not None:
        raise ValueError("delays and history need x of shape (B, T, n); got two dimensions")
    return x[None]


def check_latencies(x: Tensor, name: str = "x", shapes: str = "(B, T, n)") -> None:
    """x must be floating and (B, T, n); ``shapes``: those that the caller takes."""
    if not x.is_floating_point():
        raise ValueError(
            f"{name} must hold latencies (float32 or float64); got {x.dtype}. "
            "These look like token ids: pass them through the embedding first."
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64; got {x.dtype}")
    if x.dim() != 3:
        raise ValueError(f"{name} must have shape {shapes}; got {_shape(x)}")


def check_anchors(anchors: Tensor, name: str = "anchors") -> None:
    """Anchors must be int32 (n_tables, n_comparisons, 2)."""
    if anchors.dtype != torch.int32 or anchors.dim() != 3 or anchors.shape[2] != 2 or anchors.numel() == 0:
        raise ValueError(
            f"{name} must be int32 of shape (n_tables, n_comparisons, 2); got {anchors.dtype} {_shape(anchors)}"
        )
    if anchors.shape[1] > 30:
        raise ValueError(f"{name} must name at most 30 comparisons a table; got {anchors.shape[1]}")


def check_anchor_range(anchors: Tensor, n_inputs: int, name: str = "anchors") -> None:
    """Every neuron in [0, n_inputs). The native kernels check this themselves, at a hundredth of the cost."""
    lowest, highest = (int(end) for end in anchors.aminmax())
    if lowest < 0 or highest >= n_inputs:
        raise ValueError(
            f"{name} must lie in [0, n_inputs = {n_inputs}); got {lowest if lowest < 0 else highest}. "
            "Were they drawn for another n_inputs?"
        )


def check_delays(delays: Tensor | None, anchors: Tensor) -> None:
    """Delays must be int32, of the anchors' shape."""
    if delays is None:
        return
    if delays.dtype != torch.int32 or delays.shape != anchors.shape:
        raise ValueError(f"delays must be int32 of shape {_shape(anchors)}; got {delays.dtype} {_shape(delays)}")


def check_delay_range(delays: Tensor | None) -> None:
    """Every delay in [0, 65536); checked by the native kernels themselves."""
    if delays is None:
        return
    lowest, highest = (int(end) for end in delays.aminmax())
    if lowest < 0 or highest >= 1 << 16:
        raise ValueError(f"delays must lie in [0, 65536); got {lowest if lowest < 0 else highest}")


def check_tables(tables: Tensor, x: Tensor, n_tables: int, n_bits: int, name: str = "x") -> None:
    """Tables must be (n_tables, 2^n_bits, K) on x's device and of x's type, or bfloat16 under float32 latencies.

    ``name``: that of x.
    """
    if n_bits > 30:
        raise ValueError(f"a row's index has at most 30 bits; the anchors ask for {n_bits}")
    if tables.dim() != 3 or tables.shape[0] != n_tables or tables.shape[1] != 1 << n_bits or tables.shape[2] < 1:
        raise ValueError(f"tables must have shape ({n_tables}, 2^{n_bits}, n_outputs); got {_shape(tables)}")
    fits = tables.dtype == x.dtype or (x.dtype == torch.float32 and tables.dtype == torch.bfloat16)
    if not fits or tables.device != x.device:
        raise ValueError(
            f"tables must have {name}'s type and device ({x.dtype}, {x.device}), or be bfloat16 where {name} is "
            f"float32; got {tables.dtype}, {tables.device}"
        )


def check_history(history: Tensor | None, x: Tensor) -> None:
    """History must be (B, D, n) of x's type."""
    if history is None:
        return
    if history.dim() != 3 or history.shape[0] != x.shape[0] or history.shape[2] != x.shape[2]:
        raise ValueError(f"history must have shape ({x.shape[0]}, D, {x.shape[2]}); got {_shape(history)}")
    if history.dtype != x.dtype:
        raise ValueError(f"history must have x's type {x.dtype}; got {history.dtype}")


def check_targets(targets: Tensor, x: Tensor) -> None:
    """Targets must be int64 (B, T), of the latencies x (B, T, n)."""
    if targets.dtype != torch.int64 or targets.shape != x.shape[:2]:
        raise ValueError(
            f"targets must be int64 of shape ({x.shape[0]}, {x.shape[1]}); got {targets.dtype} {_shape(targets)}"
        )


def check_target_range(targets: Tensor, n_outputs: int) -> None:
    """Every target in [0, n_outputs); checked by the native kernels themselves.

    Whoever records a CUDA graph looks himself.
    """
    if targets.numel() == 0 or (targets.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    lowest, highest = torch.stack(targets.aminmax()).tolist()  # one wait for both
    if lowest < 0 or highest >= n_outputs:
        raise ValueError(
            f"targets must lie in [0, n_outputs = {n_outputs}); got {lowest if lowest < 0 else highest}. "
            "Are they of another vocabulary, or torch's ignore_index?"
        )


def check_gradient(gradient: str, update: RowUpdate | None, tables: Tensor) -> None:
    """``gradient`` must be known; ``update`` goes with "fused", and only with it."""
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")
    if gradient != "fused":
        if update is not None:
            raise ValueError(f"update must be None unless gradient='fused'; got {update} with {gradient!r}")
        return
    if not isinstance(update, RowUpdate):
        raise ValueError(f"update must be a RowUpdate when gradient='fused'; got {update!r}")
    if not has_even_rows(tables):
        raise ValueError(
            "tables must have contiguous, evenly spaced rows when gradient='fused': they are updated in place; "
            f"got strides {tables.stride()}"
        )
    if tables.dtype == torch.bfloat16 and update.kind == "online_sgd":
        raise ValueError("tables must be float32 for updates of kind 'online_sgd'; got bfloat16")
    update.prepare(tables)
