"""Models with counted contexts."""

from __future__ import annotations

import numpy as np

from polychron import models
from polychron.data.vocabulary import Vocabulary
from polychron.nn import ContextTables
from polychron.ops.contexts import letters

from ..runtime.conftest import BYTE_VALUES, MODELS, random_model, random_text

TEXT = random_text(800) + random_text(2000, seed=1)


def counted_model(name: str, depth: int = 4, text: bytes = TEXT) -> models.DelayLM:
    """One of `MODELS` with the contexts of a text, by default one that begins as ``random_text(800)`` does."""
    model = random_model(MODELS[name])
    tokens = np.asarray(Vocabulary(BYTE_VALUES[:27]).encode(text), dtype=np.uint8)
    model.set_contexts(ContextTables.of_text(tokens, [(0, len(tokens))], letters(BYTE_VALUES[:27]), depth))
    return model
