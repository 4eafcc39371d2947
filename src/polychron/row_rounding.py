"""Rows of whole numbers chosen so that their errors cancel where a text reads them together.

A latency is a sum of one row a table. Rounded for itself, every row adds an error of its own; but a text reads rows
together again and again, and what one of them lacks another can have more.

Axes: T position, I table, R comparison, J row, K output, n neuron.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops.lookup.reference import comparisons

_LIMIT = 127
_SWEEPS = 2  # the first takes away half of the error, the second a tenth, all further ones together a tenth
_RARE = 8.0  # a row that was read so often is moved by half of its mean error


def rows_read(z: Tensor, anchors: Tensor, delays: Tensor | None) -> Tensor:
    """Which row of each table a text reads: (I, T) int64.

    Args:
        z: latencies (T, n); before the text they are 0.
        anchors: (I, R, 2).
        delays: (I, R, 2), or None: none.

    Example:
        >>> rows_read(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[[0, 1]]]), None).tolist()
        [[0, 1]]
    """
    weight = 1 << torch.arange(anchors.shape[1])
    return torch.cat([
        ((comparisons(z[None], anchors[i : i + 1], None if delays is None else delays[i : i + 1])[0, :, 0] > 0)
         * weight[:, None]).sum(dim=0, keepdim=True)
        for i in range(len(anchors))
    ])  # fmt: skip


def add_rows(tables: Tensor, rows: Tensor) -> Tensor:
    """The sum of the rows read, tables ascending: (I, J, K) at (I, T) to (T, K)."""
    total = tables.new_zeros(rows.shape[1], tables.shape[2])
    for table, row in zip(tables, rows, strict=True):
        total += table[row]
    return total


def round_together(tables: Tensor, exponents: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    r"""Whole rows whose sums are near those wanted, by coordinate descent on the squared error.

    .. math:: \min_q \sum_t \Big|\sum_i 2^{e_i} q_{i, j_i(t)} - y_t\Big|^2,\quad q \in [-127, 127]

    It begins with every row rounded for itself; then, table after table, each row is rounded anew with its mean error
    over the positions that read it taken away. A row that is read rarely keeps more of what it was.

    Args:
        tables: S (I, J, K) float32.
        exponents: e (I,) int64.
        rows: j (I, T) int64, what the text reads.
        wanted: y (T, K).

    Returns:
        (I, J, K) int8.

    Example:
        >>> tables = torch.full((3, 1, 1), 0.4)          # 1.2 together; each rounded for itself: 0
        >>> round_together(tables, torch.zeros(3, dtype=torch.int64), torch.zeros(3, 1000, dtype=torch.int64),
        ...                torch.full((1000, 1), 1.2)).flatten().tolist()
        [1, 0, 0]
    """
    steps = torch.ldexp(torch.ones(len(tables)), exponents)[:, None, None]
    whole = (tables / steps).round().clamp(-_LIMIT, _LIMIT)
    error = add_rows(whole * steps, rows) - wanted
    read = [torch.bincount(row, minlength=tables.shape[1])[:, None] for row in rows]
    for _ in range(_SWEEPS):
        for table, step, row, count in zip(whole, steps, rows, read, strict=True):
            mean = torch.zeros_like(table).index_add_(0, row, error) / (count + _RARE)
            better = (table - mean / step).round().clamp(-_LIMIT, _LIMIT)
            error += ((better - table) * step)[row]
            table.copy_(better)
    return whole.to(torch.int8)
