r"""Structural plasticity of one layer: comparisons that tell little give way to others that will tell more.

The paper states two principles and no rule: rows should be used evenly, and the two halves that a comparison makes of
its table should differ. Here one number holds both, for comparisons that are there and for those that might be.

What comparison r of a table tells is what the table would lose without it, each pair of rows that it tells apart merged
to their mean, weighted by readings (:func:`lost_by_merging`):

.. math:: d_r = \sum_j \frac{n_j n_{\bar j}}{n_j + n_{\bar j}} \lVert S_j - S_{\bar j} \rVert^2

What a new comparison in its place could tell is the same with gradients for rows: how differently the loss would have
the two halves of each merged row changed, estimated on two halves A and B of the sample so that noise cancels:

.. math:: g = \sum_j \frac{n_{j0} n_{j1}}{n_{j0} + n_{j1}}
              \langle \bar v^A_{j1} - \bar v^A_{j0},\; \bar v^B_{j1} - \bar v^B_{j0} \rangle

Both are small where readings are split unevenly, and both where the halves agree.
"""

# I table, R comparison, J row, K output, P reading, C candidate

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polychron.nn.lookup_tables import LookupTables
from polychron.ops.lookup.reference import comparisons


@dataclass(frozen=True)
class Rewired:
    """A comparison that was replaced.

    Attributes:
        table: its table.
        comparison: its place in the table.
        lost: what the table lost, :math:`d_r`.
        gain: what the new comparison promises, :math:`g`.
    """

    table: int
    comparison: int
    lost: float
    gain: float


def lost_by_merging(visits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    r"""What would change if a comparison were taken away, each pair of rows that it tells apart merged to their mean.

    .. math:: d_r = \sum_{j < \bar j^r} \frac{n_j n_{\bar j}}{n_j + n_{\bar j}} \lVert S_j - S_{\bar j} \rVert^2

    the sum of squared changes of the table's output over all readings, with means weighted by readings. It is 0 for a
    comparison that always falls the same way, and for one whose halves hold the same.

    Args:
        visits: (J,) readings of each row.
        rows: (J, K).

    Returns:
        (R,) float64, J = 2^R.

    Example:
        >>> lost_by_merging(np.array([1, 1, 2, 2]), np.array([[0.0], [0.0], [1.0], [1.0]])).tolist()
        [0.0, 1.3333333333333333]
    """
    n_bits = len(visits).bit_length() - 1
    lost = np.zeros(n_bits)
    read = np.flatnonzero(visits)
    for r in range(n_bits):
        low = read[(read >> r & 1 == 0) & (visits[read ^ (1 << r)] > 0)]
        high = low | 1 << r
        weight = visits[low] * visits[high] / (visits[low] + visits[high])
        change = rows[low] - rows[high]
        lost[r] = weight @ np.einsum("jk,jk->j", change, change, dtype=np.float64)
    return lost


@torch.no_grad()
def rewire(
    layer: LookupTables,
    x: Tensor,
    v: Tensor,
    *,
    share: float = 0.02,
    n_candidates: int = 16,
    rng: np.random.Generator,
) -> list[Rewired]:
    """Replaces the comparisons of a layer that tell least, at most one a table, and merges the rows they told apart.

    Of ``n_candidates`` comparisons, drawn from the pairs and the delays that the layer has in other places, the one
    with the greatest promise takes the place; where none promises anything, or no other pair is left, nothing is
    replaced. Both of its halves start from the merged rows.

    Args:
        layer: without gradient state of its own but a :class:`polychron.ops.RowUpdate`, whose sums are merged as rows
            are; changed in place.
        x: latencies (B, T, n_inputs) that it reads, B at least 2; even and odd sequences are the two halves of the
            sample.
        v: the loss' gradient in its output, (B, T, K).
        share: part of the layer's comparisons to replace, at least one.
        n_candidates: tried for each place.
        rng: draws them.

    Returns:
        What was replaced, least telling first.

    Source: Spiking Manifesto names the principles; the rule is this project's.

    Example:
        >>> layer = LookupTables(n_inputs=8, n_outputs=2, n_tables=4, n_comparisons=3)
        >>> len(rewire(layer, torch.randn(8, 5, 8), torch.randn(8, 5, 2), rng=np.random.default_rng(0))) <= 1
        True
    """
    u = comparisons(x, layer.anchors, layer.delays)
    bits = (u > 0).flatten(2).numpy()  # I R P
    row = np.einsum("irp,r->ip", bits, 1 << np.arange(bits.shape[1]))
    tables = layer.synaptic_vectors.detach().float().numpy()
    visits = np.stack([np.bincount(one, minlength=tables.shape[1]) for one in row])
    lost = np.stack([lost_by_merging(n, rows) for n, rows in zip(visits, tables, strict=True)])
    worst = lost.argmin(axis=1)
    n_replaced = min(layer.n_tables, max(1, round(share * lost.size)))
    chosen = np.argsort(lost.min(axis=1), kind="stable")[:n_replaced]

    gradient = v.flatten(0, 1).numpy()
    half = np.repeat(np.arange(x.shape[0]) % 2, x.shape[1])
    anchors, delays = layer.anchors.clone(), None if layer.delays is None else layer.delays.clone()
    done = []
    for i in chosen.tolist():
        r = int(worst[i])
        pairs, waits = _candidates(layer, i, n_candidates, rng)
        if len(pairs) == 0:
            continue
        falls = (comparisons(x, pairs[None], None if waits is None else waits[None])[0] > 0).flatten(1).numpy()
        merged = row[i] & ~(1 << r)
        gains = [promise(merged, one, half, gradient, tables.shape[1]) for one in falls]
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            continue
        _merge(layer, i, r, visits[i])
        anchors[i, r] = pairs[best]
        if delays is not None:
            delays[i, r] = waits[best]
        done.append(Rewired(i, r, float(lost[i, r]), float(gains[best])))
    # Other tensors, not other contents: a chain that points to the old ones notices.
    layer.anchors = anchors
    if delays is not None:
        layer.delays = delays
    return done


def promise(row: np.ndarray, falls: np.ndarray, half: np.ndarray, gradient: np.ndarray, n_rows: int) -> float:
    """How differently the halves that a comparison makes of each row would be changed: g of this module.

    Args:
        row: (P,) row of each reading, without the comparison.
        falls: (P,) bool, how it falls.
        half: (P,) 0 or 1, half of the sample.
        gradient: (P, K) the loss' gradient in the row that is read.
        n_rows: J.
    """
    cell = (row * 2 + falls) * 2 + half  # J, falls, half
    n = np.bincount(cell, minlength=4 * n_rows).reshape(n_rows, 2, 2)
    total = torch.zeros(4 * n_rows, gradient.shape[1])
    total.index_add_(0, torch.from_numpy(cell), torch.from_numpy(gradient))
    mean = total.numpy().reshape(n_rows, 2, 2, -1) / np.maximum(n, 1)[..., None]
    known = (n > 0).all(axis=(1, 2))
    difference = mean[known, 1] - mean[known, 0]  # rows, half, K
    n_each = n[known].sum(axis=2)
    weight = n_each[:, 0] * n_each[:, 1] / n_each.sum(axis=1)
    return float(weight @ np.einsum("jk,jk->j", difference[:, 0], difference[:, 1], dtype=np.float64))


def _candidates(layer: LookupTables, i: int, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor | None]:
    """Pairs (C, 2) and delays (C, 2) from anywhere in the layer; none of a pair that table i compares already."""
    held = {frozenset(pair) for pair in layer.anchors[i].tolist()}
    pool = layer.anchors.flatten(0, 1)
    drawn = pool[torch.from_numpy(rng.integers(len(pool), size=n))]
    new = torch.tensor([frozenset(pair) not in held for pair in drawn.tolist()], dtype=torch.bool)
    if layer.delays is None:
        return drawn[new], None
    waits = layer.delays.flatten(0, 1)[torch.from_numpy(rng.integers(len(pool), size=n))]
    return drawn[new], waits[new]


def _merge(layer: LookupTables, i: int, r: int, visits: np.ndarray) -> None:
    """Both rows of every pair that bit r of table i tells apart become their mean, weighted by readings."""
    low = np.flatnonzero(np.arange(len(visits)) >> r & 1 == 0)
    high = low | 1 << r
    weight = torch.from_numpy(np.stack([visits[low], visits[high]]).astype(np.float32))
    weight[:, weight.sum(dim=0) == 0] = 1  # read by nobody: the plain mean
    weight /= weight.sum(dim=0)
    values = [layer.synaptic_vectors[i]]
    if layer.update is not None and layer.update.state is not None:
        values.append(layer.update.state[i].reshape(len(visits), -1))
    for value in values:
        mean = (weight[0, :, None] * value[low] + weight[1, :, None] * value[high]).to(value.dtype)
        value[low] = mean
        value[high] = mean
