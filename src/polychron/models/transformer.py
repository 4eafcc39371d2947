"""TransformerLM: the paper's transformer of look-up tables (equations 14 and 15)."""

# B sequence, T position, K vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from polychron.anchors import ANCHOR_KINDS
from polychron.errors import InputError
from polychron.models.config import ModelConfig
from polychron.models.language_model import LanguageModel, TokenEmbedding
from polychron.models.layers import make_attention, make_readout, make_tables
from polychron.nn import RowLayer, VariantLayer
from polychron.ops.pair_lookup import POSITION_GRADIENTS

MOST_SOFTMAX_BITS = 12
SCORE_POSITIONS = 1 << 12  # positions scored at once; bounds memory


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """Sizes of a :class:`TransformerLM`.

    Attributes:
        context: positions of a training window; a position attends to at most context - 1 earlier ones.
        n_neurons: neurons in the latency vector.
        n_layers: layers of attention and FFN.
        n_heads: heads in a layer; each is a set of tables of its own, all read the same input and add into z.
        n_tables: tables in a head, in an FFN and in the readout.
        n_comparisons: anchor pairs a table, of the query, of the key, of an FFN and of the readout.
        n_position_bits: comparisons of the relative-position code.
        window: earlier positions that a position attends to; None: all in the context.
        ffn: ``"tables"``, or None for attention only.
        share_anchors: query and key use the same anchors.
        position_gradient: ``"additional"`` or ``"nearest"``.
        anchors: ``"random"``, ``"covering"`` or ``"independent"``.
    """

    kind: ClassVar[str] = "transformer"
    context: int = 32
    n_neurons: int = 32
    n_layers: int = 6
    n_heads: int = 4
    n_tables: int = 16
    n_comparisons: int = 6
    n_position_bits: int = 4
    window: int | None = None
    ffn: str | None = "tables"
    share_anchors: bool = True
    position_gradient: str = "additional"
    anchors: str = "random"

    def __post_init__(self) -> None:
        self.check_counts(
            vocabulary_size=1, context=2, n_neurons=2, n_layers=1, n_heads=1, n_tables=1, n_comparisons=1,
            n_position_bits=0,
        )  # fmt: skip
        if self.window is not None:
            self.check_counts(window=1)
        self.check_variant()
        self.check_choice("ffn", ("tables", None))
        self.check_choice("share_anchors", (True, False))
        self.check_choice("position_gradient", POSITION_GRADIENTS)
        self.check_choice("anchors", ANCHOR_KINDS)
        self.check_row_bits("n_comparisons and n_position_bits", 2 * self.n_comparisons + self.n_position_bits)
        if self.gradient == "softmax" and 2 * self.n_comparisons + self.n_position_bits > MOST_SOFTMAX_BITS:
            raise InputError(
                f"gradient softmax looks at every row: 2 n_comparisons + n_position_bits must be at most "
                f"{MOST_SOFTMAX_BITS}; got {2 * self.n_comparisons + self.n_position_bits}"
            )
        self.check_parameters()

    @property
    def reach(self) -> int:
        """Earlier positions that a position attends to at most."""
        return min(self.context - 1, self.window or self.context)

    def n_parameters(self) -> int:
        """Numbers in the tables, the embedding and the position codes."""
        n, bits = self.n_neurons, self.n_comparisons
        heads = self.n_heads * self.n_tables
        attention = heads * (self.n_rows(2 * bits) * 2**self.n_position_bits * n)
        attention += heads * (self.reach + 1) * self.n_position_bits
        attention += self.n_trained_beside(heads, bits if self.share_anchors else 2 * bits, n)
        beside = self.n_trained_beside(self.n_tables, bits, n)
        ffn = 0 if self.ffn is None else self.n_tables * self.n_rows(bits) * n + beside
        layers = self.n_layers * (attention + ffn)
        readout = self.n_tables * self.n_rows(bits) * self.vocabulary_size + beside
        return layers + readout + self.vocabulary_size * self.n_neurons


class TransformerLayer(nn.Module):
    """Attention, then the FFN: z_t <- z_t + sum over heads, then z_t <- z_t + FFN_{z_t}."""

    def __init__(self, config: TransformerConfig, draw_seed):
        super().__init__()
        self.attention = make_attention(
            config, config.n_neurons, config.n_neurons, config.n_heads * config.n_tables, config.n_comparisons,
            config.n_position_bits, config.reach, share_anchors=config.share_anchors,
            position_gradient=config.position_gradient, residual=True, anchors=config.anchors, seed=draw_seed(),
        )  # fmt: skip
        self.ffn = None
        if config.ffn is not None:
            self.ffn = make_tables(
                config, config.n_neurons, config.n_neurons, config.n_tables, config.n_comparisons, residual=True,
                anchors=config.anchors, seed=draw_seed(),
            )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        """Latencies (B, T, n_neurons) to the same."""
        z = self.attention(z)
        return z if self.ffn is None else self.ffn(z)

    def extend(self, z: Tensor, past_keys: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same for positions that follow others, given by the rows of their keys; and the keys to pass on."""
        z, keys = self.attention.extend(z, past_keys)
        return (z if self.ffn is None else self.ffn(z)), keys


class TransformerLM(LanguageModel):
    r"""The paper's transformer: attention by one table row per pair of positions, no dot product, no softmax.

    .. math:: z_t \leftarrow z_t + \sum_{s<t} V[H(z_t)\,\|\,H(z_s)\,\|\,H(PE_{t-s})],\qquad
              z_t \leftarrow z_t + FFN_{z_t},\qquad \mathrm{logits}_t = U(z_t)

    A longer text than ``config.context`` is read with a sliding window: a position attends to the last
    ``context - 1`` (or ``window``) positions in each layer.

    Args:
        config: sizes; :class:`TransformerConfig`'s defaults are the paper's 806 M setting.
        seed: of the embedding, anchors and position codes. The tables start at 0.

    Example:
        >>> config = TransformerConfig(vocabulary_size=27, context=8, n_layers=1, n_heads=1, n_tables=2,
        ...                            n_comparisons=2, n_position_bits=1)
        >>> TransformerLM(config)(torch.zeros(2, 8, dtype=torch.int64)).shape
        torch.Size([2, 8, 27])
    """

    config: TransformerConfig

    def __init__(self, config: TransformerConfig, seed: int = 0):
        super().__init__(config)
        seeds = torch.Generator().manual_seed(seed)
        draw = lambda: int(torch.randint(1 << 31, (), generator=seeds, device="cpu"))  # noqa: E731
        self.embedding = TokenEmbedding(config.vocabulary_size, config.n_neurons, draw())
        self.layers = nn.ModuleList(TransformerLayer(config, draw) for _ in range(config.n_layers))
        self.readout = make_readout(
            config, config.n_neurons, config.vocabulary_size, config.n_tables, config.n_comparisons,
            anchors=config.anchors, seed=draw(),
        )  # fmt: skip

    @property
    def context_length(self) -> int:
        """The training window."""
        return self.config.context

    def layers_in_order(self) -> list[RowLayer | VariantLayer]:
        """Attention and FFN of each layer, then the readout."""
        parts = [part for layer in self.layers for part in (layer.attention, layer.ffn) if part is not None]
        return [*parts, self.readout]

    def latencies(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) to the latencies (B, T, n_neurons) that the readout reads."""
        z = self.embedding(tokens)
        for layer in self.layers:
            z = layer(z)
        return z

    def start(self) -> list[Tensor | None]:
        """No keys yet, for each layer."""
        return [None] * self.config.n_layers

    @torch.no_grad()
    def extend(
        self, tokens: Tensor, state: list[Tensor | None], *, last: bool = False
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Logits of further tokens; the state is each layer's last keys: rows, or latencies of a variant."""
        z = self.embedding(tokens)
        kept = []
        for layer, past in zip(self.layers, state, strict=True):
            z, keys = layer.extend(z, past)
            kept.append(keys)
        return self.readout(z[:, -1 if last else 0 :].contiguous()), kept

    @torch.no_grad()
    def score(self, tokens: Tensor, recalled: Tensor | None = None) -> Tensor:
        """Nats of tokens[1:]; windows of ``context`` overlap by half, of which the second half is scored."""
        context, n = self.config.context, len(tokens) - 1
        if n <= context:
            return self._score_windows(tokens[None])[0] if n > 0 else torch.empty(0)
        half = context // 2
        n_windows = (n - context) // half + 1
        at = torch.arange(n_windows)[:, None] * half + torch.arange(context + 1)
        batch = max(1, SCORE_POSITIONS // context)
        first = self._score_windows(tokens[at[:1]])[0, : context - half]
        body = [self._score_windows(tokens[some])[:, context - half :].flatten() for some in at.split(batch)]
        scored = len(first) + n_windows * half
        last = (
            self._score_windows(tokens[None, n - context :])[0, context - (n - scored) :] if scored < n else first[:0]
        )
        return torch.cat([first, *body, last])

    def _score_windows(self, tokens: Tensor) -> Tensor:
        """Nats (B, T) of windows of T + 1 tokens."""
        return self.nats(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
