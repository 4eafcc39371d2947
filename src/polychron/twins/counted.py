"""A dense twin with the counted and recent tables that our delay model has: what of the lead is theirs.

The twin is trained as ever, on what is not set aside; then what a default run of a minute or more does at its end is
done to it: the factors are found on what was set aside, and this is counted as well.
"""

# M position in the held-out part, K vocabulary

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from polychron import models
from polychron.data.holdout import set_aside, spread
from polychron.errors import InputError
from polychron.nn import ContextTables
from polychron.ops.contexts import MAX_DEPTH, bytes_of_symbols
from polychron.training.blend import COUNTED_STRETCHES, MOST_COUNTED, Belief, find_belief
from polychron.twins.split import Split
from polychron.twins.training import Settings, Trained, mean_nats, train
from polychron.twins.twin import Recipe

_MOST_SYMBOLS = 256  # of counted contexts: entries are single bytes


@dataclass(frozen=True)
class CountedTwin:
    """What such a run came to.

    Attributes:
        trained: the twin by itself.
        contexts: counted, scaled as they are believed, with recent tables.
        belief: what was fitted to the bytes that were set aside.
        nats_per_byte: of the whole held-out part.
        seconds: of training, counting and fitting.
    """

    trained: Trained
    contexts: ContextTables
    belief: Belief
    nats_per_byte: float
    seconds: float


def train_counted(recipe: Recipe, settings: Settings, split: Split, seconds: float, seed: int) -> CountedTwin:
    """Count the text, up to ``MOST_COUNTED`` bytes, train for what is left of ``seconds``, fit, count all, score.

    Args:
        recipe: of a twin that has ``logits``: a transformer.

    Raises:
        InputError: a text too short to set bytes aside, one of all 256 bytes, or as
            :func:`polychron.twins.training.train`.
    """
    began = time.perf_counter()
    n_aside = models.calibration_bytes(0.0, split.training.size, contexts=True)
    segments, aside = set_aside([(0, split.training.size)], n_aside)
    if split.vocabulary.size > _MOST_SYMBOLS:
        raise InputError(
            f"{recipe.name} with counted tables: they know {_MOST_SYMBOLS} symbols, the text has all bytes"
        )
    if not aside:
        raise InputError(f"{recipe.name} with counted tables: the text is too short to set bytes aside")
    counted = spread(segments, MOST_COUNTED, COUNTED_STRETCHES)
    byte = bytes_of_symbols(bytes(split.vocabulary.byte_values))
    contexts = ContextTables.of_text(split.training, list(counted), byte, MAX_DEPTH)
    counting = time.perf_counter() - began

    rest = replace(split, training=np.concatenate([split.training[start:end] for start, end in segments]))
    trained = train(recipe, settings, rest, max(seconds - counting, 0.01 * seconds), seed, look=False)

    began = time.perf_counter()
    pieces = [split.training[start:end] for start, end in aside]
    belief = find_belief(trained.twin.logits, contexts, pieces)
    contexts = ContextTables.of_text(
        split.training, list(spread([(0, split.training.size)], MOST_COUNTED, COUNTED_STRETCHES)), byte, MAX_DEPTH
    )
    contexts.scale(belief.depths)
    contexts.set_recent(belief.cells)
    took = counting + trained.seconds + time.perf_counter() - began

    tokens = torch.from_numpy(split.held_out.astype(np.int64))
    with torch.no_grad():
        logits = contexts(tokens[None, :-1])[0] + belief.scale * trained.twin.logits(tokens)
        nats = F.cross_entropy(logits, tokens[1:], reduction="none")
    return CountedTwin(trained, contexts, belief, mean_nats(nats, split.held_out, split), took)
