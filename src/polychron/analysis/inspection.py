"""Watching a model read: every layer's comparisons and rows on a text or on examples."""

# B sequence, T position, I table, R comparison, J row, D distance

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from polychron.analysis.usage import U_EDGES, LayerUsage, explained_by
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.models.language_model import LanguageModel
from polychron.nn import LookupTables, PairAttention, Readout, RecurrentTables, RowLayer, VariantTables
from polychron.nn.evaluated import evaluated
from polychron.nn.fixed_rows import fixed_rows
from polychron.ops.lookup.reference import comparisons
from polychron.ops.pair_lookup.reference import hash_code

_COMPARISONS_AT_ONCE = 1 << 22
_BYTES_OF_A_COMPARISON = 64  # while it is counted


def as_the_papers_layers(model: nn.Module) -> nn.Module:
    """A model trained with another gradient of the hard reading, as one of the paper's layers: the same function.

    Any other model is returned as it is.

    Args:
        model: with a ``config``.

    Example:
        >>> from polychron.models import DelayConfig, DelayLM
        >>> trained = DelayLM(DelayConfig(vocabulary_size=5, n_tables=2, n_comparisons=3, gradient="all"))
        >>> type(trained.layers[0]).__name__, type(as_the_papers_layers(trained).layers[0]).__name__
        ('VariantTables', 'LookupTables')
    """
    config = model.config
    if config.is_native or not config.reads_by_order:
        return model
    ordinary = type(model)(replace(config, gradient="nearest"))
    contexts = getattr(model, "contexts", None)
    if contexts is not None:
        ordinary.set_contexts(contexts)
    ordinary.load_state_dict(model.state_dict())
    return ordinary


def inspect_model(model: nn.Module, inputs: Tensor) -> list[LayerUsage]:
    """How the tables of a trained model are used on these inputs, layer by layer, the readout last.

    Args:
        model: a language model or a :class:`polychron.models.deep.DeepClassifier`; it is not changed.
        inputs: what it reads: tokens (B, T) int64, or brightness (B, n_pixels).

    Raises:
        InputError: a layer that does not compare by order, or no memory for the counts or for so many inputs.

    Example:
        >>> from polychron.models import DelayConfig, DelayLM
        >>> model = DelayLM(DelayConfig(vocabulary_size=5, n_tables=2, n_comparisons=3, readout_n_comparisons=3))
        >>> [usage.name for usage in inspect_model(model, torch.zeros(1, 9, dtype=torch.int64))]
        ['layer 0', 'readout']
    """
    names = name_layers(model)
    require_memory(
        sum(8 * layer.n_tables * layer.synaptic_vectors.shape[1] for layer in names),
        "the counts of rows read",
        "inspect a smaller model",
    )
    n = len(inputs) if inputs.is_floating_point() else inputs.numel()
    require_memory(
        max(_bytes_watched(layer, n) for layer in names),
        f"a layer's readings of {n:,} inputs",
        "read fewer (--bytes), or close other programs",
    )
    usages = []

    def watch(layer: RowLayer, x: Tensor) -> None:
        observe = _observe_attention if isinstance(layer, PairAttention) else _observe_tables
        usages.append(observe(names[layer], layer, x))

    _watched(model, inputs, watch)
    return usages


def _bytes_watched(layer: RowLayer, n: int) -> int:
    """Memory for n positions that a layer reads and that are watched: what it keeps of each, and of those at work.

    Measured, of all kinds of layers, and up to double of it.
    """
    latencies = 4 * (2 * layer.n_inputs + layer.n_outputs)
    rows = (64 if isinstance(layer, PairAttention) else 12) * layer.n_tables
    at_once = min(_COMPARISONS_AT_ONCE, n * layer.n_tables * layer.n_comparisons)
    return n * (latencies + rows + 64) + at_once * _BYTES_OF_A_COMPARISON


def compared_latencies(model: nn.Module, inputs: Tensor) -> list[tuple[str, Tensor]]:
    """The latencies (B, T, n) that each layer compares, with its name."""
    names = name_layers(model)
    seen = []
    _watched(model, inputs, lambda layer, x: seen.append((names[layer], x.clone())))
    return seen


def name_layers(model: nn.Module) -> dict[RowLayer, str]:
    """Names of a model's layers: "layer 0", "attention 0", "FFN 0", "recurrent", "readout".

    Raises:
        InputError: a layer that does not compare by order.
    """
    has_attention = any(isinstance(module, PairAttention) for module in model.modules())
    names: dict[RowLayer, str] = {}
    counts = {"attention": 0, "FFN": 0, "layer": 0}
    for path, layer in model.named_modules():
        if not isinstance(layer, (RowLayer, VariantTables)):
            continue
        if type(layer) not in (LookupTables, Readout, RecurrentTables, PairAttention):
            raise InputError(
                f"only hash order and reading hard can be inspected; {path} has {layer.hash} and {layer.reading}"
            )
        if isinstance(layer, (Readout, RecurrentTables)):
            names[layer] = "readout" if isinstance(layer, Readout) else "recurrent"
            continue
        kind = "attention" if isinstance(layer, PairAttention) else "FFN" if has_attention else "layer"
        names[layer] = f"{kind} {counts[kind]}"
        counts[kind] += 1
    return names


@contextmanager
def _hooks(layers: list[RowLayer], hook: Callable) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _watched(model: nn.Module, inputs: Tensor, watch: Callable[[RowLayer, Tensor], None]) -> None:
    """Runs the model and shows ``watch`` each layer with the latencies (B, T, n) that it compares."""

    def hook(layer: RowLayer, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        x = arguments[0]
        if isinstance(layer, RecurrentTables):  # it compares its own output of the position before
            x = torch.cat([torch.zeros_like(output[:, :1]), output[:, :-1]], dim=1)
        watch(layer, x if x.dim() == 3 else x[:, None])

    layers = [module for module in model.modules() if isinstance(module, RowLayer)]
    with evaluated(model), _hooks(layers, hook), fixed_rows(layers):
        if isinstance(model, LanguageModel):  # without counted contexts, which are none of the layers
            model.readout(model.latencies(inputs))
        else:
            model(inputs)


class _Count:
    """Rows and |u| of a layer, added up piece by piece."""

    def __init__(self, n_tables: int, n_rows: int):
        self.visits = np.zeros((n_tables, n_rows), dtype=np.int64)
        self.u = np.zeros(len(U_EDGES) + 1, dtype=np.int64)
        self.n_ties = 0
        self._weights = np.random.default_rng(0).integers(1 << 63, size=(2, n_tables), dtype=np.uint64) << 1 | 1
        self._states: list[np.ndarray] = []

    def add_states(self, row: np.ndarray) -> None:
        """Tuples of rows (I, readings), each kept as two sums of 64 bits, which no two share but by a miracle."""
        self._states.append((self._weights @ row.astype(np.uint64)).T)

    def add_rows(self, row: np.ndarray) -> None:
        """Rows (I, readings)."""
        for visits, rows in zip(self.visits, row, strict=True):
            visits += np.bincount(rows, minlength=len(visits))

    def add_u(self, u: Tensor) -> None:
        """Comparisons of any shape."""
        size = u.abs().flatten().numpy()
        self.n_ties += int((size == 0).sum())
        self.u += np.bincount(np.searchsorted(U_EDGES, size, side="right"), minlength=len(self.u))

    def usage(self, name: str, layer: RowLayer, bits: tuple[str, ...], n_equal: int) -> LayerUsage:
        tables = layer.synaptic_vectors.detach().float().numpy()
        explained = np.stack([explained_by(*pair) for pair in zip(self.visits, tables, strict=True)])
        n_states = len(np.unique(np.concatenate(self._states), axis=0)) if self._states else None
        return LayerUsage(name, self.visits, bits, explained, n_equal, self.u, self.n_ties, n_states)


def _pieces(x: Tensor, anchors: Tensor, delays: Tensor | None) -> Iterator[Tensor]:
    """u (I, R, B, T) of all positions, a piece at a time."""
    B, T, _ = x.shape
    n_past = 0 if delays is None else int(delays.max())
    at_once = max(1, _COMPARISONS_AT_ONCE // (anchors.shape[0] * anchors.shape[1]))
    if at_once >= B * (T + n_past) or n_past + 1 >= T:
        for some in x.split(max(1, at_once // T)):
            yield comparisons(some, anchors, delays)
        return
    for start in range(0, T, at_once):
        begin = max(0, start - n_past)
        for one in x.split(1):
            yield comparisons(one[:, begin : start + at_once], anchors, delays)[..., start - begin :]


def _rows(u: Tensor) -> Tensor:
    """Index formed by the bits u > 0: (I, R, B, T) to (I, B, T)."""
    weight = 1 << torch.arange(u.shape[1])
    return ((u > 0) * weight[:, None, None]).sum(dim=1)


def _observe_tables(name: str, layer: LookupTables, x: Tensor) -> LayerUsage:
    count = _Count(layer.n_tables, layer.synaptic_vectors.shape[1])
    for u in _pieces(x, layer.anchors, layer.delays):
        count.add_u(u)
        rows = _rows(u).flatten(1).numpy()
        count.add_rows(rows)
        count.add_states(rows)
    bits = ("latency",) * layer.n_comparisons
    return count.usage(name, layer, bits, count_equal(layer.anchors, layer.delays))


def _observe_attention(name: str, layer: PairAttention, x: Tensor) -> LayerUsage:
    """Rows of all pairs of positions, no further apart than the window."""
    count = _Count(layer.n_tables, layer.synaptic_vectors.shape[1])
    anchors, key_anchors = layer.anchors, layer.key_anchors
    query = []
    for u in _pieces(x, anchors, None):
        count.add_u(u)
        query.append(_rows(u))
    # In the order of the pieces: all of one sequence where a sequence was cut, which only happens to one alone.
    query = _joined(query, x)
    key = query
    if key_anchors is not None:
        key = _joined([_rows(u) for u in _pieces(x, key_anchors, None)], x)
    code = hash_code(layer.position_code.detach())[0]
    n_code, n_key = layer.position_code.shape[2], anchors.shape[1] if key_anchors is None else key_anchors.shape[1]
    for distance in range(1, min(layer.window, x.shape[1] - 1) + 1):
        row = query[..., distance:] << (n_key + n_code) | key[..., :-distance] << n_code | code[:, distance, None, None]
        count.add_rows(row.flatten(1).numpy())
    bits = ("position",) * n_code + ("key",) * n_key + ("query",) * anchors.shape[1]
    n_equal = count_equal(anchors, None) + (0 if key_anchors is None else count_equal(key_anchors, None))
    return count.usage(name, layer, bits, n_equal)


def _joined(pieces: list[Tensor], x: Tensor) -> Tensor:
    """Pieces of rows (I, B, T) of x (B, T, n), cut by sequences or, a sequence at a time, by positions."""
    B, T, _ = x.shape
    if pieces[0].shape[2] == T:
        return torch.cat(pieces, dim=1)
    by_sequence = [torch.cat(pieces[b::B], dim=2) for b in range(B)]
    return torch.cat(by_sequence, dim=1)


def count_equal(anchors: Tensor, delays: Tensor | None) -> int:
    """Comparisons that repeat another one of their table, whichever way round: the rows between them are unreachable.

    Example:
        >>> count_equal(torch.tensor([[[0, 1], [1, 0], [1, 2]]], dtype=torch.int32), None)
        1
    """
    spikes = anchors[..., None] if delays is None else torch.stack([anchors, delays], dim=-1)
    return sum(
        len(table) - len({frozenset(map(tuple, comparison)) for comparison in table}) for table in spikes.tolist()
    )
