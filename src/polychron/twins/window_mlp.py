"""A perceptron over the embeddings of the last few bytes, side by side."""

# B window, T position, D width, K vocabulary, W bytes of context

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polychron.data import Windows
from polychron.twins import cost
from polychron.twins.cost import Cost
from polychron.twins.twin import Batches, Twin

SCORED_AT_ONCE = 1 << 13  # positions


class WindowBatches:
    """Windows that begin early enough for their first predicted byte to have its whole context."""

    def __init__(self, tokens: np.ndarray, *, context: int, length: int, batch: int, seed: int):
        self._windows = Windows(tokens, [(0, tokens.size)], length=context - 1 + length, batch=batch, seed=seed)
        self._length = length
        self.bytes_per_batch = batch * length

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, W - 1 + T) and the successors (B, T) of the last T."""
        tokens, targets = self._windows.batch(step)
        return tokens, targets[:, -self._length :]


class WindowMLP(Twin):
    """Embeddings of W bytes, a hidden layer, a residual one, a readout."""

    def __init__(
        self,
        vocabulary_size: int,
        context: int,
        embedding_width: int,
        width: int,
        n_blocks: int,
        length: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.context, self.length = context, length
        self.embedding = nn.Embedding(vocabulary_size, embedding_width)
        self.first = nn.Linear(context * embedding_width, width, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(n_blocks + 1))
        self.blocks = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(n_blocks))
        self.readout = nn.Linear(width, vocabulary_size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits after each of the last T bytes: (B, W - 1 + T) to (B, T, K)."""
        B, n = tokens.shape
        T = n - self.context + 1
        side_by_side = self.embedding(tokens).unfold(1, self.context, 1).transpose(2, 3)  # (B, T, W, D)
        x = F.gelu(self.first(side_by_side.reshape(B, T, -1)))
        for norm, block in zip(self.norms, self.blocks, strict=False):
            x = x + self.dropout(F.gelu(block(norm(x))))
        return self.readout(self.norms[-1](x))

    def batches(self, tokens: np.ndarray, batch: int, seed: int) -> Batches:
        """Windows with the context of their first prediction in front."""
        return WindowBatches(tokens, context=self.context, length=self.length, batch=batch, seed=seed)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean nats."""
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def score(self, tokens: Tensor) -> Tensor:
        """Nats; before the text's beginning stands its first byte, repeated."""
        padded = torch.cat([tokens[:1].expand(self.context - 1), tokens])
        nats = []
        for begin in range(0, len(tokens) - 1, SCORED_AT_ONCE):
            targets = tokens[begin + 1 : begin + 1 + SCORED_AT_ONCE]
            logits = self(padded[None, begin : begin + self.context - 1 + len(targets)])
            nats.append(F.cross_entropy(logits[0], targets, reduction="none"))
        return torch.cat(nats) if nats else torch.empty(0)

    def reading_cost(self) -> Cost:
        """All of it, for every byte: nothing can be remembered but the bytes."""
        width, n_classes = self.first.out_features, self.readout.out_features
        total = cost.embedding(self.context * self.embedding.embedding_dim)
        total += cost.linear(self.first.in_features, width) + cost.elementwise(width)
        for _ in self.blocks:
            total += cost.layer_norm(width) + cost.linear(width, width) + cost.elementwise(2 * width)
        return total + cost.layer_norm(width) + cost.linear(width, n_classes) + cost.softmax(n_classes)
