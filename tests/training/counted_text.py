"""A text of five symbols that counted contexts know a good part of."""

from __future__ import annotations

import numpy as np

from polychron.ops.contexts import bytes_of_symbols

K = 6
BYTE = bytes_of_symbols(b"abcde")


def text_of(n: int, seed: int = 0) -> np.ndarray:
    """Symbols (n,): seven of ten follow from the two before."""
    rng = np.random.default_rng(seed)
    text = np.zeros(n, dtype=np.uint8)
    for t in range(2, n):
        text[t] = rng.integers(5) if rng.random() < 0.3 else (text[t - 1] + 2 * text[t - 2] + 1) % 5
    return text
