"""A network of tables as one native object: a training step, or scoring, in one call."""

# B sequence, T position

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from polychron.nn.lookup_tables import LookupTables, Readout
from polychron.nn.pair_attention import PairAttention
from polychron.nn.row_layer import RowLayer
from polychron.ops import RowUpdate
from polychron.ops.dispatch import native, reads_native, runs_native
from polychron.ops.lookup.native import rows_view, update_numbers, view
from polychron.ops.row_layout import has_even_rows


class Chain:
    r"""Token embedding, layers of tables, readout with cross-entropy: what autograd would do, without it.

    .. math:: z^0 = E[\mathrm{token}],\quad z^l = [z^{l-1} +] S^l(z^{l-1}),\quad
              \ell = -\log\mathrm{softmax}(U(z^L))[\mathrm{target}]

    The same kernels run in the same order as layer by layer: tables, states and losses are the same bits. What is
    saved is everything between the kernels, and the latencies' way to memory and back: a part of the batch goes
    through all layers while it is in the cache.

    The chain points into the layers' memory. :meth:`fits` says whether it still does: not after a parameter was
    replaced, moved to another type or device, anchors or delays written to, or another kernel chosen.

    Args:
        embedding: latencies of each token, (V, n) float32; not trained.
        layers: :class:`LookupTables` and :class:`PairAttention`, each from n to n neurons, not of classes derived from
            these; the last is the readout.
        trains: for :meth:`train`: every layer has gradient="fused", no frozen parameter, and they share kind, rate,
            epsilon, betas and cap of the update.

    Raises:
        ValueError: layers that do not fit together; the message says how.

    Example:
        >>> from polychron.nn import LookupTables, Readout
        >>> layers = [LookupTables(8, 8, 4, 3, residual=True), Readout(8, 5, 4, 3)]
        >>> chain = Chain(torch.randn(5, 8), layers, trains=False)
        >>> chain.score(torch.tensor([[0, 1, 2]]), torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3])
    """

    def __init__(self, embedding: Tensor, layers: Sequence[RowLayer], *, trains: bool):
        wrong = _misfit(embedding, layers, trains)
        if wrong is not None:
            raise ValueError(wrong)
        self._update = layers[-1].update if trains else None
        self._layers = list(layers)
        self._steps_differ = trains and any(
            (layer.drops_tables and layer.update.leaves_out)
            or layer.update.rate_factor != 1
            or layer.synaptic_vectors.dtype == torch.bfloat16
            for layer in layers
        )
        self._rate_factors = [layer.update.rate_factor for layer in layers] if self._steps_differ else []
        self._codes = [layer.position_code for layer in layers if isinstance(layer, PairAttention)]
        self._code_gradients = [torch.zeros_like(code) for code in self._codes]
        self._trains = trains
        self._stamp = stamp_of(embedding, layers, trains)
        self._updates = [layer.update for layer in layers]  # kept, or an address could come to mean another one
        self._chain = native.Chain(view(embedding))
        code_gradients = iter(self._code_gradients)
        for layer in layers:
            state = None
            if trains:
                layer.update.prepare(layer.synaptic_vectors)
                state = update_numbers(layer.update)[-1]
            if isinstance(layer, PairAttention):
                self._chain.add_attention(
                    rows_view(layer.synaptic_vectors), view(layer.anchors), view(layer.key_anchors),
                    view(layer.position_code), view(next(code_gradients)), layer.window,
                    layer.position_gradient == "nearest", layer.residual, state,
                )  # fmt: skip
            else:
                self._chain.add_tables(
                    rows_view(layer.synaptic_vectors), view(layer.anchors), view(layer.delays), layer.residual, state
                )

    def fits(self, embedding: Tensor, layers: Sequence[RowLayer]) -> bool:
        """Whether the chain still points to what these layers hold, and may run where it could when it was made."""
        return (
            layers == self._layers
            and runs_native(embedding)
            and self._stamp == stamp_of(embedding, layers, self._trains)
        )

    def train(self, tokens: Tensor, targets: Tensor, base: Tensor | None = None) -> float:
        """One step on tokens (B, T) int64 and their targets (B, T): the tables change; returns the sum of nats.

        ``base`` (B, T, K) float32 is added to the readout's logits. Position codes get their ``grad``.

        Raises:
            ValueError: a token, target or shape out of range.
        """
        _, epsilon, betas, visit_cap, _, _ = update_numbers(self._update)
        kept = [layer.draw_step() for layer in self._layers] if self._steps_differ else []
        seeds = [layer.update.seed for layer in self._layers] if self._steps_differ else []
        nats = self._chain.train(
            view(tokens),
            view(targets),
            self._update.kind,
            self._update.rate,
            epsilon,
            betas,
            visit_cap,
            seeds,
            [view(tables) for tables in kept],
            self._rate_factors,
            view(base),
            torch.get_num_threads(),
        )
        for code, gradient in zip(self._codes, self._code_gradients, strict=True):
            code.grad = gradient
        return nats

    def score(self, tokens: Tensor, targets: Tensor, base: Tensor | None = None) -> Tensor:
        """Nats (B, T) of targets (B, T) int64 after tokens (B, T), with ``base`` as in training; nothing changes.

        Raises:
            ValueError: a token, target or shape out of range.
        """
        nats = np.empty(tuple(tokens.shape), dtype=np.float32)
        self._chain.score(view(tokens), view(targets), nats, view(base), torch.get_num_threads())
        return torch.from_numpy(nats)


def stamp_of(embedding: Tensor, layers: Sequence[RowLayer], trains: bool) -> list[object]:
    """Changes when :func:`can_chain`, or what a chain points to, may have; made before every step."""
    stamp: list[object] = [embedding.data_ptr()]
    for layer in layers:
        held = layer.__dict__
        for parameter in held["_parameters"].values():
            if parameter is not None:
                stamp += parameter.data_ptr(), parameter.requires_grad
        buffers = [buffer for buffer in held["_buffers"].values() if buffer is not None]
        stamp += [buffer.data_ptr() for buffer in buffers]
        try:  # anchors and delays are laid out once
            stamp += [buffer._version for buffer in buffers]
        except RuntimeError:  # an inference tensor does not say when it changes: a new object is like no other
            stamp.append(object())
        if trains:
            update = held["update"]
            stamp += held["gradient"], id(update)
            if update is not None:
                stamp += (
                    update.kind,
                    update.epsilon,
                    update.betas,
                    update.visit_cap,
                    update.drop,
                    update.members,
                    update.rate_factor,
                    id(update.shared_rate),
                )
    return stamp


def can_chain(embedding: Tensor, layers: Sequence[RowLayer], *, trains: bool) -> bool:
    """Whether a :class:`Chain` can run these layers here: native kernels, plain layers, one update for all."""
    return (
        runs_native(embedding)
        and _misfit(embedding, layers, trains) is None
        and all(reads_native(layer.synaptic_vectors) for layer in layers)
    )


def _misfit(embedding: Tensor, layers: Sequence[RowLayer], trains: bool) -> str | None:
    """Why these layers do not make a chain; None: they may."""
    if not layers or type(layers[-1]) is not Readout:
        return f"layers must end in a Readout; got {type(layers[-1]).__name__ if layers else 'none'}"
    for at, layer in enumerate(layers):
        if type(layer) not in (LookupTables, Readout, PairAttention):
            return f"layers must be LookupTables or PairAttention, then a Readout; got {type(layer).__name__} at {at}"
        if embedding.dim() != 2 or layer.n_inputs != embedding.shape[1]:
            return (
                f"layers must read the embedding's neurons (V, n); got one of n_inputs = {layer.n_inputs} at {at} and "
                f"an embedding of shape {tuple(embedding.shape)}"
            )
        if not has_even_rows(layer.synaptic_vectors):
            return (
                "layers must have tables of contiguous, evenly spaced rows: they are read and changed in place; got "
                f"strides {layer.synaptic_vectors.stride()} at {at}"
            )
        if trains and not _shares(layer, layers[-1].update):
            return (
                "layers must have gradient='fused', nothing frozen, and share kind, rate, epsilon, betas and cap of "
                f"the update to be trained; got gradient={layer.gradient!r} and {layer.update} at {at}, "
                f"{layers[-1].update} in the readout. Were they attached to one optimizer?"
            )
    return None


def _shares(layer: RowLayer, update: RowUpdate | None) -> bool:
    own = layer.update
    return (
        layer.gradient == "fused"
        and update is not None
        and all(p.requires_grad for p in layer.__dict__["_parameters"].values())
        and (own.kind, own.epsilon, own.betas, own.visit_cap)
        == (update.kind, update.epsilon, update.betas, update.visit_cap)
        and own.shared_rate is update.shared_rate
    )
