r"""From rows to the layer's output, and how a gradient gets back.

Readings, S_j the row addressed, S_r its neighbour beyond comparison r, r* the comparison nearest to flipping:

=============  =====================================================================================
hard           y = sum_i S_j
soft           y = sum_i S_j + U(u_r*) (S_r* - S_j)                        (equation 4 as the value)
confidence     y = sum_i s_i (S_j + w (S_r* - S_j)),  w = sigmoid(-2 |u_r*|),
               s_i = (sum_r |u_r|) exp(gamma sum_r log sigmoid(beta |u_r|))
=============  =====================================================================================

Soft and confidence are differentiated as they are. For the hard reading, whose gradient in x is 0, a surrogate acts:

=============  =====================================================================================
nearest        sum_i U(u_r*) (S_r* - S_j)                                                (equation 4)
all            sum_i sum_r U(u_r) (S_r - S_j)           (a reading of equations 17 and 18: inferred)
softmax        sum_i sum_b pi_b S_b, pi = softmax over rows b of sum_r (+-1 as bit r of b is 1 or 0) p_r / tau,
               p_r = u_r / (T + |u_r|)
scalar         -U(u) S_j of the one table with the smallest |u| of the layer   (VIII-K: S_r* ignored)
=============  =====================================================================================

The gradient in the tables is exact for every reading; of the hard one only the rows read have any.
"""

# P position, I table, R comparison, J row, K output

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops.variants.hashes import Address

READINGS = ("hard", "soft", "confidence")
GRADIENTS = ("nearest", "all", "softmax", "scalar")


def read(
    address: Address,
    tables: Tensor,
    reading: str = "hard",
    gradient: str = "nearest",
    *,
    beta: Tensor | None = None,
    gamma: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """The layer's output (P, K) of what a hash found; see the module for the equations.

    Args:
        address: of P positions and I tables.
        tables: synaptic vectors S, (I, J, K).
        reading: ``"hard"``, ``"soft"`` or ``"confidence"``.
        gradient: of the hard reading: ``"nearest"``, ``"all"``, ``"softmax"`` or ``"scalar"``.
        beta: of the confidence, 0-dim; None: 2.
        gamma: of the confidence, 0-dim; None: 1.
        temperature: tau and T of the softmax.

    Raises:
        ValueError: an unknown name, tables that do not fit, or a softmax over rows that are no bits.

    Example:
        >>> from polychron.ops.variants import order_hash
        >>> address = order_hash(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0, 1]]]))
        >>> tables = torch.tensor([[[0.0], [8.0]]])
        >>> read(address, tables), read(address, tables, "soft")   # U(1) = 0.25
        (tensor([[8.]]), tensor([[6.]]))
    """
    if reading not in READINGS:
        raise ValueError(f"reading must be one of {', '.join(READINGS)}; got {reading!r}")
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")
    n_tables, n_comparisons = address.u.shape[1:]
    if tables.dim() != 3 or tables.shape[0] != n_tables:
        raise ValueError(f"tables must have shape ({n_tables}, n_rows, n_outputs); got {tuple(tables.shape)}")
    here = _rows(tables, address.row)
    nearest = address.u.detach().abs().argmin(dim=-1, keepdim=True)  # of several the first
    u = address.u.gather(-1, nearest)[..., 0]
    if reading != "hard":
        there = _rows(tables, address.neighbours().gather(-1, nearest)[..., 0])
        if reading == "soft":
            return (here + surrogate(u)[..., None] * (there - here)).sum(dim=1)
        mixed = here + torch.sigmoid(-2 * u.abs())[..., None] * (there - here)
        return (confidence(address.u, beta, gamma)[..., None] * mixed).sum(dim=1)
    y = here.sum(dim=1)
    fixed = tables.detach()
    if gradient == "nearest":
        there = _rows(fixed, address.neighbours().gather(-1, nearest)[..., 0])
        value = (surrogate(u)[..., None] * (there - here.detach())).sum(dim=1)
    elif gradient == "all":
        there = _rows(fixed[:, :, None], address.neighbours())
        value = (surrogate(address.u)[..., None] * (there - here.detach()[:, :, None])).sum(dim=(1, 2))
    elif gradient == "softmax":
        if not address.is_binary or tables.shape[1] != 1 << n_comparisons:
            raise ValueError("gradient softmax needs rows whose index is made of bits: take another hash than bins")
        value = torch.einsum("pij,ijk->pk", row_probabilities(address.u, temperature), fixed)
    else:
        table = u.detach().abs().argmin(dim=1, keepdim=True)
        alone = here.detach().gather(1, table[..., None].expand(-1, -1, here.shape[2]))[:, 0]
        value = -surrogate(u.gather(1, table)) * alone
    return y + (value - value.detach())


class _Surrogate(torch.autograd.Function):
    """U(u) = 0.5 / (1 + |u|), whose slope at 0 is +0.5: a tie still learns."""

    @staticmethod
    def forward(ctx, u):
        """U(u)."""
        ctx.save_for_backward(u)
        return 0.5 / (1 + u.abs())

    @staticmethod
    def backward(ctx, v):
        """U'(u) = -0.5 sign(u) / (1 + |u|)^2, sign(0) = -1."""
        (u,) = ctx.saved_tensors
        return v * torch.where(u > 0, -0.5, 0.5) / (1 + u.abs()) ** 2


def surrogate(u: Tensor) -> Tensor:
    """U(u) = 0.5 / (1 + |u|), with U'(0) = +0.5.

    Example:
        >>> surrogate(torch.tensor([0.0, 1.0]))
        tensor([0.5000, 0.2500])
    """
    return _Surrogate.apply(u)


def confidence(u: Tensor, beta: Tensor | None = None, gamma: Tensor | None = None) -> Tensor:
    """s = (sum_r |u_r|) exp(gamma sum_r log sigmoid(beta |u_r|)): (..., R) to (...).

    Example:
        >>> confidence(torch.zeros(1, 3))
        tensor([0.])
    """
    size = u.abs()
    beta = 2.0 if beta is None else beta
    gamma = 1.0 if gamma is None else gamma
    return size.sum(dim=-1) * (gamma * torch.nn.functional.logsigmoid(beta * size).sum(dim=-1)).exp()


def row_probabilities(u: Tensor, temperature: float = 1.0) -> Tensor:
    """pi: how likely each row is, from how clear each bit is: (..., R) to (..., 2^R).

    Example:
        >>> row_probabilities(torch.tensor([[1.0]]))   # p = 1/2: softmax of -1/2, 1/2
        tensor([[0.2689, 0.7311]])
    """
    bits = torch.arange(1 << u.shape[-1], device=u.device)[:, None] >> torch.arange(u.shape[-1], device=u.device) & 1
    clear = u / (temperature + u.abs())
    return (clear @ (2 * bits - 1).to(u.dtype).T / temperature).softmax(dim=-1)


def _rows(tables: Tensor, row: Tensor) -> Tensor:
    """S[i, row]: row (P, I, ...) to (P, I, ..., K); tables (I, J, K), or (I, J, 1, K) for a row of every comparison."""
    table = torch.arange(tables.shape[0], device=tables.device)
    if tables.dim() == 4:
        return tables[:, :, 0][table[:, None], row]
    return tables[table, row]
