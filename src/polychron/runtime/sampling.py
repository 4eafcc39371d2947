"""From logits to the next byte: temperature, nucleus (top-p), and the loop that writes a text.

What the native runtime computes, in numpy, and for machines that it cannot be built on.

Axes: K token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.runtime.options import SamplingOptions
from polychron.runtime.text_stream import NOT_FINITE

_MASK = 0xFFFFFFFF
_COLDEST = 1e-30  # its reciprocal is a float32


def _rotated(word: int, n: int) -> int:
    word &= _MASK
    return (word << n | word >> (32 - n)) & _MASK


class FeedsTokens(Protocol):
    """What generation needs of a model: `polychron.runtime.Stream` has it."""

    def feed(self, token_ids: Any) -> Any:
        """Read further token ids, a tensor (N,) int64, N >= 1, and return the logits (K,) after the last."""
        ...


class Random:
    """xoshiro128++ of Blackman and Vigna: numbers of 32 bits from shifts, additions and exclusive ors.

    A seed fills two of the four words; the other two are digits of the golden ratio and of pi. The first sixteen
    numbers are thrown away, so that seeds that differ in one bit have parted.

    Example:
        >>> Random(1).below(1000)
        662
    """

    def __init__(self, seed: int) -> None:
        self._state = [seed & _MASK, seed >> 32 & _MASK, 0x9E3779B9, 0x243F6A88]
        for _ in range(16):
            self.next()

    def next(self) -> int:
        """The next number of [0, 2^32)."""
        a, b, c, d = self._state
        result = (_rotated(a + d, 7) + a) & _MASK
        c ^= a
        d ^= b
        self._state = [a ^ d, b ^ c, c ^ (b << 9 & _MASK), _rotated(d, 11)]
        return result

    def below(self, limit: int) -> int:
        """A number of [0, limit), each as likely: low bits of the next one, drawn again while they are too large."""
        mask = (1 << (limit - 1).bit_length()) - 1
        while (number := self.next() & mask) >= limit:
            pass
        return number


def weigh(logits: np.ndarray, temperature: float) -> np.ndarray:
    r"""Weights of 22 bits, :math:`w_k = \mathrm{round}(2^{22} e^{(x_k - \max x) / T})`: (K,) float32 to (K,) int64.

    All of it in float32 and in this order, so that a weight is the same number on every machine: the distance times
    1 / T, the exponential by the halves of its argument that are whole and not, ties of the rounding to even. What is
    more than 87 T below the highest, and -inf, has weight 0.

    Example:
        >>> weigh(np.array([0.0, -1.0], dtype=np.float32), temperature=1.0).tolist()
        [4194304, 1542998]
    """
    f = np.float32
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        x = (logits - logits.max()) * f(1.0 / max(temperature, _COLDEST))
        bounded = np.where(x > f(-87), x, f(-87))
        shifted = bounded * f(1.44269504) + f(12582912)
        n = shifted - f(12582912)
        r = bounded - n * f(0.693359375) - n * f(-2.12194440e-4)
        e = np.full_like(r, f(1 / 720))
        for coefficient in (1 / 120, 1 / 24, 1 / 6, 0.5, 1, 1):
            e = e * r + f(coefficient)
        power = ((shifted.view(np.uint32) + np.uint32(127)) << np.uint32(23)).view(f)
        e = np.where(x > f(-87), e * power, f(0))
        return ((e * f(4194304) + f(12582912)).view(np.uint32) - np.uint32(0x4B400000)).astype(np.int64)


class Sampler:
    """Draws token ids: softmax(logits / temperature), cut to its nucleus. The definition of the native one.

    Logits become whole weights (`weigh`), a number below their sum picks the first id whose weights up to and with its
    own exceed it, and an id outside the nucleus is drawn again. The nucleus is the smallest set of most probable
    tokens whose probabilities sum to at least ``top_p``; it has at least one member. Equal weights are ordered by id.
    Whole numbers decide: an id is in it if its own weight and those behind it in this order sum to more than
    ``floor(total * left_out / 65536)``, where ``left_out`` is 1 - top_p in 65,536ths.
    Temperature 0 takes the largest logit, the lowest id of equals, and uses no randomness. The same seed and the same
    logits give the same ids, here and in the native runtime.

    Args:
        temperature: 0 or above; below 1 is more careful than the model, above 1 bolder.
        top_p: above 0, at most 1; 1 keeps every token.
        seed: in [0, 2^64).
        excluded: ids that are never drawn, such as the vocabulary's unseen id.

    Raises:
        InputError: an argument out of range; at a call, logits of which none that may be drawn is finite.

    Example:
        >>> Sampler(temperature=0, excluded=[2])(np.array([0.1, 0.5, 9.0], dtype=np.float32))
        1
    """

    def __init__(
        self, *, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0, excluded: Sequence[int] = ()
    ) -> None:
        self.options = SamplingOptions(temperature=temperature, top_p=top_p, seed=seed)
        self._excluded = list(excluded)
        self._random = Random(seed)

    def __call__(self, logits: Any) -> int:
        """The next token id, given logits (K,) float32: a numpy array or a tensor."""
        scores = np.asarray(logits).astype(np.float32)
        scores[self._excluded] = -np.inf
        best = int(scores.argmax())  # NaN, if there is one
        if not np.isfinite(scores[best]):
            raise InputError(NOT_FINITE)
        if self.options.temperature == 0:
            return best
        weights = weigh(scores, self.options.temperature)
        cumulative = np.cumsum(weights)
        total = int(cumulative[-1])
        left_out = total * self.options.left_out >> 16
        while True:
            drawn = int(np.searchsorted(cumulative, self._random.below(total), side="right"))
            own = weights[drawn]
            before = int(weights[weights > own].sum() + weights[:drawn][weights[:drawn] == own].sum())
            if total - before > left_out:
                return drawn


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
    import torch

    ids = vocabulary.encode(prompt) if prompt else np.array([vocabulary.start_id])
    tokens = torch.from_numpy(ids.astype(np.int64))
    for _ in range(n_bytes):
        drawn = sampler(stream.feed(tokens))
        yield vocabulary.decode([drawn])
        tokens = torch.tensor([drawn])
