"""What a model does for a text: comparisons, rows, numbers and bytes, counted by the native kernels as they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from polychron.errors import InputError
from polychron.runtime.extension import require_native

if TYPE_CHECKING:
    from polychron.runtime.model import Model

LINE_BYTES = 64  # of the cache


@dataclass(frozen=True)
class StageCounts:
    """What a layer did.

    Attributes:
        comparisons: of two latencies.
        filler: of a latency with itself: tables are hashed sixteen at a time, and these fill the last sixteen.
        latency_bytes: bytes of the latencies compared, two a comparison, without the filler's.
        joined: numbers joined, one a table and delay: what the comparisons of a token ago, two ago, ... contribute to
            each row; where a layer reads the embedding, in place of comparisons: it is listed when the model is loaded.
        keys: remembered indices that attention joined with a query's.
        rows: rows read.
        additions: numbers added: all of each row, with those that fill it up to whole registers.
        row_bytes: bytes of these numbers.
        row_lines: lines of 64 bytes of the cache that they lie in, each row by itself.
        distinct_rows: rows that were read at least once.
        place_bytes: of counted contexts, bytes read to find their rows: 0 of others.
    """

    comparisons: int
    filler: int
    latency_bytes: int
    joined: int
    keys: int
    rows: int
    additions: int
    row_bytes: int
    row_lines: int
    distinct_rows: int
    place_bytes: int


def count_text(model: Model, text: bytes, n_before: int = 0) -> list[StageCounts]:
    """Read a text as one stream, logits after every byte, and count.

    Args:
        model: see `polychron.runtime.load`.
        text: read from the beginning.
        n_before: so many first bytes are read, but not counted: a transformer's context fills meanwhile.

    Returns:
        The layers' counts in the order in which data flows, the readout's next to the last where there are counted
        contexts, else the last; sums over the counted bytes. Of contexts' rows the shortest are read as one, the sum of
        all, and counted as each.

    Raises:
        InputError: there is no byte to count.

    Example:
        >>> counts = count_text(load("runs/book"), b"It was a truth")  # doctest: +SKIP
        >>> counts[-1].rows   # 14 bytes, 16 tables of the readout  # doctest: +SKIP
        224
    """
    if len(text) <= n_before:
        raise InputError(
            f"a text to count needs more than the {n_before} bytes that fill the model's context; got {len(text)}"
        )
    ids = model.vocabulary.ids_of(text)
    stream = require_native().RuntimeStream(model.native, counting=True)
    stream.read(ids[:n_before])
    stream.forget_counts()
    stream.score(ids[n_before:])
    return [StageCounts(**counts) for counts in stream.counts()]
