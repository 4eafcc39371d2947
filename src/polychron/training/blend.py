"""Counted contexts beside trained tables: how far each is to be believed, fitted to text that neither knows."""

# N position in the text, K symbol

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polychron.models import DelayLM
from polychron.nn import ContextTables
from polychron.ops.contexts import LISTS
from polychron.training.fit_recent import fit_recent
from polychron.training.newton import Cost, least, side_by_side

# Counting a byte takes a tenth of the time of training on one, and is worth more at first: so many times as many bytes
# of a text are counted as are trained on, within these bounds; of a longer one, stretches spread over it.
COUNTED_PER_TRAINED = 4
LEAST_COUNTED = 1 << 16
MOST_COUNTED = 1 << 24
COUNTED_STRETCHES = 64

_READ_PIECE = 1 << 12
_FIT_PIECE = 512  # positions: fewer cost more calls, more do not lie in a cache
_MOST_NUMBERS = 1 << 27  # of all logits that are looked at
_CURVATURE_PARTS = 16  # so many tell how the cost bends
# How far factors of single depths leave their kind's: as a Gaussian's 1 / sigma^2, in nats of all bytes together.
_TOGETHER = 20.0


@dataclass(frozen=True)
class Belief:
    """How far each part of a prediction is to be believed.

    Attributes:
        scale: c, a factor of the trained network's logits.
        depths: lambda of each kind and depth of counted contexts, two each: of rows that change one logit, of others.
        cells: of recent tables, `polychron.ops.recent.CELLS_SHAPE`; None: there are none.
    """

    scale: float
    depths: list[list[float]]
    cells: torch.Tensor | None


@torch.no_grad()
def blend(
    model: DelayLM, contexts: ContextTables, pieces: Sequence[np.ndarray], *, recent: bool = True
) -> tuple[float, list[list[float]]]:
    r"""Gives a trained model counted tables, and multiplies the rows of either by what suits ``pieces`` best.

    .. math:: U \leftarrow c\,U,\quad R^i_k \leftarrow \lambda^i_{kj} R^i_k,\quad (c, \lambda) = \arg\min \sum_t
              -\log \mathrm{softmax}(c\,U(z_t) + \sum_{i, k} \lambda^i_{kj} R^i_k(x_{\le t}))[\mathrm{target}_t]
              + \frac{20}{2} \sum_{i, k, j} (\lambda^i_{kj} - \lambda^i)^2

    That is a geometric mean of models, or rather factors that are folded into rows: a reading still adds rows and
    multiplies nothing. First c and one lambda for each kind are found, none of them negative; then those of all depths
    k, two each: j says whether a row changes one logit (of what followed once, mostly) or several. The cost is convex
    in the factors; Newton's method finds its least. Recent tables are fitted last, with one factor for all that was
    found before (:func:`polychron.training.fit_recent.fit_recent`).

    Args:
        model: trained without counted tables; changed in place.
        contexts: counted in the text that the model was trained on; changed in place.
        pieces: stretches of token ids (N,) that neither has seen, each with at least two.
        recent: whether the model gets recent tables as well.

    Returns:
        c, and lambda of each kind and depth, two each.

    Source: a logarithmic opinion pool; Heskes, Selecting weighting factors in logarithmic opinion pools (1997).

    Example:
        >>> from polychron.models import DelayConfig
        >>> text = np.tile(np.arange(4, dtype=np.uint8), 50)
        >>> model = DelayLM(DelayConfig(vocabulary_size=4, n_tables=2, n_comparisons=2, readout_n_comparisons=2))
        >>> contexts = ContextTables.of_text(text, [(0, 200)], torch.arange(97, 101, dtype=torch.uint8), depth=2)
        >>> c, believed = blend(model, contexts, [text])
        >>> [len(of_depths) for of_depths in believed], model.config.context_depth
        ([6, 6, 6], 2)
    """
    belief = belief_in(model, contexts, pieces, recent=recent)
    join(model, contexts, belief)
    return belief.scale, belief.depths


def join(model: DelayLM, contexts: ContextTables, belief: Belief) -> None:
    """Gives a trained model counted tables, the rows of either multiplied by what was found."""
    scale_readout(model, belief.scale)
    contexts.scale(belief.depths)
    contexts.set_recent(belief.cells)
    model.set_contexts(contexts)


@torch.no_grad()
def belief_in(model: DelayLM, contexts: ContextTables, pieces: Sequence[np.ndarray], *, recent: bool = True) -> Belief:
    """What :func:`blend` multiplies by; nothing changes but that the model no longer is in training mode."""
    model.eval()
    return find_belief(lambda tokens: _trained_logits(model, tokens), contexts, pieces, recent=recent)


@torch.no_grad()
def scale_readout(model: DelayLM, factor: float) -> None:
    """Multiply all rows of the readout, rounded once where they are of bfloat16."""
    tables = model.readout.synaptic_vectors
    tables.copy_(tables.float() * factor)


@torch.no_grad()
def find_belief(
    trained: Callable[[torch.Tensor], torch.Tensor],
    contexts: ContextTables,
    pieces: Sequence[np.ndarray],
    *,
    recent: bool = True,
) -> Belief:
    """The factors and cells of :func:`blend`, for any network; neither it nor the tables are changed.

    Args:
        trained: tokens (T,) of a piece to the network's logits (T - 1, K) of all but the first.
        contexts: as counted.
        pieces: as there.
        recent: whether recent tables are fitted.
    """
    read = _read_of(contexts, pieces)
    known = _logits(trained, contexts, read)
    targets = torch.cat([piece[1:] for piece in read])
    sizes = [1, *(depth + 1 for depth in contexts.depths)]
    n = len(sizes)
    with side_by_side() as mapped:
        of_kinds = [
            _Part(
                torch.stack([of_depths.sum(0) for of_depths in part.logits.split(sizes)]),
                torch.arange(n)[:, None].expand(n, len(part.targets)),
                part.targets,
            )
            for part in known
        ]
        begin = torch.full((n,), 1 / n, dtype=torch.float64)
        together = least(begin, _cost_of(of_kinds, n, mapped), begin, torch.zeros(n, dtype=torch.float64), lowest=0.0)
        n_factors = [1, *(2 * (depth + 1) for depth in contexts.depths)]
        begin = together.repeat_interleave(torch.tensor(n_factors))
        strength = torch.full_like(begin, _TOGETHER / len(targets))
        apart = least(begin, _cost_of(known, sum(n_factors), mapped), begin, strength)
        cells = None
        if recent:
            logits = torch.cat([part.sum(apart.float()) for part in known])
            factor, cells = fit_recent(logits, contexts.byte, read, mapped)
            apart = factor * apart
    (scale,), *depths = (part.tolist() for part in apart.split(n_factors))
    return Belief(scale, depths, cells)


@contextmanager
def blended(
    model: DelayLM, contexts: ContextTables, pieces: Sequence[np.ndarray], *, recent: bool = True
) -> Iterator[None]:
    """Within the block the model is what :func:`blend` would make of it; afterwards it is as before, to the bit."""
    tables, before = model.readout.synaptic_vectors, model.contexts
    trained = tables.detach().clone()
    blend(model, copy.deepcopy(contexts), pieces, recent=recent)
    try:
        yield
    finally:
        model.set_contexts(before)
        with torch.no_grad():
            tables.copy_(trained)


def fitting_bytes(n_symbols: int, n_bytes: int) -> int:
    """Memory that it takes, at its highest, to fit all factors to so many bytes of a text."""
    numbers = min(_MOST_NUMBERS, n_symbols * n_bytes * (1 + sum(length + 1 for length in LISTS.values())))
    return 4 * (numbers + numbers // 2)  # the logits of all, and those of a piece once more


def _read_of(contexts: ContextTables, pieces: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """What is looked at, (T,) int64 each: of long pieces the beginnings alone."""
    numbers = len(contexts.byte) * (1 + sum(depth + 1 for depth in contexts.depths))
    part_read = min(1.0, _MOST_NUMBERS / (numbers * sum(piece.size for piece in pieces)))
    return [torch.from_numpy(piece[: max(2, int(piece.size * part_read))].astype(np.int64)) for piece in pieces]


def _trained_logits(model: DelayLM, tokens: torch.Tensor) -> torch.Tensor:
    state, trained = model.start(), []
    for part in tokens[None, :-1].split(_READ_PIECE, dim=1):
        logits, state = model.extend(part.to(model.device), state)
        trained.append(logits[0].cpu())
    return torch.cat(trained)


@dataclass(frozen=True)
class _Part:
    """Some positions: logits (n, P, K) of all that predicts, and the number (n, P) of the factor that each is given."""

    logits: torch.Tensor
    factor: torch.Tensor
    targets: torch.Tensor

    def sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Of all logits times their factors, (P, K)."""
        return (factors[self.factor][..., None] * self.logits).sum(0)


def _logits(
    trained: Callable[[torch.Tensor], torch.Tensor], contexts: ContextTables, pieces: Sequence[torch.Tensor]
) -> list[_Part]:
    """Of all pieces: the trained network, then each depth of counted tables, which have two factors each."""
    known: list[_Part] = []
    for piece in pieces:
        counted = [of_kind[:, 0] for of_kind in contexts.each(piece[None, :-1])]
        of_piece = torch.cat([trained(piece)[None], *counted])
        factor = 2 * torch.arange(len(of_piece))[:, None] - (of_piece.count_nonzero(2) == 1).long()
        factor[0] = 0
        for of_all in zip(
            of_piece.split(_FIT_PIECE, dim=1),
            factor.split(_FIT_PIECE, dim=1),
            piece[1:].split(_FIT_PIECE),
            strict=True,
        ):
            known.append(_Part(*(part.contiguous() for part in of_all)))
    return known


def _cost_of(parts: Sequence[_Part], n: int, mapped: Callable[..., Iterator[Any]]) -> Cost:
    """Mean nats of factors (n,), their slope (n,) and curvature (n, n).

    These are means and covariances of all logits under the prediction; the curvature is that of some parts.
    """
    n_positions = sum(len(part.targets) for part in parts)
    every = max(1, len(parts) // _CURVATURE_PARTS)
    n_curved = sum(len(part.targets) for part in parts[::every])
    is_curved = [k % every == 0 for k in range(len(parts))]

    def cost(at: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        found = mapped(functools.partial(_cost_at, at.float()), parts, is_curved)
        nats, slopes, curvatures = zip(*found, strict=True)
        curvature = sum(some for some in curvatures if some is not None)
        return sum(nats) / n_positions, sum(slopes) / n_positions, curvature.view(n, n) / n_curved

    return cost


def _cost_at(factors: torch.Tensor, part: _Part, is_curved: bool) -> tuple[float, torch.Tensor, torch.Tensor | None]:
    """Nats of a part's positions, their slope (n,), and curvature (n * n,) where that is wanted."""
    n = len(factors)
    log_p = part.sum(factors).log_softmax(1)
    p = log_p.exp()
    mean = torch.linalg.vecdot(part.logits, p)
    target = part.targets[:, None]
    at_target = part.logits.gather(2, target.expand(len(mean), -1, -1))[..., 0]
    slope = torch.zeros(n, dtype=torch.float64)
    slope.index_add_(0, part.factor.flatten(), (mean - at_target).double().flatten())
    curvature = None
    if is_curved:
        curvature = torch.zeros(n * n, dtype=torch.float64)
        weighted = (part.logits * p.sqrt()).transpose(0, 1)
        covariance = weighted @ weighted.mT - mean.T[:, :, None] * mean.T[:, None, :]
        places = part.factor.T[:, :, None] * n + part.factor.T[:, None, :]
        curvature.index_add_(0, places.flatten(), covariance.double().flatten())
    return -log_p.gather(1, target).sum(dtype=torch.float64).item(), slope, curvature
