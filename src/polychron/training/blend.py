"""Counted contexts beside trained tables: how far each is to be believed, fitted to text that neither knows."""

# N position in the text, K symbol

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from polychron.models import DelayLM
from polychron.nn import ContextTables

# So many bytes of a text are counted as are trained on, within these bounds; of a longer one, stretches spread over it.
LEAST_COUNTED = 1 << 16
MOST_COUNTED = 1 << 24
COUNTED_STRETCHES = 64

_PIECE = 1 << 14
_STEPS = 20


@torch.no_grad()
def blend(model: DelayLM, contexts: ContextTables, pieces: Sequence[np.ndarray]) -> tuple[float, list[float]]:
    r"""Gives a trained model counted tables, and multiplies the rows of each kind by what suits ``pieces`` best.

    .. math:: U \leftarrow c\,U,\quad R^i \leftarrow \lambda_i R^i,\quad (c, \lambda) = \arg\min
              \sum_t -\log \mathrm{softmax}(c\,U(z_t) + \sum_i \lambda_i R^i(x_{\le t}))[\mathrm{target}_t]

    That is a geometric mean of models, or rather factors that are folded into rows: a reading still adds rows
    and multiplies nothing. The cost is convex in the factors; Newton's method finds its least.

    Args:
        model: trained without counted tables; changed in place.
        contexts: counted in the text that the model was trained on; changed in place.
        pieces: stretches of token ids (N,) that neither has seen, each with at least two.

    Returns:
        c, and lambda of each kind of contexts; none is negative.

    Source: a logarithmic opinion pool; Heskes, Selecting weighting factors in logarithmic opinion pools (1997).

    Example:
        >>> from polychron.models import DelayConfig
        >>> text = np.tile(np.arange(4, dtype=np.uint8), 50)
        >>> model = DelayLM(DelayConfig(vocabulary_size=4, n_tables=2, n_comparisons=2, readout_n_comparisons=2))
        >>> contexts = ContextTables.of_text(text, [(0, 200)], torch.arange(97, 101, dtype=torch.uint8), depth=2)
        >>> c, believed = blend(model, contexts, [text])
        >>> sum(believed) > 0.5 and model.config.context_depth == 2
        True
    """
    model.eval()
    known, targets = _logits(model, contexts, pieces)
    n = len(known)
    factors = torch.full((n,), 1 / n, dtype=torch.float64)
    cost, slope, curvature = _cost(factors, known, targets)
    for _ in range(_STEPS):
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(n, dtype=torch.float64), slope)
        while True:  # Newton's step may lead too far
            tried = (factors - step).clamp(min=0.0)
            found = _cost(tried, known, targets)
            if found[0] <= cost or step.abs().max() < 1e-4:
                break
            step = step / 2
        moved = (tried - factors).abs().max()
        if found[0] > cost:
            break
        factors, (cost, slope, curvature) = tried, found
        if moved < 1e-4:
            break
    c, *believed = factors.tolist()
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
    """Of all pieces together: logits (N, K) of the trained tables and of each kind of counted ones; targets (N,)."""
    known: list[list[torch.Tensor]] = []
    targets = []
    for piece in pieces:
        tokens = torch.from_numpy(piece.astype(np.int64))[None]
        state = model.start()
        trained = []
        for part in tokens[:, :-1].split(_PIECE, dim=1):
            logits, state = model.extend(part.to(model.device), state)
            trained.append(logits[0].cpu())
        known.append([torch.cat(trained), *(logits[0] for logits in contexts.each(tokens[:, :-1]))])
        targets.append(tokens[0, 1:])
    return [torch.cat(of_all) for of_all in zip(*known, strict=True)], torch.cat(targets)


def _cost(
    factors: torch.Tensor, known: Sequence[torch.Tensor], targets: torch.Tensor
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Mean nats, their slope (n,) and curvature (n, n): means and covariances of all logits under the prediction."""
    n = len(known)
    nats, slope, curvature = 0.0, torch.zeros(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    for *parts, target in zip(*(logits.split(_PIECE) for logits in known), targets.split(_PIECE), strict=True):
        of_all = torch.stack(parts)
        log_p = torch.einsum("i,ink->nk", factors.float(), of_all).log_softmax(1)
        p = log_p.exp()
        mean = (of_all * p).sum(2)
        at_target = of_all.gather(2, target.expand(n, -1)[..., None])[..., 0]
        nats -= log_p.gather(1, target[:, None]).sum(dtype=torch.float64).item()
        slope += (mean - at_target).sum(1, dtype=torch.float64)
        spread = ((of_all - mean[..., None]) * p.sqrt()).flatten(1)
        curvature += (spread @ spread.T).double()
    return nats / len(targets), slope / len(targets), curvature / len(targets)
