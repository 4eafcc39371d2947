"""Which part of a text is kept away from training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polychron.errors import InputError

HOLDOUT_KINDS = ("blocks", "tail")

# Fifty places of a text represent it. A block of 64 KiB is long enough that the two seams at its ends, where
# the context is another place's, do not show in the figure; one below 256 bytes would be nothing but seams.
_N_BLOCKS = 50
_BLOCK_LIMITS = (256, 65_536)


@dataclass(frozen=True)
class Holdout:
    """A division of the bytes [0, n_bytes): every byte is in exactly one segment of one of the two lists.

    Attributes:
        training: (start, end) of the segments to train on, ascending.
        held_out: (start, end) of the segments kept away, ascending.
    """

    training: tuple[tuple[int, int], ...]
    held_out: tuple[tuple[int, int], ...]

    def held_out_of(self, data: np.ndarray) -> np.ndarray:
        """The held-out bytes of ``data``, joined: they are scored as one stream."""
        return np.concatenate([data[start:end] for start, end in self.held_out])

    def training_of(self, data: np.ndarray) -> list[np.ndarray]:
        """The training segments of ``data``, as views."""
        return [data[start:end] for start, end in self.training]


def hold_out(n_bytes: int, kind: str = "blocks", fraction: float = 0.1) -> Holdout:
    """Divide a text of ``n_bytes``.

    - ``"blocks"``: every nth block is held out, n = 1 / fraction. The block's length is chosen so that fifty
      blocks are held out, but between 256 bytes and 64 KiB (fewer blocks of a short text, more of a long one;
      a text too short for one block of 256 has one shorter block). The text ends with training bytes unless
      it ends with a block.
    - ``"tail"``: the last bytes, one segment: ``n_bytes - int(n_bytes * (1 - fraction))`` of them, the
      field's custom.

    Args:
        n_bytes: length of the text.
        kind: ``"blocks"`` or ``"tail"``.
        fraction: of the bytes to hold out, above 0 and at most 0.5.

    Raises:
        InputError: unknown kind, fraction out of range, or a part with fewer than 2 bytes.

    Example:
        >>> hold_out(1000, "tail").held_out
        ((900, 1000),)
        >>> hold_out(20_000, "blocks").held_out[:2]
        ((2304, 2560), (4864, 5120))
    """
    if kind not in HOLDOUT_KINDS:
        raise InputError(f"holdout must be one of {', '.join(HOLDOUT_KINDS)}; got {kind!r}")
    if not (math.isfinite(fraction) and 0 < fraction <= 0.5):
        raise InputError(f"the held-out fraction must be above 0 and at most 0.5; got {fraction}")

    n_held_out = n_bytes - int(n_bytes * (1 - fraction))
    if n_held_out < 2 or n_bytes - n_held_out < 2:
        raise InputError(
            f"holding out {fraction:g} of {n_bytes:,} bytes leaves less than two bytes on one side: take a longer text"
        )
    if kind == "tail":
        seam = n_bytes - n_held_out
        return Holdout(training=((0, seam),), held_out=((seam, n_bytes),))

    shortest, longest = _BLOCK_LIMITS
    block = min(n_held_out, max(shortest, min(longest, n_held_out // _N_BLOCKS)))
    period = max(block + 1, min(n_bytes, round(block / fraction)))
    held_out = tuple((end - block, end) for end in range(period, n_bytes + 1, period))
    seams = [0, *(seam for segment in held_out for seam in segment), n_bytes]
    training = tuple((start, end) for start, end in zip(seams[::2], seams[1::2], strict=True) if end > start)
    return Holdout(training, held_out)


def set_aside(
    segments: Sequence[tuple[int, int]], n_bytes: int, n_pieces: int | None = None
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """Takes pieces out of segments, evenly spread, about ``n_bytes`` in all: (what is left, the pieces), ascending.

    Four pieces by default, eight where no segment is long enough for these. A piece that would take more than a quarter
    of its segment, or reach into the piece before, is left out; pieces have two bytes at least.

    Example:
        >>> set_aside([(0, 1000)], 40, n_pieces=2)
        (((0, 250), (270, 750), (770, 1000)), ((250, 270), (750, 770)))
        >>> set_aside([(0, 1000)], 0)
        (((0, 1000),), ())
    """
    longest = max((end - start for start, end in segments), default=0)
    if n_pieces is None:
        n_pieces = 4 if longest >= 4 * (n_bytes // 4) else 8
    each = n_bytes // n_pieces
    ends = np.cumsum([end - start for start, end in segments])
    left, pieces = list(segments), []
    for k in range(n_pieces if each > 1 else 0):
        place = (2 * k + 1) * int(ends[-1]) // (2 * n_pieces)
        i = int(np.searchsorted(ends, place, side="right"))
        start, end = segments[i]
        if end - start >= 4 * each:
            first = min(end - int(ends[i]) + place, end - each)
            if not pieces or first >= pieces[-1][1]:
                pieces.append((first, first + each))
    for first, last in pieces:
        i = next(i for i, (start, end) in enumerate(left) if start <= first and last <= end)
        start, end = left[i]
        left[i : i + 1] = [(a, b) for a, b in ((start, first), (last, end)) if b > a]
    return tuple(left), tuple(pieces)


def spread(segments: Sequence[tuple[int, int]], n_bytes: int, n_stretches: int) -> tuple[tuple[int, int], ...]:
    """Stretches of segments, evenly spread, about ``n_bytes`` in all; all of the segments where these have not more.

    A stretch that reaches over a segment's end goes on in the next one.

    Example:
        >>> spread([(0, 100), (200, 300)], 60, n_stretches=3)
        ((23, 43), (89, 100), (200, 209), (256, 276))
        >>> spread([(0, 100)], 100, n_stretches=3)
        ((0, 100),)
    """
    ends = [0, *np.cumsum([end - start for start, end in segments]).tolist()]
    n = ends[-1]
    if n <= n_bytes:
        return tuple(segments)
    length = n_bytes // n_stretches
    found = []
    for k in range(n_stretches):
        first = k * n // n_stretches + (n // n_stretches - length) // 2
        for (start, _), before, after in zip(segments, ends[:-1], ends[1:], strict=True):
            begin, end = max(first, before), min(first + length, after)
            if begin < end:
                found.append((start + begin - before, start + end - before))
    return tuple(found)
