"""Dynamic evaluation: a model that goes on learning from the text while it is scored, as compressors do."""

# N position in the text

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch

from polychron import optim
from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.models import DelayLM, LanguageModel
from polychron.training.evaluate import Score

# Bytes that are predicted before they are learnt from: fewer adapt sooner, more are faster.
PIECE = 256

_REPORTS_EVERY = 64  # pieces


def score_while_learning(
    model: LanguageModel,
    tokens: np.ndarray,
    vocabulary: Vocabulary,
    *,
    rate: float,
    visit_cap: int | None = None,
    members: int = 1,
) -> Iterator[Score]:
    """Score every byte after the first exactly once, each piece before a step of SGD on it; the tables change.

    For each piece of :data:`PIECE` bytes: nats <- model.nats(piece), then model.train_step(piece). A byte is never
    learnt from before it was predicted. Compare the result with other programs that learn while they read (PPMd), not
    with models that stand still.

    Args:
        model: a delay model; changed in place.
        tokens: (N,) token ids, N >= 2.
        vocabulary: of the model.
        rate: of the steps, constant, for a loss summed over positions.
        visit_cap: see :class:`polychron.ops.RowUpdate`.
        members: of the ensemble that the readout was trained as. All its tables learn at each step, so each moves by
            that much less.

    Yields:
        The score of all so far, now and then, and of the whole at last.

    Raises:
        InputError: another kind of model, fewer than two tokens, or a rate that is not positive and finite.

    Source: Krause et al., Dynamic Evaluation of Neural Sequence Models, arXiv:1709.07432; for these tables a step
    costs what three readings do.

    Example:
        >>> from polychron.models import DelayConfig
        >>> model = DelayLM(DelayConfig(vocabulary_size=3, n_tables=4, n_comparisons=3, readout_n_comparisons=3))
        >>> text = np.tile(np.array([0, 1, 2], dtype=np.uint8), 2000)
        >>> *_, learning = score_while_learning(model, text, Vocabulary(b"abc"), rate=0.02)
        >>> learning.nats_per_byte < 0.3 < 1.09   # of three equally likely bytes: ln 3
        True
    """
    if not isinstance(model, DelayLM):
        raise InputError(f"learning while scoring is the delay model's; this one is {model.config.kind}")
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"the rate must be positive and finite; got {rate:g}")
    if tokens.size < 2:
        raise InputError(f"a text to score needs at least 2 bytes, for the first has no context; got {tokens.size}")
    optim.attach(model, "sgd", rate, visit_cap=visit_cap, readout_rate=1 / members)
    model.train()
    ids = torch.from_numpy(tokens.astype(np.int64))
    context = model.context_length - 1
    n = tokens.size - 1
    nats = seconds = 0.0
    recalled, memory = None, None  # of the context and the piece
    for k, start in enumerate(range(0, n, PIECE)):
        began = time.perf_counter()
        end, first = min(start + PIECE, n), max(0, start - context)
        read, follow = ids[None, first:end].contiguous(), ids[None, first + 1 : end + 1].contiguous()
        found, memory = model.recall(ids[start:end], memory)
        if found is not None:
            before = found[:0] if recalled is None else recalled[len(recalled) - (start - first) :]
            recalled = torch.cat([before, found])
        of_window = None if recalled is None else recalled[None]
        nats += model.nats(read, follow, of_window)[0, start - first :].sum(dtype=torch.float64).item()
        n_unseen = np.count_nonzero(tokens[start + 1 : end + 1] == vocabulary.unseen_id)
        nats += n_unseen * vocabulary.unseen_nats
        model.train_step(read, follow, recalled=of_window)
        seconds += time.perf_counter() - began
        if end == n or k % _REPORTS_EVERY == 0:
            yield Score(nats, end, seconds)
