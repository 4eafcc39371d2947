"""Models with counted contexts."""

from __future__ import annotations

import numpy as np

from polychron import models
from polychron.data.vocabulary import Vocabulary
from polychron.nn import ContextTables

from ..runtime.conftest import BYTE_VALUES, MODELS, random_model, random_text

COUNTED = ("delay", "two delay layers", "readout alone")  # of `MODELS`


def counted_model(name: str, depth: int = 4, seed: int = 0) -> models.DelayLM:
    """One of `MODELS` with the contexts of a text that begins as ``random_text(800)`` does."""
    model = random_model(MODELS[name], seed)
    text = Vocabulary(BYTE_VALUES[:27]).encode(random_text(800) + random_text(2000, seed=seed + 1))
    model.set_contexts(ContextTables.of_text(np.asarray(text, dtype=np.uint8), [(0, len(text))], depth, 28))
    return model
