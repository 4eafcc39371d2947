"""Memory for tables: zero, aligned, on huge pages where the system grants them, rows spaced to suit cache lines."""

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops import table_pages
from polychron.ops.dispatch import native
from polychron.ops.row_layout import row_stride


def zero_tables(n_tables: int, n_rows: int, n_outputs: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """CPU tables of zeros; of float32 or bfloat16 on a 64-byte boundary, and from 2 MiB on huge pages are asked for.

    Rows are padded in memory (:func:`polychron.ops.row_layout.row_stride`), not in shape: the tensor need not be
    contiguous. What walks its memory flat trains it wrongly without a word: torch's optimizers with ``fused=True``.
    All others may be used; for these ``tables.data = tables.data.contiguous()`` first.

    All of it is touched at once: a run does not stop for pages later, and memory that is not there is missed now.
    :func:`polychron.kernel_info` says which pages it got. Without the extension, or of another type, this is
    ``torch.zeros``.

    Raises:
        MemoryError: the system has no room for it.

    Example:
        >>> zero_tables(2, 4, 3).sum()
        tensor(0.)
    """
    if native is None or dtype not in (torch.float32, torch.bfloat16):
        return torch.zeros(n_tables, n_rows, n_outputs, dtype=dtype, device="cpu")
    shape = [n_tables, n_rows, row_stride(n_outputs, dtype.itemsize)]
    memory = native.allocate_tables(shape, torch.get_num_threads(), bfloat16=dtype == torch.bfloat16)
    table_pages.remember(memory)
    return torch.from_numpy(memory).view(dtype)[..., :n_outputs]
