"""What one byte costs a model of look-up tables, by the rule of `polychron.twins.cost`."""

# n_t tables, n_c comparisons of a table, K outputs

from __future__ import annotations

import numpy as np
from torch import nn

from harness.context_cost import context_cost, recent_cost
from polychron.models import LanguageModel
from polychron.nn import LookupTables, PairAttention, Readout, RowLayer
from polychron.twins.cost import FLOAT, Cost, embedding, softmax

INDEX = 2  # bytes of a neuron's number, and of a delay: models have fewer than 65,536 of either


class UnknownCostError(ValueError):
    """A model has a layer that this file cannot count."""


def reading_cost(model: LanguageModel, tokens: np.ndarray | None = None) -> Cost:
    """Of one more byte, with the latencies that delays reach back to, or the rows of keys, remembered.

    What counted contexts cost is averaged over the text ``tokens`` (N,); of recent tables it is the most they can.

    Raises:
        UnknownCostError: a layer with parameters is of a kind that is not known here, or there is no text to average
            over.
    """
    total = _trained_cost(model)
    if model.contexts is not None:
        if tokens is None:
            raise UnknownCostError("the cost of counted contexts is that of a text, and none is given")
        total += context_cost(model.contexts, tokens)
        if model.contexts.recent is not None:
            total += recent_cost()
    return total


def training_operations(model: LanguageModel) -> float:
    """Per byte trained on, if no two positions of a batch read the same row (merged rows cost less).

    For every row read in the forward pass: the gradient is added up (K), the rate multiplied and the row changed (2 K),
    the gain taken from the neighbour row (3 K), the slope and the two latencies changed (8). Counted contexts take no
    part: counting is one pass over the text.
    """
    total = _trained_cost(model).operations
    for layer in _layers(model):
        reads = layer.n_tables * (1 if isinstance(layer, LookupTables) else layer.window)
        total += reads * (6 * layer.n_outputs + 8)
    return total


def _trained_cost(model: LanguageModel) -> Cost:
    width = model.embedding.latencies.shape[1]
    total = embedding(width) + softmax(model.config.vocabulary_size)
    for layer in _layers(model):
        total += _lookup_cost(layer) if isinstance(layer, LookupTables) else _attention_cost(layer)
    return total


def _layers(model: nn.Module) -> list[LookupTables | PairAttention]:
    layers = [module for module in model.modules() if isinstance(module, RowLayer)]
    counted = {id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)}
    left_out = [name for name, parameter in model.named_parameters() if id(parameter) not in counted]
    unknown = [type(layer).__name__ for layer in layers if type(layer) not in (LookupTables, Readout, PairAttention)]
    if left_out or unknown:
        raise UnknownCostError(f"no rule counts these layers or parameters: {', '.join(unknown + left_out)}")
    return layers


def _lookup_cost(layer: LookupTables) -> Cost:
    """n_t n_c comparisons, each set into an index; n_t rows added."""
    comparisons = layer.n_tables * layer.n_comparisons
    added = layer.n_tables * layer.n_outputs
    number = layer.synaptic_vectors.element_size()
    n_bytes = comparisons * (2 * FLOAT + 2 * INDEX) + number * added + FLOAT * layer.n_outputs
    if layer.max_delay:
        n_bytes += comparisons * INDEX + FLOAT * layer.n_inputs  # the delay of a pair; the ring's new latencies
    return Cost(2 * comparisons + added, n_bytes)


def _attention_cost(layer: PairAttention) -> Cost:
    """Query and key hashed once; then one row for every table and remembered position, its index joined from three."""
    hashes = layer.n_tables * layer.n_comparisons * (1 if layer.key_anchors is None else 2)
    pairs = layer.n_tables * layer.window
    row = layer.synaptic_vectors.element_size() * layer.n_outputs
    n_bytes = hashes * (2 * FLOAT + 2 * INDEX) + pairs * (row + 2 * FLOAT) + FLOAT * layer.n_outputs
    return Cost(2 * hashes + pairs * (layer.n_outputs + 2), n_bytes)
