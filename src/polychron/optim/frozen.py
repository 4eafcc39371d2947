"""Training a part of a model: the other tables are put back after every step."""

# I table

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polychron.nn import RowLayer, VariantLayer
from polychron.optim.rows import RowOptimizer


class FrozenTables:
    """An optimizer like the one that it drives, except that the first tables of some layers stay as they are.

    Updates happen inside the backward pass, where a step reads all rows before any changes; so what the frozen tables
    held is copied back after it, bit for bit. An attention's position codes are frozen with their tables. Row state is
    not: it follows what would have happened.

    Args:
        optimizer: attached to the model; not of the kind ``"online_sgd"``, whose rows change while a step reads them.
        model: whose tables they are.
        frozen: of each layer, by its name, how many of its tables stay.

    Raises:
        ValueError: a layer that is not there or has no tables, more tables than it has, or an online optimizer.

    Example:
        >>> from polychron.nn import LookupTables
        >>> from polychron.optim import attach
        >>> model = nn.Sequential(LookupTables(8, 2, n_tables=4, n_comparisons=3))
        >>> optimizer = FrozenTables(attach(model, "sgd", rate=0.1), model, {"0": 3})
        >>> model(torch.randn(5, 8)).sum().backward()
        >>> optimizer.step()
        >>> [bool(table.any()) for table in model[0].synaptic_vectors]
        [False, False, False, True]
    """

    def __init__(self, optimizer: RowOptimizer, model: nn.Module, frozen: Mapping[str, int]):
        if optimizer.kind == "online_sgd":
            raise ValueError("optimizer must change rows after a step has read them; got online_sgd")
        layers = dict(model.named_modules())
        self._optimizer = optimizer
        self._kept: list[tuple[Tensor, Tensor]] = []
        for name, n in frozen.items():
            layer = layers.get(name)
            if not isinstance(layer, (RowLayer, VariantLayer)) or not 0 <= n <= layer.n_tables:
                raise ValueError(f"frozen must name layers of tables and at most as many as they have; got {name}: {n}")
            for parameter in layer.parameters():
                # What all tables share, as a confidence's factors, stays where all tables do.
                whole = parameter.dim() == 0
                part = parameter.detach() if whole else parameter.detach()[:n]
                if not whole or n == layer.n_tables:
                    self._kept.append((part, part.clone()))

    @property
    def rate(self) -> float:
        """The learning rate of all layers."""
        return self._optimizer.rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._optimizer.rate = value

    def zero_grad(self) -> None:
        """Forgets the gradients that :meth:`step` used."""
        self._optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """The optimizer's step, after which the frozen tables are what they were."""
        self._optimizer.step()
        for part, kept in self._kept:
            part.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer's."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The optimizer's."""
        self._optimizer.load_state_dict(state)
