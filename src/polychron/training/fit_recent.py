"""How much a text's own past is to be believed: the cells of recent tables, fitted to text that was not counted."""

# N position in the text, K symbol, M numbers found at a position, C cell

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from polychron.ops.contexts import STATE_SIZE
from polychron.ops.recent import CELLS_SHAPE, N_CELLS, add_recent, find_recent, start_recent_state
from polychron.training.newton import least

_FIT_PIECE = 4096  # positions: fewer cost more calls
_CURVATURE_OF = 4  # of so many pieces one
# As Gaussians' 1 / sigma^2, in nats of all bytes together: how far cells leave what three texts agreed on, and how far
# the factor of all other logits leaves 1.
_CELLS_STRENGTH = 4.0
_FACTOR_STRENGTH = 20.0

# Of each table a row for the latest symbol and one for that before: means of what suits novels, plays and code.
USUAL_CELLS = (
    (0.31, 0.51, 0.55, 0.54, 0.36, 0.45, 0.97, 1.69),
    (0.24, 0.27, 0.10, 0.29, 0.27, 0.20, 0.06, -0.14),
    (0.46, 0.37, 0.99, 1.18, 0.98, 1.59, 0.82, 1.74),
    (0.34, 0.34, 0.34, 0.30, 0.18, 0.31, -0.51, -0.19),
    (1.08, 1.46, 0.68, 1.62, 0.72, -0.10, -0.15, -0.07),
    (0.65, 0.47, -0.03, 0.26, 0.32, -0.17, 0.29, 0.06),
    (0.50, 0.66, 0.84, 0.89, 0.62, 0.91, 0.60, 1.10),
    (0.36, 0.34, 0.49, 0.27, 0.28, 0.11, 0.19, -0.05),
    (0.28, 0.58, 1.01, 1.55, 1.76, 2.67, 3.15, 2.58),
    (0.30, 0.15, 0.11, -0.11, -0.03, 0.36, 0.40, -0.34),
)


def fit_recent(
    logits: Tensor, byte: Tensor, pieces: Sequence[Tensor], mapped: Callable[..., Iterator[Any]] = map
) -> tuple[float, Tensor]:
    r"""The factor a and the cells at which stretches of a text, read one after the other, cost least.

    .. math:: (a, r) = \arg\min \sum_t -\log \mathrm{softmax}(a\,l_t + \mathrm{recent}_r(x_{\le t}))[x_{t+1}]
              + \frac{20}{2} (a - 1)^2 + \frac{4}{2} \sum_c (r_c - \hat r_c)^2

    What stands in a text's past is known to other tables as well, so these are believed less where that is: a is less
    than 1 where a text's parts differ. The cost is convex.

    Args:
        logits: l (N, K) float32, of everything else, at all positions of the pieces but each one's last.
        byte: (K,) uint8, see `polychron.ops.contexts.bytes_of_symbols`.
        pieces: token ids (T,) int64, in which nothing was counted and on which nothing was trained.
        mapped: calls a function with what iterables give, as ``map`` does; see
            :func:`polychron.training.newton.side_by_side`.

    Returns:
        a, and the cells, `polychron.ops.recent.CELLS_SHAPE` float32.
    """
    state = start_recent_state(1)
    found = []
    for piece in pieces:
        symbols, cells, state = find_recent(byte, piece[None], state)
        found.append((symbols[0, :-1], cells[0, :-1]))
        state[:, :STATE_SIZE] = start_recent_state(1)[:, :STATE_SIZE]  # the next piece begins elsewhere in the text
    symbols, cells = (torch.cat(part).long() for part in zip(*found, strict=True))
    targets = torch.cat([piece[1:] for piece in pieces])
    parts = [*zip(*(part.split(_FIT_PIECE) for part in (logits, symbols, cells, targets)), strict=True)]
    usual = torch.tensor([*(number for row in USUAL_CELLS for number in row), 1.0], dtype=torch.float64)
    strength = torch.tensor([_CELLS_STRENGTH] * N_CELLS + [_FACTOR_STRENGTH], dtype=torch.float64)
    # The curvature where the search begins, from some of the text, is near enough to the end's for all steps.
    some = [part[:3] for part in parts[::_CURVATURE_OF]]
    curvature = sum(mapped(functools.partial(_curvature, usual), *zip(*some, strict=True)))
    curvature *= len(targets) / sum(len(part[0]) for part in some)

    def cost(at: Tensor) -> tuple[float, Tensor, Tensor]:
        costs, slopes = zip(*mapped(functools.partial(_cost, at), *zip(*parts, strict=True)), strict=True)
        return sum(costs), torch.stack(slopes).sum(0), curvature

    *of_cells, factor = least(usual, cost, usual, strength).tolist()
    return factor, torch.tensor(of_cells).reshape(CELLS_SHAPE)


def _cost(at: Tensor, logits: Tensor, symbols: Tensor, cells: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Nats of some positions, and their slope."""
    log_p = add_recent(logits * float(at[-1]), at[:-1].float(), symbols, cells).log_softmax(1)
    p = log_p.exp()
    off = (p.gather(1, symbols) - (symbols == targets[:, None]).float()).double()
    slope = torch.bincount(cells.flatten(), off.flatten(), N_CELLS + 1)
    slope[N_CELLS] = torch.linalg.vecdot(logits, p).sum(dtype=torch.float64)
    slope[N_CELLS] -= logits.gather(1, targets[:, None]).sum(dtype=torch.float64)
    return -log_p.gather(1, targets[:, None]).sum(dtype=torch.float64).item(), slope


def _curvature(at: Tensor, logits: Tensor, symbols: Tensor, cells: Tensor) -> Tensor:
    """Covariances under the prediction: of what each cell, and the factor, moves."""
    p = add_recent(logits * float(at[-1]), at[:-1].float(), symbols, cells).softmax(1)
    mean = (logits * p).sum(1)
    found = p.gather(1, symbols).double()
    same = symbols[:, :, None] == symbols[:, None, :]
    blocks = found[:, :, None] * same - found[:, :, None] * found[:, None, :]
    n = N_CELLS + 1  # the last stands for what was not found, then for the factor
    places = cells[:, :, None] * n + cells[:, None, :]
    curvature = torch.bincount(places.flatten(), blocks.flatten(), n * n).view(n, n)
    moved = found * (logits.gather(1, symbols) - mean[:, None])
    curvature[-1] = curvature[:, -1] = torch.bincount(cells.flatten(), moved.flatten(), n)
    curvature[-1, -1] = ((logits - mean[:, None]) ** 2 * p).sum(dtype=torch.float64)
    return curvature
