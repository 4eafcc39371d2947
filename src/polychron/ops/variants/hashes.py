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
    """

    row: Tensor
    u: Tensor
    weights: Tensor

    def neighbours(self) -> Tensor:
        """The row beyond each comparison's nearest threshold: (P, I, R)."""
        return self.row[..., None] + torch.where(self.u > 0, -self.weights, self.weights)

    @property
    def is_binary(self) -> bool:
        """Whether every comparison has two outcomes."""
        return bool((self.weights == 1 << torch.arange(len(self.weights), device=self.weights.device)).all())


def _binary(u: Tensor) -> Address:
    weights = 1 << torch.arange(u.shape[-1], device=u.device)
    return Address(((u > 0) * weights).sum(dim=-1), u, weights)


def order_hash(x: Tensor, anchors: Tensor) -> Address:
    """Which of two neurons fires first: u = x[a] - x[b]. x (P, n), anchors (I, R, 2).

    Example:
        >>> order_hash(torch.tensor([[0.3, -0.1, 0.2]]), torch.tensor([[[0, 1], [2, 0]]])).row
        tensor([[1]])
    """
    pairs = anchors.long()
    return _binary(x[:, pairs[..., 0]] - x[:, pairs[..., 1]])


def zero_hash(x: Tensor, anchors: Tensor) -> Address:
    """Whether a neuron fires after the window's centre: u = x[a]; the second neuron of a pair is not looked at.

    Example:
        >>> zero_hash(torch.tensor([[0.3, -0.1, 0.2]]), torch.tensor([[[0, 1], [1, 0]]])).row
        tensor([[1]])
    """
    return _binary(x[:, anchors[..., 0].long()])


def hyperplane_hash(x: Tensor, directions: Tensor) -> Address:
    """On which side of a plane through the origin the latencies lie: u_ir = c_ir . x. directions c (I, R, n).

    With c = e_a - e_b it is the order. The gradient in c follows from u: dL/dc = U'(u) g x.

    Example:
        >>> hyperplane_hash(torch.tensor([[0.3, -0.1]]), torch.tensor([[[1.0, 1.0], [-1.0, 0.0]]])).row
        tensor([[1]])
    """
    return _binary(torch.einsum("pn,irn->pir", x, directions))


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
    difference = x[:, pairs[..., 0]] - x[:, pairs[..., 1]]
    thresholds = (torch.arange(n_bins - 1, device=x.device, dtype=x.dtype) - (n_bins - 2) / 2) * width
    distance = difference[..., None] - thresholds
    nearest = distance.detach().abs().argmin(dim=-1, keepdim=True)
    digit = (distance > 0).sum(dim=-1)
    weights = n_bins ** torch.arange(pairs.shape[1], device=x.device)
    return Address((digit * weights).sum(dim=-1), distance.gather(-1, nearest)[..., 0], weights)
