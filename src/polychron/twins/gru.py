"""A gated recurrent network whose state runs through the whole text, in training too."""

# B stream, T position, D width, K vocabulary

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polychron.twins import cost
from polychron.twins.cost import Cost
from polychron.twins.twin import Batches, Twin

SCORED_AT_ONCE = 1 << 14  # positions; bounds memory, not context


class Streams:
    """As many places of a text as a batch has rows, evenly spread, each read on and on, ``length`` bytes a step.

    Row b of step k + 1 goes on where row b of step k ended; at the text's end it goes on at the beginning.
    """

    def __init__(self, tokens: np.ndarray, *, length: int, batch: int, seed: int):
        begin = np.random.default_rng(seed).integers(tokens.size)
        self._tokens = tokens
        self._begins = begin + np.arange(batch) * (tokens.size // batch)
        self._within = np.arange(length + 1)
        self.bytes_per_batch = length * batch

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) and their successors."""
        first = self._begins + step * (self._within.size - 1)
        rows = torch.from_numpy(self._tokens[(first[:, None] + self._within) % self._tokens.size]).long()
        return rows[:, :-1], rows[:, 1:]


class GRU(Twin):
    """Embedding, one layer of gated units, and the embedding once more as readout."""

    def __init__(self, vocabulary_size: int, width: int, embedding_width: int, length: int, dropout: float = 0.0):
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(vocabulary_size, embedding_width)
        self.recurrent = nn.GRU(embedding_width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.readout = nn.Linear(width, vocabulary_size)
        self._state: Tensor | None = None
        nn.init.orthogonal_(self.recurrent.weight_hh_l0)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, T, K) after tokens (B, T) that follow those that made ``state``, and the new state."""
        hidden, state = self.recurrent(self.embedding(tokens), state)
        return self.readout(self.dropout(hidden)), state

    def batches(self, tokens: np.ndarray, batch: int, seed: int) -> Batches:
        """Streams, so that the state that a step ends with fits the next."""
        return Streams(tokens, length=self.length, batch=batch, seed=seed)

    def begin(self) -> None:
        """No state."""
        self._state = None

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean nats; gradients end where the step began, the state does not."""
        logits, state = self(tokens, self._state)
        self._state = state.detach()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def score(self, tokens: Tensor) -> Tensor:
        """Nats in one stream, the state carried from the first byte to the last."""
        state, nats = None, []
        for begin in range(0, len(tokens) - 1, SCORED_AT_ONCE):
            piece = tokens[begin : begin + SCORED_AT_ONCE + 1]
            logits, state = self(piece[None, :-1], state)
            nats.append(F.cross_entropy(logits[0], piece[1:], reduction="none"))
        return torch.cat(nats) if nats else torch.empty(0)

    def reading_cost(self) -> Cost:
        """One step of the recurrence."""
        width, n_inputs = self.recurrent.hidden_size, self.recurrent.input_size
        n_classes = self.readout.out_features
        total = cost.embedding(n_inputs) + cost.gru(n_inputs, width)
        return total + cost.linear(width, n_classes, bias=True) + cost.softmax(n_classes)
