"""DelayLM: residual layers of delayed tables, then a readout. No attention: time is compared directly."""

# B sequence, T position, K vocabulary, D delay

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polychron.anchors import ANCHOR_KINDS, DELAY_DISTRIBUTIONS
from polychron.errors import InputError
from polychron.models.config import ModelConfig
from polychron.models.language_model import LanguageModel, TokenEmbedding
from polychron.models.layers import make_readout, make_tables
from polychron.nn import ContextTables, RowLayer, VariantLayer
from polychron.ops.contexts import CONTEXT_LENGTH, LISTS, MAX_DEPTH
from polychron.ops.recent import N_CELLS

# Positions scored in one go, and how many of those runs at once; bounds memory, not context.
SCORE_STRETCH = 1 << 12
SCORE_BATCH = 4


@dataclass(frozen=True)
class DelayConfig(ModelConfig):
    """Sizes of a :class:`DelayLM`.

    Attributes:
        n_neurons: neurons in the latency vector.
        n_layers: residual layers of delayed tables; 0 leaves the readout alone.
        n_tables: tables in a layer.
        n_comparisons: anchor pairs a table.
        max_delay: longest conduction delay of a layer, in bytes.
        delay_distribution: ``"geometric"`` or ``"uniform"``.
        anchors: ``"random"``, ``"covering"`` or ``"independent"``.
        readout_n_tables: tables of the readout.
        readout_n_comparisons: anchor pairs a table of the readout.
        readout_max_delay: longest delay of the readout.
        context_depth: bytes of the deepest contexts in the counted tables beside the readout, at most 7; 0: none.
        n_contexts: rows of the counted tables of each kind of contexts; nothing where there are none.
        n_context_entries: numbers in them.
        recent: whether tables that are written while a text is read go with the counted ones.
    """

    kind: ClassVar[str] = "delay"
    later_fields: ClassVar[tuple[str, ...]] = (
        *ModelConfig.later_fields, "context_depth", "n_contexts", "n_context_entries", "recent",
    )  # fmt: skip
    n_neurons: int = 32
    n_layers: int = 1
    n_tables: int = 64
    n_comparisons: int = 10
    max_delay: int = 7
    delay_distribution: str = "geometric"
    anchors: str = "random"
    readout_n_tables: int = 16
    readout_n_comparisons: int = 10
    readout_max_delay: int = 0
    context_depth: int = field(default=0, kw_only=True)
    n_contexts: tuple[int, ...] = field(default=(), kw_only=True)
    n_context_entries: tuple[int, ...] = field(default=(), kw_only=True)
    recent: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self.check_counts(
            vocabulary_size=1, n_neurons=2, n_layers=0, n_tables=1, n_comparisons=1, max_delay=0,
            readout_n_tables=1, readout_n_comparisons=1, readout_max_delay=0,
        )  # fmt: skip
        self.check_variant()
        self.check_choice("delay_distribution", DELAY_DISTRIBUTIONS)
        self.check_choice("anchors", ANCHOR_KINDS)
        self.check_row_bits("n_comparisons", self.n_comparisons)
        self.check_row_bits("readout_n_comparisons", self.readout_n_comparisons)
        self._check_contexts()
        self.check_parameters()

    def _check_contexts(self) -> None:
        if not _is_count(self.context_depth, 0, MAX_DEPTH):
            raise InputError(f"context_depth must be an integer in [0, {MAX_DEPTH}]; got {self.context_depth!r}")
        n_kinds, highest = len(LISTS) if self.context_depth else 0, (1 << 31) - 2
        for name in ("n_contexts", "n_context_entries"):
            given = getattr(self, name)
            counts = tuple(given) if isinstance(given, (list, tuple)) else (given,)  # JSON knows lists only
            if len(counts) != n_kinds or not all(_is_count(count, 1, highest) for count in counts):
                raise InputError(
                    f"{name} must be {n_kinds} integers in [1, {highest}] where context_depth is {self.context_depth}; "
                    f"got {given!r}"
                )
            object.__setattr__(self, name, counts)
        if not isinstance(self.recent, bool) or (self.recent and not self.context_depth):
            raise InputError(f"recent must be true or false, and false where context_depth is 0; got {self.recent!r}")
        if self.context_depth and self.vocabulary_size > 256:
            raise InputError(f"counted contexts know at most 256 symbols; vocabulary_size is {self.vocabulary_size}")

    def n_parameters(self) -> int:
        """Numbers in the tables, counted ones too, and the embedding."""
        layer = self.n_tables * self.n_rows(self.n_comparisons) * self.n_neurons
        layers = self.n_layers * (layer + self.n_trained_beside(self.n_tables, self.n_comparisons, self.n_neurons))
        readout = self.readout_n_tables * self.n_rows(self.readout_n_comparisons) * self.vocabulary_size
        readout += self.n_trained_beside(self.readout_n_tables, self.readout_n_comparisons, self.n_neurons)
        beside = sum(self.n_context_entries) + (N_CELLS if self.recent else 0)
        return layers + readout + self.vocabulary_size * self.n_neurons + beside

    def n_bytes(self) -> int:
        """Memory that these take, and what finds the counted ones: a byte an entry, a byte and two places a context."""
        return super().n_bytes() + sum(self.n_context_entries) + 9 * sum(self.n_contexts)


class DelayLM(LanguageModel):
    r"""A language model that compares when neurons fired, now and some bytes ago.

    .. math:: z^0_t = E[\mathrm{token}_t],\quad
              z^l_t = z^{l-1}_t + S^l(z^{l-1}_t, \dots, z^{l-1}_{t-D}),\quad
              \mathrm{logits}_t = U(z^L_t) + \sum_{i, k} R^i_k[\mathrm{context}^i_k]

    Each layer reads one row per table and byte, whatever the delays: as in polychronization, delays let spikes of
    different times arrive together. Before the text begins every latency is 0. R are tables of
    contexts (:class:`polychron.nn.ContextTables`), counted once a model is trained; a model has none before.

    Args:
        config: sizes.
        seed: of the embedding, anchors and delays. The tables start at 0.

    Example:
        >>> model = DelayLM(DelayConfig(vocabulary_size=27, n_tables=4, n_comparisons=3, readout_n_comparisons=3))
        >>> model(torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 5, 27])
    """

    config: DelayConfig

    def __init__(self, config: DelayConfig, seed: int = 0):
        super().__init__(config)
        seeds = torch.Generator().manual_seed(seed)
        draw = lambda: int(torch.randint(1 << 31, (), generator=seeds, device="cpu"))  # noqa: E731
        self.embedding = TokenEmbedding(config.vocabulary_size, config.n_neurons, draw())
        self.layers = nn.ModuleList(
            make_tables(
                config, config.n_neurons, config.n_neurons, config.n_tables, config.n_comparisons, config.max_delay,
                delay_distribution=config.delay_distribution, anchors=config.anchors, residual=True, seed=draw(),
            )
            for _ in range(config.n_layers)
        )  # fmt: skip
        self.readout = make_readout(
            config, config.n_neurons, config.vocabulary_size, config.readout_n_tables, config.readout_n_comparisons,
            config.readout_max_delay, delay_distribution=config.delay_distribution, anchors=config.anchors,
            seed=draw(),
        )  # fmt: skip
        if config.context_depth:
            self.contexts = ContextTables(
                config.context_depth, config.vocabulary_size, config.n_contexts, config.n_context_entries, config.recent
            )

    def set_contexts(self, contexts: ContextTables | None) -> None:
        """Read these counted tables beside the readout from now on; None: none. The configuration follows."""
        self.contexts = contexts
        sizes: dict[str, Any] = {"context_depth": 0, "n_contexts": (), "n_context_entries": (), "recent": False}
        if contexts is not None:
            sizes = {
                "context_depth": contexts.depth,
                "n_contexts": contexts.n_contexts,
                "n_context_entries": contexts.n_entries,
                "recent": contexts.recent is not None,
            }
        self.config = replace(self.config, **sizes)

    @property
    def context_length(self) -> int:
        """The current byte and as many before it as the delays of all layers, or words, reach."""
        by_delays = self.config.n_layers * self.config.max_delay + self.config.readout_max_delay + 1
        return max(by_delays, CONTEXT_LENGTH) if self.config.context_depth else by_delays

    def layers_in_order(self) -> list[RowLayer | VariantLayer]:
        """The layers, then the readout."""
        return [*self.layers, self.readout]

    def latencies(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) to the latencies (B, T, n_neurons) that the readout reads."""
        z = self.embedding(tokens)
        for layer in self.layers:
            z = layer(z)
        return z

    def start(self) -> list[Tensor | None]:
        """No latencies yet, for each layer and the readout, and no bytes for the counted contexts."""
        return [None] * (self.config.n_layers + 2)

    @torch.no_grad()
    def extend(
        self, tokens: Tensor, state: list[Tensor | None], *, last: bool = False
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Logits of further tokens; the state holds each layer's last max_delay latencies, and the contexts'."""
        z = self.embedding(tokens)
        kept = []
        *histories, of_readout, before = state
        for layer, history in zip(self.layers, histories, strict=True):
            kept.append(_last(history, z, layer.max_delay))
            z = layer(z, history)
        kept.append(_last(of_readout, z, self.readout.max_delay))
        logits = self.readout(z, of_readout)
        if self.contexts is not None:
            counted, before = self.contexts.extend(tokens, before)
            logits = logits + counted
        kept.append(before)
        return logits[:, -1 if last else 0 :], kept

    def recall(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Of models with recent tables what these know, see :meth:`polychron.nn.ContextTables.recall`."""
        if not self.config.recent:
            return None, None
        found, state = self.contexts.recall(tokens[None], state)
        return found[0], state

    @torch.no_grad()
    def score(self, tokens: Tensor, recalled: Tensor | None = None) -> Tensor:
        """Nats of tokens[1:]; stretches of the text begin within each other's context and are scored side by side."""
        if recalled is None:
            recalled, _ = self.recall(tokens[:-1], None)
        n, context = len(tokens) - 1, self.context_length - 1
        starts = range(0, max(0, n - context) // SCORE_STRETCH * SCORE_STRETCH, SCORE_STRETCH)
        first = [self._score_at(tokens, recalled, [0], context)[0]] if starts else []
        body = [
            self._score_at(tokens, recalled, starts[k : k + SCORE_BATCH], context + SCORE_STRETCH)[
                :, context:
            ].flatten()
            for k in range(0, len(starts), SCORE_BATCH)
        ]
        scored = len(starts) * SCORE_STRETCH  # of the positions from `context` on
        last = self._score_at(tokens, recalled, [scored], n - scored)[0, context if starts else 0 :]
        return torch.cat([*first, *body, last])

    def _score_at(self, tokens: Tensor, recalled: Tensor | None, starts: Sequence[int], T: int) -> Tensor:
        """Nats (B, T) of windows of a text that begin there."""
        windows = torch.stack([tokens[start : start + T + 1] for start in starts])
        found = None if recalled is None else torch.stack([recalled[start : start + T] for start in starts])
        return self.nats(windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), found)


def _is_count(value: object, lowest: int, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def _last(history: Tensor | None, z: Tensor, n_kept: int) -> Tensor | None:
    """The last ``n_kept`` positions of the history and z together."""
    if n_kept == 0:
        return None
    together = z if history is None else torch.cat([history, z], dim=1)
    return together[:, -n_kept:].contiguous()
