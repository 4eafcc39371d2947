"""The windows a training step reads: a pure function of the seed and the step's number.

Axes: B window of a batch, T position in a window.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from polychron.errors import InputError


class Windows:
    """Batches of windows of a text, every pass in another random order and cut at other places.

    In one pass each segment is cut into windows of ``length`` targets that do not overlap, beginning at a
    random place; the windows of all segments come in a random order. So every byte is met once in a pass (but
    up to ``2 * length`` bytes at the ends of a segment), and in the next pass the cuts fall elsewhere.
    Nothing has to be remembered for a run to be resumed: batch k depends on (seed, k) and the arguments below
    alone.

    Args:
        tokens: (N,) uint8 token ids of the whole text.
        segments: (start, end) of the parts to train on; no window crosses from one into another.
        length: T, targets in a window; it takes T + 1 tokens.
        batch: B, windows in a batch.
        seed: of the random order, at least 0.

    Raises:
        InputError: length or batch below 1, or no segment holds T + 1 tokens.

    Example:
        >>> windows = Windows(np.arange(100, dtype=np.uint8), [(0, 100)], length=8, batch=4, seed=0)
        >>> tokens, targets = windows.batch(0)
        >>> tokens.shape, targets.dtype, bool((targets == tokens + 1).all())
        (torch.Size([4, 8]), torch.int64, True)
    """

    def __init__(
        self, tokens: np.ndarray, segments: Sequence[tuple[int, int]], *, length: int, batch: int, seed: int
    ) -> None:
        for name, value, least in (("length", length, 1), ("batch", batch, 1), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"{name} must be at least {least}; got {value}")
        longest = max((end - start for start, end in segments), default=0)
        if longest < length + 1:
            raise InputError(
                f"a window of length {length} takes {length + 1} bytes in a row and the longest stretch of "
                f"training text has {longest}: take a longer text or a shorter length"
            )
        self.length = length
        self.batch_size = batch
        self.seed = seed
        usable = np.array([(start, end) for start, end in segments if end - start > length], dtype=np.int64)
        self._starts, sizes = usable[:, 0], usable[:, 1] - usable[:, 0]
        # A segment of m tokens has room for floor((m - 1) / T) windows. One fewer is cut, so that wherever in
        # [0, room] the first begins there is place for all: the number of windows in a pass must not vary.
        self._counts = np.maximum(1, (sizes - 1) // length - 1)
        self._room = sizes - 1 - self._counts * length
        self.n_windows = int(self._counts.sum())
        self._rows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)
        # A batch may reach from one pass into the next.
        self._pass_order = functools.lru_cache(maxsize=2)(self._order_of_pass)

    @property
    def bytes_per_batch(self) -> int:
        """Targets in a batch: B * T."""
        return self.batch_size * self.length

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        """Batch number ``step``: tokens (B, T) and their successors (B, T), both int64 and contiguous."""
        rows = self._rows[self.starts(step)]
        return torch.from_numpy(rows[:, :-1].astype(np.int64)), torch.from_numpy(rows[:, 1:].astype(np.int64))

    def starts(self, step: int) -> np.ndarray:
        """Where in the text the windows of batch number ``step`` begin: (B,) int64."""
        number, position = divmod(step * self.batch_size, self.n_windows)
        starts = self._pass_order(number)[position : position + self.batch_size]
        while starts.size < self.batch_size:  # the next pass has begun
            number += 1
            starts = np.concatenate([starts, self._pass_order(number)[: self.batch_size - starts.size]])
        return starts

    def _order_of_pass(self, number: int) -> np.ndarray:
        """Where the windows of a pass begin, in the order they are met: (n_windows,) int64."""
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, number))))
        first = self._starts + random.integers(0, self._room, endpoint=True)
        ordinal = np.arange(self.n_windows) - np.repeat(np.cumsum(self._counts) - self._counts, self._counts)
        starts = np.repeat(first, self._counts) + ordinal * self.length
        random.shuffle(starts)
        return starts
