"""Layers that are run for a while without learning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from polychron.nn.row_layer import RowLayer
from polychron.ops import RowUpdate


@contextmanager
def fixed_rows(layers: Iterable[RowLayer]) -> Iterator[None]:
    """For a while a backward pass changes no row and leaves every parameter's gradient as it was.

    Rows move at rate 0. That is also the quickest way to start: operators that give torch's optimizers a gradient load
    torch's compiler first, which takes seconds.

    Example:
        >>> import torch
        >>> from polychron.nn import LookupTables
        >>> layer = LookupTables(n_inputs=8, n_outputs=2, n_tables=4, n_comparisons=3)
        >>> with fixed_rows([layer]):
        ...     layer(torch.randn(5, 8)).sum().backward()
        >>> layer.synaptic_vectors.grad is None, bool(layer.synaptic_vectors.any())
        (True, False)
    """
    layers = list(layers)
    before = [(layer, layer.gradient, layer.update) for layer in layers]
    gradients = [(parameter, parameter.grad) for layer in layers for parameter in layer.parameters()]
    try:
        for parameter, _ in gradients:
            parameter.grad = None  # one that is there would be added to in place
        for layer in layers:
            layer.use_gradient("fused", RowUpdate("sgd", 0.0))
        yield
    finally:
        for layer, gradient, update in before:
            layer.use_gradient(gradient, update)
        for parameter, gradient in gradients:
            parameter.grad = gradient
