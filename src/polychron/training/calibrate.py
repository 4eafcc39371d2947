"""How sure a trained model should be: one factor of its logits, fitted to text that it was not trained on.

What a network of tables has read many times it remembers; its logits then are too large for any other text.
"""

# N position in the text

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from polychron.models import LanguageModel

_SCALES = (0.4, 1.2)
_STEPS = (0.1, 0.05, 0.025)


@torch.no_grad()
def calibrate(model: LanguageModel, pieces: Sequence[np.ndarray]) -> float:
    r"""Multiplies the readout's tables by the factor at which ``pieces`` cost least, and returns it.

    .. math:: U \leftarrow c\,U,\quad
              c = \arg\min_c \sum_t -\log \mathrm{softmax}(c\,U(z_t))[\mathrm{target}_t]

    That is temperature scaling (Guo et al., arXiv:1706.04599) folded into the rows: nothing is added to what a model
    computes. The cost is convex in c: steps of 0.1, 0.05 and 0.025 find its least to 0.0125.

    Args:
        model: changed in place.
        pieces: stretches of token ids (N,) that it was not trained on, each with at least two.

    Example:
        >>> from polychron.models import DelayConfig, DelayLM
        >>> model = DelayLM(DelayConfig(vocabulary_size=4, n_tables=2, n_comparisons=2, readout_n_comparisons=2))
        >>> _ = model.readout.synaptic_vectors.data.normal_(std=5)   # sure of what it knows nothing about
        >>> calibrate(model, [np.tile(np.arange(4, dtype=np.uint8), 50)])
        0.4
    """
    model.eval()
    tables = model.readout.synaptic_vectors
    learnt = tables.detach().clone()
    tokens = [torch.from_numpy(piece.astype(np.int64)) for piece in pieces]
    known: dict[float, float] = {}

    def cost(scale: float) -> float:
        if scale not in known:
            tables.copy_(learnt.float() * scale)
            known[scale] = sum(model.score(piece).sum(dtype=torch.float64).item() for piece in tokens)
        return known[scale]

    best = 1.0
    for step in _STEPS:
        while True:
            near = [round(best + way * step, 3) for way in (-1, 0, 1)]
            found = min((scale for scale in near if _SCALES[0] <= scale <= _SCALES[1]), key=cost)
            if found == best:
                break
            best = found
    tables.copy_(learnt.float() * best)
    return best
