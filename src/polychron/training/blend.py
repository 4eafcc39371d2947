"""Counted contexts beside trained tables: how far each is to be believed, fitted to text that neither knows."""

# N position in the text, K symbol

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from polychron.models import DelayLM
from polychron.nn import ContextTables
from polychron.training.fit_recent import fit_recent
from polychron.training.newton import Cost, least, one_thread

# Counting a byte takes a tenth of the time of training on one, and is worth more at first: so many times as many bytes
# of a text are counted as are trained on, within these bounds; of a longer one, stretches spread over it.
COUNTED_PER_TRAINED = 4
LEAST_COUNTED = 1 << 16
MOST_COUNTED = 1 << 24
COUNTED_STRETCHES = 64

_READ_PIECE = 1 << 12
_FIT_PIECE = 128  # of so many bytes all logits and what is made of them lie in a cache
_MOST_NUMBERS = 1 << 25  # of all logits that are looked at
# How far factors of single depths leave their kind's: as a Gaussian's 1 / sigma^2, in nats of all bytes together.
_TOGETHER = 20.0


@dataclass(frozen=True)
class Belief:
    """How far each part of a prediction is to be believed.

    Attributes:
        scale: c, a factor of the trained network's logits.
        depths: lambda of each kind and depth of counted contexts.
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

    .. math:: U \leftarrow c\,U,\quad R^i_k \leftarrow \lambda^i_k R^i_k,\quad (c, \lambda) = \arg\min \sum_t
              -\log \mathrm{softmax}(c\,U(z_t) + \sum_{i, k} \lambda^i_k R^i_k(x_{\le t}))[\mathrm{target}_t]
              + \frac{20}{2} \sum_{i, k} (\lambda^i_k - \lambda^i)^2

    That is a geometric mean of models, or rather factors that are folded into rows: a reading still adds rows and
    multiplies nothing. First c and one lambda for each kind are found, none of them negative; then those of all depths
    k. The cost is convex in the factors; Newton's method finds its least. Recent tables are fitted last, with one
    factor for all that was found before (:func:`polychron.training.fit_recent.fit_recent`).

    Args:
        model: trained without counted tables; changed in place.
        contexts: counted in the text that the model was trained on; changed in place.
        pieces: stretches of token ids (N,) that neither has seen, each with at least two.
        recent: whether the model gets recent tables as well.

    Returns:
        c, and lambda of each kind and depth.

    Source: a logarithmic opinion pool; Heskes, Selecting weighting factors in logarithmic opinion pools (1997).

    Example:
        >>> from polychron.models import DelayConfig
        >>> text = np.tile(np.arange(4, dtype=np.uint8), 50)
        >>> model = DelayLM(DelayConfig(vocabulary_size=4, n_tables=2, n_comparisons=2, readout_n_comparisons=2))
        >>> contexts = ContextTables.of_text(text, [(0, 200)], torch.arange(97, 101, dtype=torch.uint8), depth=2)
        >>> c, believed = blend(model, contexts, [text])
        >>> [len(of_depths) for of_depths in believed], model.config.context_depth
        ([3, 3, 3], 2)
    """
    model.eval()
    belief = find_belief(lambda tokens: _trained_logits(model, tokens), contexts, pieces, recent=recent)
    tables = model.readout.synaptic_vectors
    tables.copy_(tables.float() * belief.scale)
    contexts.scale(belief.depths)
    contexts.set_recent(belief.cells)
    model.set_contexts(contexts)
    return belief.scale, belief.depths


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
    with one_thread():
        of_kinds = [torch.stack([of_depths.sum(0) for of_depths in part.split(sizes)]) for part in known]
        begin = torch.full((n,), 1 / n, dtype=torch.float64)
        together = least(begin, _cost_of(of_kinds, targets), begin, torch.zeros(n, dtype=torch.float64), lowest=0.0)
        begin = together.repeat_interleave(torch.tensor(sizes))
        apart = least(begin, _cost_of(known, targets), begin, torch.full_like(begin, _TOGETHER / len(targets)))
        cells = None
        if recent:
            factors = apart.float()
            logits = torch.cat([(factors @ part.flatten(1)).view_as(part[0]) for part in known])
            factor, cells = fit_recent(logits, contexts.byte, read)
            apart = factor * apart
    (scale,), *depths = (part.tolist() for part in apart.split(sizes))
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


def _logits(
    trained: Callable[[torch.Tensor], torch.Tensor], contexts: ContextTables, pieces: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Of all pieces together, logits (n, N, K) of the trained network and of each depth of counted tables.

    In parts of some positions.
    """
    known: list[torch.Tensor] = []
    for piece in pieces:
        counted = [logits[0] for of_kind in contexts.each(piece[None, :-1]) for logits in of_kind]
        known.append(torch.stack([trained(piece), *counted]))
    return [part.contiguous() for part in torch.cat(known, dim=1).split(_FIT_PIECE, dim=1)]


def _cost_of(known: Sequence[torch.Tensor], targets: torch.Tensor) -> Cost:
    """Mean nats of factors (n,), their slope (n,) and curvature (n, n).

    These are means and covariances of all logits under the prediction.
    """
    n = len(known[0])

    def cost(at: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        factors = at.float()
        nats, slope, curvature = 0.0, torch.zeros(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
        for of_all, target in zip(known, targets.split(_FIT_PIECE), strict=True):
            log_p = (factors @ of_all.flatten(1)).view_as(of_all[0]).log_softmax(1)
            p = log_p.exp()
            mean = (of_all * p).sum(2)
            at_target = of_all.gather(2, target.expand(n, -1)[..., None])[..., 0]
            nats -= log_p.gather(1, target[:, None]).sum(dtype=torch.float64).item()
            slope += (mean - at_target).sum(1, dtype=torch.float64)
            weighted = (of_all * p.sqrt()).flatten(1)
            curvature += (weighted @ weighted.T - mean @ mean.T).double()
        return nats / len(targets), slope / len(targets), curvature / len(targets)

    return cost
