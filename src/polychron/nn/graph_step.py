"""A training step on a GPU as one CUDA graph: the kernels of autograd's way, started by one call, not by hundreds."""

# B sequence, T position

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from polychron.nn.chain import stamp_of
from polychron.nn.lookup_tables import LookupTables, Readout
from polychron.nn.pair_attention import PairAttention
from polychron.nn.recurrent_tables import RecurrentTables
from polychron.nn.row_layer import RowLayer
from polychron.ops.dispatch import runs_triton

# Longer delays are scattered by operations that wait for the GPU, which a graph cannot.
_LONGEST_DELAY = 63


class GraphStep:
    """Records ``loss(tokens, targets).backward()`` once, and repeats it with other tokens, rates and tables left out.

    The same kernels run in the same order as without it: tables and losses are the same bits. A step of a
    small network takes the GPU less time than Python takes to start its kernels one by one.

    A step must have run before: Triton compiles what it has not met, and waits, which a recording must not.

    Args:
        loss: of tokens and targets, both (B, T) int64 on the layers' device: a 0-dim tensor.
        embedding: of the tokens, (V, n); not trained.
        layers: those that learn; the last is the readout.
        shape: (B, T).

    Raises:
        RuntimeError: CUDA could not record it.
    """

    def __init__(
        self, loss: Callable[[Tensor, Tensor], Tensor], embedding: Tensor, layers: Sequence[RowLayer], shape: torch.Size
    ):
        device = embedding.device
        self._layers = list(layers)
        self._key = _key(embedding, layers, shape)
        self._held = [layer.update for layer in layers]  # or an address could come to mean another one
        self._tokens, self._targets = torch.zeros((2, *shape), dtype=torch.int64, device=device)
        self._rate = torch.zeros((), device=device)
        self._kept = [None if kept is None else kept.to(device, torch.int64) for kept in _draw(layers, keep_state=True)]
        codes = [layer.position_code for layer in layers if isinstance(layer, PairAttention)]
        for code in codes:
            code.grad = None
        self._seeds = torch.zeros(len(layers), dtype=torch.int64, device=device)
        for layer, kept, seed in zip(layers, self._kept, self._seeds, strict=True):
            layer.given_step = (kept,)
            layer.update.device_rate, layer.update.device_seed = self._rate, seed
        try:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.device(device), torch.cuda.graph(self._graph):
                self._loss = loss(self._tokens, self._targets)
                self._loss.backward()
        finally:
            for layer in layers:
                layer.given_step = layer.update.device_rate = layer.update.device_seed = None
        self._codes = [(code, code.grad) for code in codes]

    def fits(self, embedding: Tensor, layers: Sequence[RowLayer], shape: torch.Size) -> bool:
        """Whether what was recorded is still what these layers would do."""
        return self._key == _key(embedding, layers, shape)

    def train(self, tokens: Tensor, targets: Tensor) -> float:
        """One step on tokens (B, T) int64 and their targets (B, T): the tables change; returns the sum of nats.

        Position codes get their ``grad``.

        Tokens and targets must be in range: the graph does not look.
        """
        self._tokens.copy_(tokens)
        self._targets.copy_(targets)
        self._rate.fill_(self._layers[-1].update.rate)
        for held, kept in zip(self._kept, _draw(self._layers), strict=True):
            if held is not None:
                held.copy_(kept)
        self._seeds.copy_(torch.tensor([layer.update.seed for layer in self._layers]))
        self._graph.replay()
        for code, gradient in self._codes:
            code.grad = gradient
        return self._loss.item()


def _draw(layers: Sequence[RowLayer], *, keep_state: bool = False) -> list[Tensor | None]:
    """What chance decides of a step, in the order in which the layers ask; or the like of it, for its sizes."""
    state = torch.get_rng_state() if keep_state else None
    drawn = [layer.draw_step() for layer in layers]
    if state is not None:
        torch.set_rng_state(state)
    return drawn


def _key(embedding: Tensor, layers: Sequence[RowLayer], shape: torch.Size) -> list[object]:
    """Changes when anything does that a recording does not read anew."""
    return [shape, [layer.training for layer in layers], *stamp_of(embedding, layers, trains=True)]


def can_graph(embedding: Tensor, layers: Sequence[RowLayer], shape: torch.Size) -> bool:
    """Whether a :class:`GraphStep` can do these layers' step: on a GPU, Triton's kernels alone, one rate for all."""
    if not (embedding.is_cuda and runs_triton(embedding)) or type(layers[-1]) is not Readout or min(shape) < 2:
        return False
    rate = layers[-1].update and layers[-1].update.shared_rate
    return all(
        type(layer) in (LookupTables, Readout, PairAttention, RecurrentTables)
        and layer.gradient == "fused"
        and layer.update.kind != "online_sgd"
        and layer.update.shared_rate is rate
        and getattr(layer, "max_delay", 0) <= _LONGEST_DELAY
        and all(parameter.requires_grad for parameter in layer.parameters())
        for layer in layers
    )
