"""Counted contexts beside trained tables: how far each is to be believed, fitted to text that neither knows."""

# N position in the text, K symbol

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from polychron.models import DelayLM
from polychron.nn import ContextTables

# Counting a byte takes a tenth of the time of training on one, and is worth more at first: so many times as many bytes
# of a text are counted as are trained on, within these bounds; of a longer one, stretches spread over it.
COUNTED_PER_TRAINED = 4
LEAST_COUNTED = 1 << 16
MOST_COUNTED = 1 << 24
COUNTED_STRETCHES = 64

_READ_PIECE = 1 << 12
_FIT_PIECE = 128  # of so many bytes all logits and what is made of them lie in a cache
_STEPS = 20
_MOST_NUMBERS = 1 << 25  # of all logits that are looked at
# How far factors of single depths leave their kind's: as a Gaussian's 1 / sigma^2, in nats of all bytes together.
_TOGETHER = 20.0


@torch.no_grad()
def blend(model: DelayLM, contexts: ContextTables, pieces: Sequence[np.ndarray]) -> tuple[float, list[list[float]]]:
    r"""Gives a trained model counted tables, and multiplies the rows of either by what suits ``pieces`` best.

    .. math:: U \leftarrow c\,U,\quad R^i_k \leftarrow \lambda^i_k R^i_k,\quad (c, \lambda) = \arg\min \sum_t
              -\log \mathrm{softmax}(c\,U(z_t) + \sum_{i, k} \lambda^i_k R^i_k(x_{\le t}))[\mathrm{target}_t]
              + \frac{20}{2} \sum_{i, k} (\lambda^i_k - \lambda^i)^2

    That is a geometric mean of models, or rather factors that are folded into rows: a reading still adds rows and
    multiplies nothing. First c and one lambda for each kind are found, none of them negative; then those of all depths
    k. The cost is convex in the factors; Newton's method finds its least.

    Args:
        model: trained without counted tables; changed in place.
        contexts: counted in the text that the model was trained on; changed in place.
        pieces: stretches of token ids (N,) that neither has seen, each with at least two.

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
    known, targets = _logits(model, contexts, pieces)
    sizes = [1, *(depth + 1 for depth in contexts.depths)]
    n = len(sizes)
    with _one_thread():
        of_kinds = [torch.stack([of_depths.sum(0) for of_depths in part.split(sizes)]) for part in known]
        together = _least(torch.full((n,), 1 / n, dtype=torch.float64), of_kinds, targets, towards=0.0)
        apart = _least(together.repeat_interleave(torch.tensor(sizes)), known, targets, towards=_TOGETHER)
    (c,), *believed = (part.tolist() for part in apart.split(sizes))
    tables = model.readout.synaptic_vectors
    tables.copy_(tables.float() * c)
    contexts.scale(believed)
    model.set_contexts(contexts)
    return c, believed


@contextmanager
def blended(model: DelayLM, contexts: ContextTables, pieces: Sequence[np.ndarray]) -> Iterator[None]:
    """Within the block the model is what :func:`blend` would make of it; afterwards it is as before, to the bit."""
    tables, before = model.readout.synaptic_vectors, model.contexts
    trained = tables.detach().clone()
    blend(model, copy.deepcopy(contexts), pieces)
    try:
        yield
    finally:
        model.set_contexts(before)
        with torch.no_grad():
            tables.copy_(trained)


def _logits(
    model: DelayLM, contexts: ContextTables, pieces: Sequence[np.ndarray]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Of all pieces together: logits (n, N, K) of the trained tables and of each depth of counted ones; targets (N,).

    The logits are in parts of some positions. Of long pieces the beginnings alone.
    """
    numbers = model.config.vocabulary_size * (1 + sum(depth + 1 for depth in contexts.depths))
    part_read = min(1.0, _MOST_NUMBERS / (numbers * sum(piece.size for piece in pieces)))
    known: list[torch.Tensor] = []
    targets = []
    for piece in pieces:
        tokens = torch.from_numpy(piece[: max(2, int(piece.size * part_read))].astype(np.int64))[None]
        state = model.start()
        trained = []
        for part in tokens[:, :-1].split(_READ_PIECE, dim=1):
            logits, state = model.extend(part.to(model.device), state)
            trained.append(logits[0].cpu())
        counted = [logits[0] for of_kind in contexts.each(tokens[:, :-1]) for logits in of_kind]
        known.append(torch.stack([torch.cat(trained), *counted]))
        targets.append(tokens[0, 1:])
    return [part.contiguous() for part in torch.cat(known, dim=1).split(_FIT_PIECE, dim=1)], torch.cat(targets)


def _least(start: torch.Tensor, known: Sequence[torch.Tensor], targets: torch.Tensor, towards: float) -> torch.Tensor:
    """The factors (n,) that cost least, with a prior of so much ``towards`` the start; without one none is negative."""
    lowest = 0.0 if towards == 0.0 else -math.inf
    prior = towards / len(targets)
    ridge = (prior + 1e-9) * torch.eye(len(start), dtype=torch.float64)

    def cost(factors: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        nats, slope, curvature = _cost(factors.float(), known, targets)
        away = factors - start
        return nats + prior / 2 * float(away @ away), slope + prior * away, curvature + ridge

    factors = start
    least, slope, curvature = cost(factors)
    for _ in range(_STEPS):
        step = torch.linalg.solve(curvature, slope)
        while True:  # Newton's step may lead too far
            tried = (factors - step).clamp(min=lowest)
            found = cost(tried)
            if found[0] <= least or step.abs().max() < 1e-4:
                break
            step = step / 2
        moved = (tried - factors).abs().max()
        if found[0] > least:
            break
        factors, (least, slope, curvature) = tried, found
        if moved < 1e-3:
            break
    return factors


@contextmanager
def _one_thread() -> Iterator[None]:
    """What is summed here has the same bits for any number of threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _cost(
    factors: torch.Tensor, known: Sequence[torch.Tensor], targets: torch.Tensor
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Mean nats, their slope (n,) and curvature (n, n): means and covariances of all logits under the prediction."""
    n = len(known[0])
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
