"""The last part of a run: trained tables learn what counted and recent ones leave over.

Whoever is trained by itself learns what counting knows better. Beside counts of the very text that is trained on there
would be little left to learn: these know it by heart. So a text is cut into parts, and what stands beside the trained
tables in one part was counted in all others.
"""

# N position in the text, K symbol, B window, T position in a window

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from polychron.data import Windows
from polychron.data.holdout import spread
from polychron.nn import ContextTables
from polychron.training.blend import COUNTED_STRETCHES, Belief

Segments = Sequence[tuple[int, int]]

# So many parts, where all but one of them can be counted as often in a tenth of a run: more are nearer to what is
# counted in the end.
PARTS = (8, 4, 2)
_MOST_COUNTING = 0.1
_COUNTED_PER_SECOND = 2.5e6  # on two ordinary cores
# Part of a run that is trained so, what it takes to count included; at this part of the learning rate.
SHARE = 0.3
RATE = 0.25

_MOST_NUMBERS = 1 << 28  # of two bytes each, that stand beside
_READ_PIECE = 1 << 14


def parts_for(seconds: float, n_counted: int) -> int:
    """Parts of a text for a run of so long that counts ``n_counted`` bytes; 0: it is too short for this.

    Example:
        >>> [parts_for(seconds, 3_600_000) for seconds in (3, 20, 60, 180)]
        [0, 2, 4, 8]
    """
    at_most = _MOST_COUNTING * seconds * _COUNTED_PER_SECOND
    return next((parts for parts in PARTS if 0 < (parts - 1) * n_counted <= at_most), 0)


class BesideWindows(Windows):
    """Batches of windows, and what others add to the logits there.

    Args:
        tokens: (N,) uint8, as of :class:`polychron.data.Windows`, which has all other arguments.
        segments: likewise.
        base: (N, K) float16, added after each of the tokens.
    """

    def __init__(self, tokens: np.ndarray, segments: Segments, base: torch.Tensor, **shape: int) -> None:
        super().__init__(tokens, segments, **shape)
        self._base = base

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        """Tokens (B, T), their successors, and what is added to the logits, (B, T, K) float32."""
        positions = torch.from_numpy(self.starts(step))[:, None] + torch.arange(self.length)
        return *super().batch(step), self._base[positions].float()


def covered(segments: Segments, n_symbols: int) -> Segments:
    """Of what is counted the stretches for which all logits can be kept; all of a text of some megabytes."""
    return spread(segments, _MOST_NUMBERS // n_symbols, COUNTED_STRETCHES)


def n_bytes_beside(segments: Segments, n_symbols: int) -> int:
    """Memory that these logits take."""
    return 2 * n_symbols * sum(end - start for start, end in covered(segments, n_symbols))


def windows_beside(
    text: np.ndarray,
    segments: Segments,
    byte: torch.Tensor,
    depth: int,
    belief: Belief,
    parts: int,
    should_stop: Callable[[], bool] = lambda: False,
    **shape: int,
) -> BesideWindows | None:
    """Windows of a text with what counted tables add there, counted in other parts of it, and recent ones.

    Args:
        text: (N,) uint8 symbols.
        segments: (start, end) of what is counted of it.
        byte: (K,) uint8, of each symbol.
        depth: of the contexts.
        belief: by which rows are multiplied; its cells are those of the recent tables.
        parts: at least 2.
        should_stop: asked before each part.
        shape: as of :class:`polychron.data.Windows`.

    Returns:
        The windows; None: it was to stop.
    """
    kept = covered(segments, len(byte))
    ends = [0, *itertools.accumulate(end - start for start, end in kept)]
    base = torch.empty(ends[-1], len(byte), dtype=torch.float16)
    for first, last in itertools.pairwise(len(text) * part // parts for part in range(parts + 1)):
        inside = [_clipped(segment, first, last) for segment in kept]
        if not any(end > start for start, end in inside):
            continue
        if should_stop():
            return None
        tables = ContextTables.of_text(text, _outside(segments, first, last), byte, depth)
        tables.scale(belief.depths)
        tables.set_recent(belief.cells)
        for (start, end), (begin, _), at in zip(inside, kept, ends[:-1], strict=True):
            _read(tables, text, start, end, base[at + start - begin : at + end - begin])
    tokens = np.concatenate([text[start:end] for start, end in kept])
    return BesideWindows(tokens, list(itertools.pairwise(ends)), base, **shape)


def _clipped(segment: tuple[int, int], first: int, last: int) -> tuple[int, int]:
    start = min(max(segment[0], first), last)
    return start, max(start, min(segment[1], last))


def _outside(segments: Segments, first: int, last: int) -> list[tuple[int, int]]:
    """What of the segments lies before ``first`` or from ``last`` on."""
    clipped = [
        _clipped(segment, begin, end) for begin, end in ((0, first), (last, segments[-1][1])) for segment in segments
    ]
    return [(start, end) for start, end in clipped if end > start]


@torch.no_grad()
def _read(tables: ContextTables, text: np.ndarray, start: int, end: int, base: torch.Tensor) -> None:
    """Writes the logits (N, K) after each symbol of a stretch."""
    state = None
    for at in range(start, end, _READ_PIECE):
        tokens = torch.from_numpy(text[at : min(at + _READ_PIECE, end)].astype(np.int64))
        logits, state = tables.extend(tokens[None], state)
        base[at - start : at - start + len(tokens)] = logits[0]
