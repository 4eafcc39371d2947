r"""From latencies to rows: four ways to compare.

=============  ========================================  ==========================
hash           u_ir                                       rows of a table
=============  ========================================  ==========================
order          x[a] - x[b]                                2^R    (the paper's layer)
zero           x[a]                                       2^R
hyperplane     c_ir . x, c trained                        2^R
bins           x[a] - x[b], quantised into m bins         m^R
=============  ========================================  ==========================
"""

# P position, I table, R comparison

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HASHES = ("order", "zero", "hyperplane", "bins")


@dataclass(frozen=True)
class Address:
    """What a hash found.

    Attributes:
        row: (P, I) int64.
        u: (P, I, R), signed distance of each comparison from its nearest threshold, differentiable in x: above 0 where
            the comparison is on the threshold's upper side.
        weights: (R,) int64, what a step of each digit adds to the row: m^r.
        n_rows: of a table: m^R.
    """

    row: Tensor
    u: Tensor
    weights: Tensor
    n_rows: int

    def neighbours(self) -> Tensor:
        """The row beyond each comparison's nearest threshold: (P, I, R)."""
        return self.row[..., None] + torch.where(self.u > 0, -self.weights, self.weights)

    def nearest(self) -> tuple[Tensor, Tensor]:
        """Of each table the u of smallest magnitude, of several the first, and the row beyond it: (P, I) both."""
        pair = self.u.detach().abs().argmin(dim=-1, keepdim=True)
        u, step = self.u.gather(-1, pair)[..., 0], self.weights[pair[..., 0]]
        return u, self.row + torch.where(u > 0, -step, step)

    @property
    def is_binary(self) -> bool:
        """Whether every comparison has two outcomes."""
        return self.n_rows == 1 << len(self.weights)


def binary(u: Tensor) -> Address:
    """The address that the signs of u (P, I, R) form."""
    weights = 1 << torch.arange(u.shape[-1], device=u.device)
    return Address(((u > 0) * weights).sum(dim=-1), u, weights, 1 << u.shape[-1])


def _latencies_of(x: Tensor, neurons: Tensor) -> Tensor:
    """x[:, neurons], (P, I, R), by copying whole neurons: fast where x is a transposed view."""
    return x.t().index_select(0, neurons.reshape(-1).long()).view(*neurons.shape, -1).permute(2, 0, 1)


def order_hash(x: Tensor, anchors: Tensor) -> Address:
    """Which of two neurons fires first: u = x[a] - x[b]. x (P, n), anchors (I, R, 2).

    Example:
        >>> order_hash(torch.tensor([[0.3, -0.1, 0.2]]), torch.tensor([[[0, 1], [2, 0]]])).row
        tensor([[1]])
    """
    return binary(_latencies_of(x, anchors[..., 0]) - _latencies_of(x, anchors[..., 1]))


def zero_hash(x: Tensor, anchors: Tensor) -> Address:
    """Whether a neuron fires after the window's centre: u = x[a]; the second neuron of a pair is not looked at.

    Example:
        >>> zero_hash(torch.tensor([[0.3, -0.1, 0.2]]), torch.tensor([[[0, 1], [1, 0]]])).row
        tensor([[1]])
    """
    return binary(_latencies_of(x, anchors[..., 0]))


def hyperplane_hash(x: Tensor, directions: Tensor, delays: Tensor | None = None) -> Address:
    """On which side of a plane through the origin the latencies lie: u_ir = c_ir . x. directions c (I, R, n).

    With c = e_a - e_b it is the order. The gradient in c follows from u: dL/dc = U'(u) g x. With ``delays`` (I, R) each
    plane cuts the latencies of one earlier position; x then holds those of delay 0, 1, ... side by side.

    Example:
        >>> hyperplane_hash(torch.tensor([[0.3, -0.1]]), torch.tensor([[[1.0, 1.0], [-1.0, 0.0]]])).row
        tensor([[1]])
    """
    if delays is None:
        return binary(torch.einsum("pn,irn->pir", x, directions))
    n = directions.shape[2]
    planes, flat = directions.reshape(-1, n), delays.reshape(-1)
    which = [torch.nonzero(flat == d)[:, 0] for d in range(x.shape[1] // n)]
    u = torch.cat([x[:, d * n : (d + 1) * n] @ planes[some].t() for d, some in enumerate(which)], dim=1)
    return binary(u[:, torch.cat(which).argsort()].view(len(x), *delays.shape))


def bins_hash(x: Tensor, anchors: Tensor, n_bins: int, width: float = 1.0) -> Address:
    """By how much one neuron fires before another: digit d_r = thresholds below x[a] - x[b], row = sum_r d_r m^r.

    The m - 1 thresholds are ``width`` apart and centred on 0; m = 2 is the order. The paper gives no rule for the flip:
    here it leads across the nearest threshold (the lower of two equally near).

    Example:
        >>> address = bins_hash(torch.tensor([[0.9, 0.0]]), torch.tensor([[[0, 1]]]), n_bins=3)
        >>> address.row, address.neighbours()   # thresholds at -0.5 and 0.5
        (tensor([[2]]), tensor([[[1]]]))
    """
    if n_bins < 2:
        raise ValueError(f"n_bins must be at least 2; got {n_bins}")
    if not 0 < width < float("inf"):
        raise ValueError(f"width must be positive and finite; got {width}")
    pairs = anchors.long()
    difference = _latencies_of(x, pairs[..., 0]) - _latencies_of(x, pairs[..., 1])
    thresholds = (torch.arange(n_bins - 1, device=x.device, dtype=x.dtype) - (n_bins - 2) / 2) * width
    distance = difference[..., None] - thresholds
    nearest = distance.detach().abs().argmin(dim=-1, keepdim=True)
    digit = (distance > 0).sum(dim=-1)
    weights = n_bins ** torch.arange(pairs.shape[1], device=x.device)
    u = distance.gather(-1, nearest)[..., 0]
    return Address((digit * weights).sum(dim=-1), u, weights, n_bins ** len(weights))


def join(query: Address, key: Address, position: Address) -> Address:
    """Three addresses as the one of an attention's row: query bits highest, the position's lowest.

    Of comparisons equally near to flipping the key's comes first, then the query's.

    Example:
        >>> one = Address(torch.tensor([[1]]), torch.tensor([[[0.5]]]), torch.tensor([1]), n_rows=2)
        >>> joined = join(one, one, one)
        >>> joined.row, joined.neighbours()
        (tensor([[7]]), tensor([[[5, 3, 6]]]))
    """
    low, middle = position.n_rows, position.n_rows * key.n_rows
    return Address(
        position.row + low * key.row + middle * query.row,
        torch.cat([key.u, query.u, position.u], dim=-1),
        torch.cat([low * key.weights, middle * query.weights, position.weights]),
        middle * query.n_rows,
    )
