"""What the training loop, the runtime and the command line need of a language model."""

# B sequence, T position, K vocabulary

from __future__ import annotations

import torch
from torch import Tensor, nn

from polychron.models.config import ModelConfig
from polychron.nn import (
    Chain,
    ContextTables,
    GraphStep,
    LookupTables,
    PairAttention,
    Readout,
    VariantLayer,
    VariantReadout,
)
from polychron.nn.chain import can_chain
from polychron.nn.evaluated import evaluated
from polychron.nn.graph_step import can_graph
from polychron.nn.row_layer import RowLayer, anchors_in_range
from polychron.ops.lookup.operators import read_one_table


class TokenEmbedding(nn.Module):
    """Latencies of the input neurons for each token: uniform in [-1, 1], never trained.

    Example:
        >>> TokenEmbedding(vocabulary_size=10, n_neurons=4, seed=0)(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 4])
    """

    def __init__(self, vocabulary_size: int, n_neurons: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = (vocabulary_size, n_neurons)
        drawn = torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")
        self.register_buffer("latencies", drawn * 2 - 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) int64 to latencies (B, T, n_neurons)."""
        if torch.compiler.is_compiling():
            return nn.functional.embedding(tokens, self.latencies)
        return read_one_table(self.latencies, tokens)


class LanguageModel(nn.Module):
    """Base of the language models: from token ids to logits of the next token.

    A model gives its latencies (:meth:`latencies`), how to go on from a remembered state (:meth:`advance`), and how
    much context a prediction can use; loss, scoring and logits are the same for all.

    Attributes:
        contexts: counted tables whose sum is added to the readout's logits, or None.
    """

    embedding: TokenEmbedding
    readout: Readout | VariantReadout
    contexts: ContextTables | None

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.contexts = None
        self._chains: dict[bool, Chain] = {}
        self._graph: GraphStep | None = None
        self._graph_shape: torch.Size | None = None

    def layers_in_order(self) -> list[RowLayer | VariantLayer]:
        """The layers as latencies pass through them, the readout last."""
        raise NotImplementedError

    @property
    def context_length(self) -> int:
        """Bytes of context that a prediction can use at most."""
        raise NotImplementedError

    def latencies(self, tokens: Tensor) -> Tensor:
        """The latencies that the readout reads: tokens (B, T) int64 to (B, T, n_neurons)."""
        raise NotImplementedError

    def start(self) -> object:
        """The state before the first token, for :meth:`extend` and :meth:`advance`."""
        raise NotImplementedError

    def extend(self, tokens: Tensor, state: object, *, last: bool = False) -> tuple[Tensor, object]:
        """Logits (B, T, K) after each of the tokens (B, T), T >= 1, which follow those that made ``state``; new state.

        The state does not grow with the text. With ``last`` only the last position's logits, (B, 1, K). Nothing is
        differentiated.
        """
        raise NotImplementedError

    def advance(self, tokens: Tensor, state: object) -> tuple[Tensor, object]:
        """The same for one text: logits (K,) after the last of the tokens (T,); new state."""
        logits, state = self.extend(tokens[None], state, last=True)
        return logits[0, 0], state

    def score(self, tokens: Tensor, recalled: Tensor | None = None) -> Tensor:
        """Nats of tokens[1:], each predicted with as much context as the model can use: (N,) int64 to (N - 1,).

        ``recalled`` (N - 1, ...): of a text that did not begin here, what :meth:`recall` gave for tokens[:-1].
        """
        raise NotImplementedError

    def recall(self, tokens: Tensor, state: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What a model remembers of a text beyond ``context_length``.

        For each of the tokens (T,), which follow those that made ``state``, None: none: (T, ...), in a form of the
        model's own; new state. None and None of a model that remembers no more.
        """
        return None, None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.embedding.latencies.device

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at each position: (B, T) int64 to (B, T, K)."""
        logits = self.readout(self.latencies(tokens))
        return logits if self.contexts is None else logits + self.contexts(tokens)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Sum over all positions of the nats of ``targets`` (B, T) after ``tokens`` (B, T): a 0-dim tensor."""
        return self._nats(tokens, targets, self._base(tokens, None)).sum()

    def train_step(
        self, tokens: Tensor, targets: Tensor, base: Tensor | None = None, *, recalled: Tensor | None = None
    ) -> float:
        """``loss(tokens, targets).backward()`` of a model with an optimizer attached; returns the loss.

        ``base`` (B, T, K) float32: added to the readout's logits, in place of what contexts of the model's own would
        add. ``recalled`` (B, T, ...): see :meth:`nats`.

        Where native kernels run it is one call to them (:class:`polychron.nn.Chain`), on a GPU one CUDA graph
        (:class:`polychron.nn.GraphStep`), with the same result. Tokens may lie on another device than the model.
        """
        if base is None:
            base = self._base(tokens, recalled)
        chain = self._chain(trains=True)
        if chain is not None:
            return chain.train(tokens, targets, base)
        self._check_range(tokens, targets)
        graph = self._graph_step(tokens.shape) if base is None else None
        if graph is not None:
            return graph.train(tokens, targets)
        loss = self._nats(tokens.to(self.device), targets.to(self.device), base).sum()
        loss.backward()
        return loss.item()

    @torch.no_grad()
    def nats(self, tokens: Tensor, targets: Tensor, recalled: Tensor | None = None) -> Tensor:
        """Nats of ``targets`` (B, T) after ``tokens`` (B, T), position by position; nothing is differentiated.

        All tables are read, in training mode too, and nothing is drawn. On the device of ``tokens``, wherever the model
        is. ``recalled`` (B, T, ...): what :meth:`recall` gave of texts that did not begin here; None: they did.
        """
        chain = self._chain(trains=False)
        if chain is not None:
            return chain.score(tokens, targets, self._base(tokens, recalled))
        self._check_range(tokens, targets)
        with evaluated(self):
            base = self._base(tokens, recalled)
            return self._nats(tokens.to(self.device), targets.to(self.device), base).to(tokens.device)

    def _nats(self, tokens: Tensor, targets: Tensor, base: Tensor | None) -> Tensor:
        if base is None:
            return self.readout.loss(self.latencies(tokens), targets)
        logits = self.readout(self.latencies(tokens)) + base.to(self.device)
        return nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")

    def _base(self, tokens: Tensor, recalled: Tensor | None) -> Tensor | None:
        """What is added to the readout's logits."""
        if self.contexts is None:
            return None
        if recalled is None:
            return self.contexts(tokens)
        return self.contexts.counted(tokens, recalled)

    def _check_range(self, tokens: Tensor, targets: Tensor) -> None:
        """Of a model on a GPU, which would read whatever lies there. Cheap while tokens are still on the CPU."""
        if self.device.type != "cpu" and tokens.numel():
            sizes = len(self.embedding.latencies), self.config.vocabulary_size
            for name, ids, size in zip(("tokens", "targets"), (tokens, targets), sizes, strict=True):
                lowest, highest = (int(end) for end in ids.aminmax())
                if lowest < 0 or highest >= size:
                    raise ValueError(f"{name} must lie in [0, {size}); got {lowest if lowest < 0 else highest}")

    def _chain(self, *, trains: bool) -> Chain | None:
        """The model as one native object, made anew when its memory has changed; None where it cannot be."""
        layers = self.layers_in_order()
        embedding = self.embedding.latencies
        chain = self._chains.get(trains)
        if chain is not None and chain.fits(embedding, layers):
            return chain
        if not can_chain(embedding, layers, trains=trains):
            return None
        chain = self._chains[trains] = Chain(embedding, layers, trains=trains)
        return chain

    def _graph_step(self, shape: torch.Size) -> GraphStep | None:
        """The step as one CUDA graph, from the second one of its shape on; None where it cannot be."""
        layers, embedding = self.layers_in_order(), self.embedding.latencies
        if not embedding.is_cuda or self.contexts is not None or not can_graph(embedding, layers, shape):
            return None
        if self._graph is not None and self._graph.fits(embedding, layers, shape):
            return self._graph
        self._graph = None
        if self._graph_shape != shape:
            self._graph_shape = shape
            return None
        self._graph = GraphStep(self.loss, embedding, layers, shape)
        return self._graph

    def __getstate__(self) -> dict[str, object]:
        """Everything but what points into this model's memory."""
        return {**self.__dict__, "_chains": {}, "_graph": None}

    def n_parameters(self) -> int:
        """Numbers in the tables, embeddings and position codes."""
        return self.config.n_parameters()

    def check(self) -> None:
        """Raises ValueError when anchors or delays, as loaded from a file, do not fit the model."""
        for name, layer in self.named_modules():
            if isinstance(layer, (LookupTables, PairAttention, VariantLayer)):
                for kind in ("anchors", "key_anchors"):
                    anchors = getattr(layer, kind, None)
                    if anchors is not None and not anchors_in_range(anchors, layer.n_inputs):
                        raise ValueError(f"{name}.{kind} must be pairs of different neurons in [0, {layer.n_inputs})")
            delays = getattr(layer, "delays", None)
            if delays is not None and not bool(((delays >= 0) & (delays <= layer.max_delay)).all()):
                raise ValueError(f"{name}.delays must lie in [0, {layer.max_delay}]")
        if self.contexts is not None:
            self.contexts.check()
