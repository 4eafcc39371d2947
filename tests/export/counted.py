"""Models with counted contexts."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch

from polychron import models
from polychron.data.vocabulary import Vocabulary
from polychron.nn import ContextTables
from polychron.ops.contexts import bytes_of_symbols
from polychron.ops.recent import CELLS_SHAPE

from ..runtime.conftest import BYTE_VALUES, MODELS, random_model, random_text

TEXT = random_text(800) + random_text(2000, seed=1)

# Of every kind that contexts tell apart: blanks, line breaks, letters of either size, other bytes of words, and others.
LINE_BYTES = bytes(sorted(b"\n\t\r AZaz09'_.,;\x7f\x80\xc3\xff"))


def counted_model(
    name: str, depth: int = 4, text: bytes = TEXT, byte_values: bytes = BYTE_VALUES[:27], *, recent: bool = False
) -> models.DelayLM:
    """One of `MODELS` with the contexts of a text, by default one that begins as ``random_text(800)`` does."""
    vocabulary = Vocabulary(byte_values)
    model = random_model(replace(MODELS[name], vocabulary_size=vocabulary.size))
    tokens = np.asarray(vocabulary.encode(text), dtype=np.uint8)
    byte = bytes_of_symbols(byte_values)
    contexts = ContextTables.of_text(tokens, [(0, len(tokens))], byte, depth)
    if recent:
        contexts.set_recent(torch.randn(CELLS_SHAPE, generator=torch.Generator().manual_seed(0)))
    model.set_contexts(contexts)
    return model


def text_of_lines(n_bytes: int, seed: int = 0) -> bytes:
    """Of words that come again, in short and long lines, wrapped, blank and indented ones; some bytes unseen."""
    draw = random.Random(seed)
    words = [bytes(draw.choices(LINE_BYTES[4:], k=draw.randint(1, 9))) for _ in range(12)] + [b"", b"?"]
    text, line = b"", b""
    while len(text) < n_bytes:
        line += draw.choice(words) + draw.choice((b" ", b" ", b" ", b"\t"))
        if draw.random() < draw.choice((0.01, 0.2)):
            line = line[: draw.choice((-1, None))] + draw.choice((b"\n", b"\r\n", b"\n\n", b"\n  "))
            text, line = text + line * draw.randint(1, 2), b""
    return text[:n_bytes]
