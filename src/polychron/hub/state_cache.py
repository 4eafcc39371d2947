"""What a batch of texts must remember between two calls: the models' own states, which do not grow."""

# B sequence, T position, I table, K vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polychron.models import LanguageModel


@dataclass
class _Group:
    """Texts of one length: their rows in the batch, and their state."""

    rows: Tensor
    state: Any


class StateCache:
    """Stands where transformers keeps keys and values: latencies of the last positions, tokens, indices, or a vector.

    Texts of one length go through the model together. Texts of other lengths, padded on the left, are other groups:
    what stands before a text must not be read.

    Args:
        model: whose states these are.
    """

    # What transformers asks of its own caches, from 5.24 on of any.
    is_compileable = False
    is_croppable = False
    is_linear = (False,)  # for each layer; where all are, a text that goes on from a cache is read again from its start

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._groups: list[_Group] = []
        self._length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions read, padding included."""
        return self._length

    def read(self, tokens: Tensor, n_left: Tensor | None, *, last: bool = False) -> Tensor:
        """Logits (B, T, K), or with ``last`` (B, 1, K), after further tokens (B, T).

        Args:
            tokens: token ids.
            n_left: at the beginning, how many of each text's tokens are padding, (B,); those positions' logits are 0.
            last: give only the last position's.
        """
        B, T = tokens.shape
        if not self._groups:
            padding = tokens.new_zeros(B) if n_left is None else n_left
            self._groups = [
                _Group((padding == n).nonzero()[:, 0], self._model.start()) for n in padding.unique().tolist()
            ]
        skipped = [0] * len(self._groups)
        if self._length == 0 and n_left is not None:
            skipped = [int(n_left[group.rows[0]]) for group in self._groups]
        logits = self._model.embedding.latencies.new_zeros(B, 1 if last else T, self._model.config.vocabulary_size)
        for group, skip in zip(self._groups, skipped, strict=True):
            piece = tokens[group.rows, skip:].contiguous()
            some, group.state = self._model.extend(piece, group.state, last=last)
            logits[group.rows, 0 if last else skip :] = some
        self._length += T
        return logits

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The batch becomes its rows ``beam_idx`` (B,), of which some may repeat or be missing."""
        groups = []
        for group in self._groups:
            place = {row: at for at, row in enumerate(group.rows.tolist())}
            taken = [(row, place[source]) for row, source in enumerate(beam_idx.tolist()) if source in place]
            if taken:
                rows, at = (torch.tensor(numbers, device=beam_idx.device) for numbers in zip(*taken, strict=True))
                groups.append(_Group(rows, self._picked(group.state, at)))
        self._groups = groups

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row becomes so many, side by side."""
        n_rows = sum(len(group.rows) for group in self._groups)
        self.reorder_cache(torch.arange(n_rows).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only these rows are kept."""
        self.reorder_cache(indices)

    def n_bytes(self) -> int:
        """Memory of all states."""
        return sum(_count_bytes(group.state) for group in self._groups)

    def _picked(self, state: Any, at: Tensor) -> Any:
        if isinstance(state, list):
            return [self._picked(part, at) for part in state]
        if state is None:
            return None
        axis = 1 if state.dtype == torch.int32 else 0  # rows (I, B, ...), or latencies (B, ...) and tokens (B, L)
        return state.index_select(axis, at.to(state.device))


def _count_bytes(state: Any) -> int:
    if isinstance(state, list):
        return sum(_count_bytes(part) for part in state)
    return 0 if state is None else state.numel() * state.element_size()
