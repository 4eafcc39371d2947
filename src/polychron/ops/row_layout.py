"""How rows lie in memory: contiguous, evenly spaced, padded to suit cache lines."""

from __future__ import annotations

from torch import Tensor

_LINE_BYTES = 64


def row_stride(n_outputs: int, number_bytes: int = 4) -> int:
    """How many numbers apart rows of ``n_outputs`` should begin: no row straddles more cache lines than it must.

    Example:
        >>> [row_stride(n) for n in (3, 10, 32, 83)], row_stride(83, number_bytes=2)
        ([4, 16, 32, 96], 96)
    """
    in_line = _LINE_BYTES // number_bytes
    if n_outputs >= in_line:
        return -(-n_outputs // in_line) * in_line
    return 1 << (n_outputs - 1).bit_length()


def has_even_rows(rows: Tensor) -> bool:
    """Whether the rows of (., ., K) are contiguous each and evenly spaced: what the native kernels read in place."""
    if rows.is_contiguous():
        return True
    many, each, width = rows.shape
    stride = rows.stride(1) if each > 1 else rows.stride(0)
    spaced = each <= 1 or many <= 1 or rows.stride(0) == each * stride
    return rows.numel() == 0 or (stride >= width and spaced and (width == 1 or rows.stride(2) == 1))
