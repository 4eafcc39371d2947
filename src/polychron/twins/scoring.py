"""Scores every byte of a text after the first exactly once, by windows that slide over it."""

# B window, T position in a window, N position in the text

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# A window moves on by this part of itself: a byte is predicted from at least three quarters of a window, except
# at the very beginning of the text, where there is no more. A half is the custom; this favours the twins.
MOVE = 0.25
POSITIONS_AT_ONCE = 1 << 14


def score_by_windows(nats: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, window: int) -> Tensor:
    """Nats of tokens[1:], (N,) int64 to (N - 1,); or whatever else is said of each, (N - 1, ...).

    Args:
        nats: tokens (B, T), targets (B, T) to what is said of the targets (B, T, ...), for any T up to ``window``.
        tokens: the text.
        window: T, positions that the model sees at once; at least 1.
    """
    n = len(tokens) - 1
    if n <= window:
        return nats(tokens[None, :-1], tokens[None, 1:])[0] if n > 0 else torch.empty(0)
    move = max(1, int(window * MOVE))
    n_moves = (n - window) // move
    starts = move * torch.arange(n_moves + 1)
    scored = [
        nats(tokens[at], tokens[at + 1])[:, -move:]
        for at in (starts[1:, None] + torch.arange(window)).split(max(1, POSITIONS_AT_ONCE // window))
    ]
    first = nats(tokens[None, :window], tokens[None, 1 : window + 1])[0]
    n_left = n - window - n_moves * move
    last = nats(tokens[None, n - window : n], tokens[None, n - window + 1 :])[0, window - n_left :]
    return torch.cat([first, *(part.flatten(0, 1) for part in scored), last])


def mean_context(window: int) -> float:
    """Bytes that a prediction is made from, on average, in a long text: the current one included."""
    move = max(1, int(window * MOVE))
    return window - (move - 1) / 2
