"""From logits to the next byte: temperature, nucleus (top-p), and the loop that writes a text.

Axes: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError


class FeedsTokens(Protocol):
    """What generation needs of a model: `polychron.runtime.Stream` has it."""

    def feed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Read further token ids (N,) int64, N >= 1, and return the logits (V,) after the last."""
        ...


class Sampler:
    """Draws token ids: softmax(logits / temperature), cut to its nucleus.

    The nucleus is the smallest set of most probable tokens whose probabilities sum to at least ``top_p``; it
    has at least one member. Equal logits are ordered by id. Temperature 0 takes the largest logit, the lowest
    id of equals, and uses no randomness. The same seed and the same logits give the same ids.

    Args:
        temperature: 0 or above; below 1 is more careful than the model, above 1 bolder.
        top_p: above 0, at most 1; 1 keeps every token.
        seed: at least 0.
        excluded: ids that are never drawn, such as the vocabulary's unseen id.

    Raises:
        InputError: an argument out of range; at a call, logits of which none that may be drawn is finite.

    Example:
        >>> Sampler(temperature=0, excluded=[2])(torch.tensor([0.1, 0.5, 9.0]))
        1
    """

    def __init__(
        self, *, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0, excluded: Sequence[int] = ()
    ) -> None:
        if not (math.isfinite(temperature) and temperature >= 0):
            raise InputError(f"temperature must be 0 or above and finite; got {temperature}")
        if not 0 < top_p <= 1:
            raise InputError(f"top-p must be above 0 and at most 1; got {top_p}")
        if seed < 0:
            raise InputError(f"seed must be at least 0; got {seed}")
        self.temperature = temperature
        self.top_p = top_p
        self._excluded = list(excluded)
        self._random = np.random.Generator(np.random.Philox(seed))

    def __call__(self, logits: torch.Tensor) -> int:
        """The next token id, given logits (V,)."""
        # float64: a cumulative sum of float32 can end below 1 and a draw beyond it
        scores = logits.detach().numpy().astype(np.float64)
        scores[self._excluded] = -np.inf
        best = int(scores.argmax())  # NaN, if there is one
        if not np.isfinite(scores[best]):
            raise InputError(
                "the model's logits are not finite: its weights are damaged or its training diverged (lower --rate)"
            )
        if self.temperature == 0:
            return best
        # Subtracting first: a tiny temperature then underflows to 0 instead of overflowing.
        with np.errstate(over="ignore"):
            probabilities = np.exp((scores - scores[best]) / self.temperature)
        if self.top_p < 1:
            order = np.argsort(-probabilities, kind="stable")
            cumulative = np.cumsum(probabilities[order])
            n_kept = int(np.searchsorted(cumulative, self.top_p * cumulative[-1])) + 1
            probabilities[order[n_kept:]] = 0
        cumulative = np.cumsum(probabilities)
        drawn = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
        return min(drawn, int(np.flatnonzero(probabilities)[-1]))


def generate(
    stream: FeedsTokens, vocabulary: Vocabulary, prompt: bytes, n_bytes: int, sampler: Sampler
) -> Iterator[bytes]:
    """Continue a prompt, one byte at a time.

    An empty prompt is replaced by the vocabulary's start token; bytes of the prompt that the vocabulary does
    not have are read as unseen. The prompt itself is not part of what is yielded.

    Args:
        stream: a fresh stream of the model.
        vocabulary: of the model; ``sampler`` must exclude its ``unseen_id``, which has no byte.
        prompt: any bytes, any length.
        n_bytes: how many bytes to write.
        sampler: draws the ids.
    """
    ids = vocabulary.encode(prompt) if prompt else np.array([vocabulary.start_id])
    tokens = torch.from_numpy(ids.astype(np.int64))
    for _ in range(n_bytes):
        drawn = sampler(stream.feed(tokens))
        yield vocabulary.decode([drawn])
        tokens = torch.tensor([drawn])
