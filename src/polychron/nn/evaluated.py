"""Models that are looked at as they are once trained, and then left as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """For a while a model is in evaluation mode; then each of its modules is in the mode that it was in.

    Example:
        >>> from polychron.nn import LookupTables
        >>> layer = LookupTables(n_inputs=8, n_outputs=2, n_tables=4, n_comparisons=3)
        >>> with evaluated(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training
