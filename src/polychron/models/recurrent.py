"""RecurrentLM: the paper's recurrent network of look-up tables (equation 11)."""

# B sequence, T position, K vocabulary

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polychron.anchors import ANCHOR_KINDS
from polychron.errors import InputError
from polychron.models.config import ModelConfig
from polychron.models.language_model import LanguageModel, TokenEmbedding
from polychron.models.layers import make_readout, make_recurrent
from polychron.nn import RowLayer, VariantLayer

# Positions scored one after another, and how many such stretches at once.
SCORE_STRETCH = 1 << 8
SCORE_BATCH = 1 << 8


@dataclass(frozen=True)
class RecurrentConfig(ModelConfig):
    """Sizes of a :class:`RecurrentLM`.

    Attributes:
        context: positions of a training window, which begins with all latencies 0; also the warm-up before a stretch of
            text that is scored.
        n_neurons: neurons in the latency vector.
        n_tables: tables of the recurrent layer.
        n_comparisons: anchor pairs a table.
        readout_n_tables: tables of the readout.
        readout_n_comparisons: anchor pairs a table of the readout.
        truncation: backpropagation through time ends after so many positions; None: at the window's start.
        anchors: ``"random"``, ``"covering"`` or ``"independent"``.
    """

    kind: ClassVar[str] = "recurrent"
    context: int = 32
    n_neurons: int = 64
    n_tables: int = 64
    n_comparisons: int = 10
    readout_n_tables: int = 16
    readout_n_comparisons: int = 8
    truncation: int | None = None
    anchors: str = "random"

    def __post_init__(self) -> None:
        self.check_counts(
            vocabulary_size=1, context=1, n_neurons=2, n_tables=1, n_comparisons=1, readout_n_tables=1,
            readout_n_comparisons=1,
        )  # fmt: skip
        if self.truncation is not None:
            self.check_counts(truncation=1)
        self.check_variant()
        if self.reading == "confidence":
            raise InputError(
                "reading confidence scales what is read by the latencies, which a recurrent network then reads again: "
                "they grow without bound; take hard or soft"
            )
        self.check_choice("anchors", ANCHOR_KINDS)
        self.check_row_bits("n_comparisons", self.n_comparisons)
        self.check_row_bits("readout_n_comparisons", self.readout_n_comparisons)
        self.check_parameters()

    @property
    def n_layers(self) -> int:
        """Layers besides the readout."""
        return 1

    def n_parameters(self) -> int:
        """Numbers in the tables and the embedding."""
        recurrent = self.n_tables * self.n_rows(self.n_comparisons) * self.n_neurons
        recurrent += self.n_trained_beside(self.n_tables, self.n_comparisons, self.n_neurons)
        readout = self.readout_n_tables * self.n_rows(self.readout_n_comparisons) * self.vocabulary_size
        readout += self.n_trained_beside(self.readout_n_tables, self.readout_n_comparisons, self.n_neurons)
        return recurrent + readout + self.vocabulary_size * self.n_neurons


class RecurrentLM(LanguageModel):
    r"""A language model whose state is one latency vector.

    .. math:: h_t = S_{h_{t-1}} + E[\mathrm{token}_t],\quad h_{-1} = 0,\quad \mathrm{logits}_t = U(h_t)

    Every position reads other rows, and the order of spikes ignores their scale: gradients neither vanish nor explode
    as they flow back through time.

    Args:
        config: sizes; :class:`RecurrentConfig`'s defaults are the paper's 5 M setting.
        seed: of the embedding and the anchors. The tables start at 0.

    Source: Spiking Manifesto, equation 11. The paper gives the readout's size, about a million, and not its division.

    Example:
        >>> config = RecurrentConfig(vocabulary_size=27, n_tables=4, n_comparisons=3, readout_n_comparisons=3)
        >>> RecurrentLM(config)(torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 5, 27])
    """

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig, seed: int = 0):
        super().__init__(config)
        seeds = torch.Generator().manual_seed(seed)
        draw = lambda: int(torch.randint(1 << 31, (), generator=seeds, device="cpu"))  # noqa: E731
        self.embedding = TokenEmbedding(config.vocabulary_size, config.n_neurons, draw())
        self.recurrent = make_recurrent(
            config, config.n_neurons, config.n_tables, config.n_comparisons, truncation=config.truncation,
            anchors=config.anchors, seed=draw(),
        )  # fmt: skip
        self.readout = make_readout(
            config, config.n_neurons, config.vocabulary_size, config.readout_n_tables, config.readout_n_comparisons,
            anchors=config.anchors, seed=draw(),
        )  # fmt: skip

    @property
    def context_length(self) -> int:
        """The training window; the state itself forgets nothing at a set time."""
        return self.config.context

    def layers_in_order(self) -> list[RowLayer | VariantLayer]:
        """The recurrent layer, then the readout."""
        return [self.recurrent, self.readout]

    def latencies(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) to the latencies (B, T, n_neurons) that the readout reads."""
        return self.recurrent(self.embedding(tokens))

    def start(self) -> Tensor | None:
        """No latencies yet: all are 0."""
        return None

    @torch.no_grad()
    def extend(self, tokens: Tensor, state: Tensor | None, *, last: bool = False) -> tuple[Tensor, Tensor]:
        """Logits of further tokens; the state is the last latency vector (B, n_neurons)."""
        h = self.recurrent(self.embedding(tokens), state)
        return self.readout(h[:, -1 if last else 0 :].contiguous()), h[:, -1].clone()

    @torch.no_grad()
    def score(self, tokens: Tensor, recalled: Tensor | None = None) -> Tensor:
        """Nats of tokens[1:]; stretches of the text are scored side by side, each after ``context`` positions."""
        n, context = len(tokens) - 1, self.config.context
        if n < 1:
            return torch.empty(0)
        n_stretches = max(0, n - context) // SCORE_STRETCH
        at = torch.arange(n_stretches)[:, None] * SCORE_STRETCH + torch.arange(context + SCORE_STRETCH + 1)
        first = self._score_windows(tokens[None, : context + 1])[0]
        body = [self._score_windows(tokens[some])[:, context:].flatten() for some in at.split(SCORE_BATCH)]
        scored = len(first) + n_stretches * SCORE_STRETCH
        rest = self._score_windows(tokens[None, scored - len(first) :])[0, len(first) :] if scored < n else first[:0]
        return torch.cat([first, *body, rest])

    def _score_windows(self, tokens: Tensor) -> Tensor:
        """Nats (B, T) of windows of T + 1 tokens."""
        return self.nats(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
