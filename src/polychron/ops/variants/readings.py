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

The gradient in the tables is exact for every reading; of the hard one only the rows read have any. How far a row moves
by it under confidence is another matter: see :func:`steadied`.
"""

# P position, I table, R comparison, J row, K output

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops.variants.hashes import Address

READINGS = ("hard", "soft", "confidence")
GRADIENTS = ("nearest", "all", "softmax", "scalar")
NUMBERS_AT_ONCE = 1 << 20  # rows looked at together in the backward pass
LEAST_SQUARE = 1e-4  # a mean square of weights below this is taken for it: next to nothing is read, and little learnt


def read(
    address: Address,
    tables: Tensor,
    reading: str = "hard",
    gradient: str = "nearest",
    *,
    beta: Tensor | None = None,
    gamma: Tensor | None = None,
    temperature: float = 1.0,
    which: Tensor | None = None,
    visits: Tensor | None = None,
    squares: Tensor | None = None,
) -> Tensor:
    """The layer's output (P, K) of what a hash found; see the module for the equations.

    Args:
        address: of P positions and m tables.
        tables: synaptic vectors S, (I, J, K).
        reading: ``"hard"``, ``"soft"`` or ``"confidence"``.
        gradient: of the hard reading: ``"nearest"``, ``"all"``, ``"softmax"`` or ``"scalar"``.
        beta: of the confidence, 0-dim; None: 2.
        gamma: of the confidence, 0-dim; None: 1.
        temperature: tau and T of the softmax.
        which: (m,) int64, the tables that the address is of; None: all, m = I.
        visits: (I, J) int64, to which a backward pass that reaches the tables adds how often each row was read.
        squares: (I, J) float64, to which it adds the squares of the weights that each row was read with; goes with
            ``visits``. A hard reading's weights are 1: nothing is added.

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
    n_tables = address.u.shape[1]
    if tables.dim() != 3 or (len(tables) if which is None else len(which)) != n_tables:
        raise ValueError(f"tables must have shape ({n_tables}, n_rows, n_outputs); got {tuple(tables.shape)}")
    if gradient == "softmax" and (not address.is_binary or tables.shape[1] != address.n_rows):
        raise ValueError("gradient softmax needs rows whose index is made of bits: take another hash than bins")
    u, neighbour = address.nearest()
    first = tables.shape[1] * (torch.arange(n_tables, device=tables.device) if which is None else which)
    if reading != "hard":
        mix = surrogate(u) if reading == "soft" else torch.sigmoid(-2 * u.abs())
        scale = 1.0 if reading == "soft" else confidence(address.u, beta, gamma)
        rows = torch.cat([address.row + first, neighbour + first], dim=1)
        return _add_rows(tables, rows, torch.cat([scale * (1 - mix), scale * mix], dim=1), visits, squares)
    y = _add_rows(tables, address.row + first, None, visits)
    if not (torch.is_grad_enabled() and address.u.requires_grad):
        return y
    return y + latency_gradient(address, tables if which is None else tables.detach()[which], gradient, temperature)


def latency_gradient(address: Address, tables: Tensor, gradient: str, temperature: float = 1.0) -> Tensor:
    """Zero (P, K), whose gradient in ``address.u`` is that of the hard reading's surrogate; none in the tables."""
    return _LatencyGradient.apply(address.u, address, tables.detach(), gradient, temperature)


def steadied(gradient: Tensor, visits: Tensor, squares: Tensor) -> Tensor:
    r"""The tables' gradient (I, J, K), divided by the mean square of the weights that rows were read with.

    .. math:: G_j / \max(\sum_p w_{pj}^2 / n_j, \; \sum_{jp} w_{pj}^2 / \sum_j n_j)

    with n_j readings of row j, weights w, and the second mean that of the whole layer. A row's gradient is w v, and
    what it then adds is weighed by w again: plain descent would change the output by w^2 times the rate, and
    confidence, which is proportional to distances between latencies, has no bound. Divided so, the output changes as
    much as under the hard reading.

    Args:
        gradient: G.
        visits: n_j, (I, J).
        squares: the sums of squares, (I, J).

    Example:
        >>> one = torch.ones(1, 2, 1)   # read once with weight 4, twice with weight 1: the layer's mean is 6
        >>> steadied(one, torch.tensor([[1, 2]]), torch.tensor([[16.0, 2.0]])).flatten()
        tensor([0.0625, 0.1667])
    """
    of_layer = squares.sum() / visits.sum().clamp(min=1)
    mean = torch.maximum(squares / visits.clamp(min=1), of_layer).clamp(min=LEAST_SQUARE)
    return gradient / mean.to(gradient.dtype)[..., None]


def _add_rows(
    tables: Tensor, rows: Tensor, weights: Tensor | None, visits: Tensor | None, squares: Tensor | None = None
) -> Tensor:
    """Weighted sums (P, K) of rows (P, M), counted through all tables; exact gradients in tables and weights."""
    flat = tables.flatten(0, 1)
    if visits is not None:
        # Detached, or it would lead to the latencies, too.
        flat = _CountVisits.apply(flat, rows, visits, None if weights is None else weights.detach(), squares)
    return torch.nn.functional.embedding_bag(rows, flat, mode="sum", per_sample_weights=weights)


class _CountVisits(torch.autograd.Function):
    """The identity of the tables, whose backward pass adds to ``visits`` and ``squares`` (I, J) how each row was read.

    It is of the tables, not of what is read, so that nothing is counted where their gradient is not asked for.
    """

    @staticmethod
    def forward(ctx, tables, rows, visits, weights, squares):
        """The tables."""
        ctx.rows, ctx.visits, ctx.weights, ctx.squares = rows, visits, weights, squares
        return tables.view_as(tables)

    @staticmethod
    def backward(ctx, v):
        """v, the tables' gradient; the visits are counted."""
        rows, size = ctx.rows.flatten(), ctx.visits.numel()
        ctx.visits += torch.bincount(rows, minlength=size).view_as(ctx.visits)
        if ctx.squares is not None and ctx.weights is not None:
            squares = ctx.weights.flatten().double().square()
            ctx.squares += torch.bincount(rows, squares, minlength=size).view_as(ctx.squares)
        return v, None, None, None, None


class _LatencyGradient(torch.autograd.Function):
    """Zero, whose gradient in u is that of the hard reading's surrogate."""

    @staticmethod
    def forward(ctx, u, address, tables, gradient, temperature):
        """0 (P, K)."""
        ctx.save_for_backward(u, address.row, address.weights, tables)
        ctx.options = (address.n_rows, gradient, temperature)
        return tables.new_zeros(len(u), tables.shape[2])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v):
        """dL/du, a part of the positions at a time: rows of all of them would not fit a cache."""
        u, row, weights, tables = ctx.saved_tensors
        n_rows, gradient, temperature = ctx.options
        read_a_position = {"nearest": 2, "all": 1 + u.shape[2], "softmax": n_rows, "scalar": 1}[gradient] * u.shape[1]
        size = max(1, NUMBERS_AT_ONCE // read_a_position)
        pieces = [
            _surrogate_gradient(Address(row[p : p + size], u[p : p + size], weights, n_rows), tables, v[p : p + size],
                                gradient, temperature)
            for p in range(0, len(u), size)
        ]  # fmt: skip
        return torch.cat(pieces) if pieces else torch.zeros_like(u), None, None, None, None


def _surrogate_gradient(address: Address, tables: Tensor, v: Tensor, gradient: str, temperature: float) -> Tensor:
    """dL/du (P, I, R) of what is differentiated in place of the hard reading, v = dL/dy (P, K)."""
    u = address.u
    if gradient == "softmax":
        bits = 2 * row_bits(u.shape[2], u.device).to(u.dtype) - 1
        pi = row_probabilities(u, temperature)
        loss = torch.einsum("pk,ijk->pij", v, tables)
        t = pi * (loss - (pi * loss).sum(dim=-1, keepdim=True))
        return t @ bits / (temperature + u.abs()).square()
    here = _dot_rows(tables, address.row[..., None], v)
    if gradient == "all":
        return surrogate_slope(u) * (_dot_rows(tables, address.neighbours(), v) - here)
    nearest, neighbour = address.nearest()
    if gradient == "nearest":
        slope = surrogate_slope(nearest) * (_dot_rows(tables, neighbour[..., None], v) - here)[..., 0]
    else:
        alone = nearest.abs().argmin(dim=1, keepdim=True)
        slope = torch.zeros_like(nearest).scatter_(1, alone, -surrogate_slope(nearest).gather(1, alone))
        slope = slope * here[..., 0]
    pair = u.abs().argmin(dim=-1, keepdim=True)
    return torch.zeros_like(u).scatter_(-1, pair, slope[..., None])


def _dot_rows(tables: Tensor, rows: Tensor, v: Tensor) -> Tensor:
    """v . S[i, rows]: rows (P, I, M) and v (P, K) to (P, I, M)."""
    table = torch.arange(len(tables), device=tables.device)[:, None]
    read = tables[table, rows].flatten(1, 2)
    return torch.bmm(read, v[..., None])[..., 0].view(rows.shape)


def surrogate_slope(u: Tensor) -> Tensor:
    """U'(u) = -0.5 sign(u) / (1 + |u|)^2, sign(0) = -1."""
    return torch.where(u > 0, -0.5, 0.5).to(u.dtype) / (1 + u.abs()) ** 2


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
        return v * surrogate_slope(u)


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
    clear = u / (temperature + u.abs())
    return (clear @ (2 * row_bits(u.shape[-1], u.device) - 1).to(u.dtype).T / temperature).softmax(dim=-1)


def row_bits(n_comparisons: int, device: torch.device | None = None) -> Tensor:
    """Bit r of every row's number: (2^R, R)."""
    bits = torch.arange(n_comparisons, device=device)
    return torch.arange(1 << n_comparisons, device=device)[:, None] >> bits & 1
