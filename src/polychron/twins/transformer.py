"""A dense transformer of today's form: norms first, rotary positions, tied embeddings, no biases.

What it has beyond the usual is a short causal convolution over the embeddings. It costs one small matrix and brings a
byte model of this size forward by more than anything else that was tried (docs/benchmarks.md).
"""

# B window, T position, D width, H head, K vocabulary

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polychron.data import Windows
from polychron.twins import cost
from polychron.twins.cost import Cost
from polychron.twins.scoring import mean_context, score_by_windows
from polychron.twins.twin import Batches, Twin

FEED_FORWARD = 4  # hidden width of a block's perceptron, in widths
MIXED_BYTES = 4  # earlier bytes that the convolution adds to a byte's embedding
ROTARY_BASE = 1000.0  # the longest wave of a rotation is some thousand positions: windows are a few hundred


@dataclass(frozen=True)
class TransformerSize:
    """Sizes of a transformer.

    Attributes:
        width: D, a multiple of twice ``n_heads``.
        n_layers: blocks.
        n_heads: heads of a block.
        window: T, bytes seen at once.
        perceptron: whether a block has one behind its attention.
    """

    width: int
    n_layers: int
    n_heads: int
    window: int
    perceptron: bool = True


class Block(nn.Module):
    """x <- x + attention(norm(x));  x <- x + perceptron(norm(x)), where there is one."""

    up: nn.Linear | None

    def __init__(self, size: TransformerSize, dropout: float):
        super().__init__()
        width = size.width
        self.n_heads = size.n_heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.up = None
        if size.perceptron:
            self.perceptron_norm = nn.LayerNorm(width, bias=False)
            self.up = nn.Linear(width, FEED_FORWARD * width, bias=False)
            self.down = nn.Linear(FEED_FORWARD * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, T, D) to the same; ``seen`` (T, T) bool: which positions each one looks at, by default all until it."""
        B, T, D = x.shape
        heads = self.query_key_value(self.attention_norm(x)).view(B, T, 3, self.n_heads, D // self.n_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=seen is None)
        return self.perceptron(x + self.dropout(self.attention_out(mixed.transpose(1, 2).reshape(B, T, D))))

    def perceptron(self, x: Tensor) -> Tensor:
        """x (..., D) with what the perceptron adds to it; x itself where there is none."""
        if self.up is None:
            return x
        return x + self.dropout(self.down(F.gelu(self.up(self.perceptron_norm(x)))))


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns the planes (k, k + half) of x (..., T, D) by the angles of its positions, (T, D / 2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], dim=-1)


def rotation(positions: Tensor, half: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (T, half), of the angles by which positions (T,) turn the planes of a head."""
    angles = positions.double()[:, None] * ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
    return angles.cos().to(dtype), angles.sin().to(dtype)


class Transformer(Twin):
    """Decoder-only transformer of bytes."""

    def __init__(self, vocabulary_size: int, size: TransformerSize, dropout: float = 0.0):
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(vocabulary_size, size.width)
        self.mix = nn.Linear(MIXED_BYTES * size.width, size.width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(size, dropout) for _ in range(size.n_layers))
        self.norm = nn.LayerNorm(size.width, bias=False)
        cosine, sine = rotation(torch.arange(size.window), size.width // size.n_heads // 2)
        self.register_buffer("cosine", cosine)
        self.register_buffer("sine", sine)
        for block in self.blocks:
            for matrix in (block.query_key_value, block.up) if size.perceptron else (block.query_key_value,):
                nn.init.normal_(matrix.weight, std=size.width**-0.5)
            # The stream's variance must not grow with depth.
            for matrix in (block.attention_out, block.down) if size.perceptron else (block.attention_out,):
                nn.init.normal_(matrix.weight, std=matrix.in_features**-0.5 / math.sqrt(2 * size.n_layers))
        nn.init.normal_(self.embedding.weight, std=size.width**-0.5)  # logits of an untrained model are about 1

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next byte: (B, T) to (B, T, K), T at most the window."""
        T = tokens.shape[1]
        return self._logits(tokens, self.cosine[:T], self.sine[:T], None)

    def read(self, tokens: Tensor) -> Tensor:
        """Logits along texts of any length, (B, T) to (B, T, K): every block's position looks at the last ``window``.

        It is what remembered keys and values come to (`polychron.twins.transformer_cache`); within a window it is
        `forward`.
        """
        positions = torch.arange(tokens.shape[1])
        distance = positions[:, None] - positions
        cosine, sine = rotation(positions, self.cosine.shape[1])
        return self._logits(tokens, cosine, sine, (distance >= 0) & (distance < self.size.window))

    def _logits(self, tokens: Tensor, cosine: Tensor, sine: Tensor, seen: Tensor | None) -> Tensor:
        T = tokens.shape[1]
        x = self.embedding(tokens)
        past = F.pad(x, (0, 0, MIXED_BYTES, 0))
        x = self.dropout(x + self.mix(torch.cat([past[:, d : d + T] for d in range(MIXED_BYTES)], dim=-1)))
        for block in self.blocks:
            x = block(x, cosine, sine, seen)
        return self.readout(self.norm(x))

    def readout(self, x: Tensor) -> Tensor:
        """Logits (..., K) of what left the last block, (..., D)."""
        return F.linear(x, self.embedding.weight)

    def batches(self, tokens: np.ndarray, batch: int, seed: int) -> Batches:
        """Windows in a random order, each byte once in a pass."""
        return Windows(tokens, [(0, tokens.size)], length=self.size.window, batch=batch, seed=seed)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean nats."""
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def score(self, tokens: Tensor) -> Tensor:
        """Nats by sliding windows."""

        def nats(tokens: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(self(tokens).transpose(1, 2), targets, reduction="none")

        return score_by_windows(nats, tokens, self.size.window)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits of tokens[1:], (N,) int64 to (N - 1, K), by the same windows."""
        return score_by_windows(lambda tokens, targets: self(tokens), tokens, self.size.window)

    def reading_cost(self) -> Cost:
        """With keys and values remembered, and as much context as scoring uses on average."""
        return self._cost(mean_context(self.size.window))

    def training_forward_cost(self) -> Cost:
        """In a window, a position looks at half of it on average."""
        return self._cost((self.size.window + 1) / 2)

    def _cost(self, context: float) -> Cost:
        width, n_classes = self.size.width, self.embedding.num_embeddings
        total = cost.embedding(width) + cost.linear(MIXED_BYTES * width, width) + cost.elementwise(width)
        for _ in self.blocks:
            total += cost.layer_norm(width) + cost.linear(width, 3 * width) + cost.rotation(width)
            total += cost.attention(width, self.size.n_heads, context)
            total += cost.linear(width, width) + cost.elementwise(width)
            if not self.size.perceptron:
                continue
            total += cost.layer_norm(width) + cost.linear(width, FEED_FORWARD * width)
            total += cost.elementwise(FEED_FORWARD * width)
            total += cost.linear(FEED_FORWARD * width, width) + cost.elementwise(width)
        return total + cost.layer_norm(width) + cost.linear(width, n_classes) + cost.softmax(n_classes)
