"""How well a model predicts a text: nats and bits per byte.

Axes: N position in the text.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError

# Tokens scored at once: few enough that a caller can show progress with a slow model, and a multiple of every
# half window in use, so that a transformer's windows fall as they would in one piece.
_PIECE = 2**15


@dataclass(frozen=True)
class Score:
    """What a text costs under a model.

    Attributes:
        nats: sum over the scored bytes of -log p(byte).
        n_bytes: bytes that were scored: all but the first.
        seconds: wall-clock time it took.

    Example:
        >>> Score(nats=200.0, n_bytes=100, seconds=0.5).nats_per_byte
        2.0
    """

    nats: float
    n_bytes: int
    seconds: float

    @property
    def nats_per_byte(self) -> float:
        """Mean cost of a byte, natural logarithm."""
        return self.nats / self.n_bytes

    @property
    def bits_per_byte(self) -> float:
        """Mean cost of a byte, logarithm to base 2: nats / ln 2."""
        return self.nats_per_byte / math.log(2)

    @property
    def bytes_per_second(self) -> float:
        """Scored bytes per second."""
        return self.n_bytes / max(self.seconds, 1e-9)


def score(model: torch.nn.Module, tokens: np.ndarray, vocabulary: Vocabulary) -> Score:
    """Score every byte of a text after the first exactly once, with all the context the model can use.

    The text is scored piece by piece, each preceded by ``model.context_length`` tokens that are not scored
    again, so memory stays bounded; what a model recalls from further back is handed on. A byte that the vocabulary does
    not have costs -log p(unseen) + log(number of such byte values): with that the figure is the length of a code for
    bytes, comparable between vocabularies.

    Args:
        model: a `polychron.models.LanguageModel`.
        tokens: (N,) token ids as `Vocabulary.encode` gives them, N >= 2.
        vocabulary: of the model.

    Raises:
        InputError: fewer than two tokens.
    """
    *_, whole = score_progressively(model, tokens, vocabulary)
    return whole


def score_progressively(model: torch.nn.Module, tokens: np.ndarray, vocabulary: Vocabulary) -> Iterator[Score]:
    """As `score`, but after every piece of the text there is the score of all pieces so far."""
    if tokens.size < 2:
        raise InputError(f"a text to score needs at least 2 bytes, for the first has no context; got {tokens.size}")
    model.eval()
    nats = seconds = 0.0
    memory = None
    for start in range(0, tokens.size, _PIECE):
        began = time.perf_counter()
        end = min(start + _PIECE, tokens.size)
        context = max(0, start - model.context_length)
        ids = torch.from_numpy(tokens[context:end].astype(np.int64))
        known = max(0, start - 1 - context)  # predictions of the piece before
        with torch.no_grad():
            recalled, memory = model.recall(ids[known:-1], memory)
            if recalled is not None:
                again = recalled[:1].expand(known, *recalled.shape[1:])  # of what is not scored again, anything
                recalled = torch.cat([again, recalled])
            piece = model.score(ids, recalled)[known:].numpy()
        n_unseen = np.count_nonzero(tokens[max(1, start) : end] == vocabulary.unseen_id)
        nats += float(piece.sum(dtype=np.float64)) + n_unseen * vocabulary.unseen_nats
        seconds += time.perf_counter() - began
        yield Score(nats, end - 1, seconds)


def spread_sample(tokens: np.ndarray, n_tokens: int, n_pieces: int = 8) -> np.ndarray:
    """A fixed part of a text to look at while training: ``n_pieces`` stretches, evenly spread, joined.

    The whole text if it has no more than ``n_tokens``.

    Example:
        >>> spread_sample(np.arange(100), n_tokens=8, n_pieces=4).tolist()
        [0, 1, 25, 26, 50, 51, 75, 76]
    """
    if tokens.size <= n_tokens:
        return tokens
    each = max(1, n_tokens // n_pieces)
    return np.concatenate(
        [tokens[start : start + each] for start in range(0, tokens.size, tokens.size // n_pieces)][:n_pieces]
    )
