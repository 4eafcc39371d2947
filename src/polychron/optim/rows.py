"""An optimizer whose updates of the tables happen inside the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polychron.nn import Readout, RowLayer, VariantLayer, VariantReadout
from polychron.ops import RowUpdate
from polychron.ops.row_update import BETAS


class RowOptimizer:
    """Updates a model's tables row by row during ``loss.backward()``, everything else by SGD in :meth:`step`.

    All layers share one learning rate. Nothing of the tables' size is ever made besides the tables (and, for Adagrad,
    one number a row; for Adam as many as a row has and three). Made by :func:`attach`.

    Attributes:
        kind: ``"sgd"``, ``"adagrad"``, ``"adam"`` or ``"online_sgd"``.
        rate: the learning rate; assign to change it for all layers.
    """

    def __init__(
        self,
        model: nn.Module,
        kind: str,
        rate: float,
        epsilon: float,
        visit_cap: int | None,
        drop: float = 0.0,
        members: int = 1,
        readout_rate: float = 1.0,
        betas: tuple[float, float] = BETAS,
    ):
        self.kind = kind
        self._rate = RowUpdate(kind, rate, epsilon, visit_cap, betas=betas)
        kinds = (RowLayer, VariantLayer)
        self._layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
        if not self._layers:
            raise ValueError("model must have layers of tables (polychron.nn.RowLayer); got none")
        tables = set()
        for layer in self._layers.values():
            is_readout = isinstance(layer, (Readout, VariantReadout))
            if is_readout and layer.n_tables % members:
                raise ValueError(f"members must divide the readout's {layer.n_tables} tables evenly; got {members}")
            update = RowUpdate(
                kind, self._rate.shared_rate, epsilon, visit_cap, drop, members if is_readout else 1, betas
            )
            if is_readout:
                update.rate_factor *= readout_rate
            layer.use_gradient("fused", update)
            tables.add(id(layer.synaptic_vectors))
        self._dense = [p for p in model.parameters() if id(p) not in tables and p.requires_grad]

    @property
    def rate(self) -> float:
        """The learning rate of all layers."""
        return self._rate.rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._rate.rate = value

    @torch.no_grad()
    def step(self) -> None:
        """Updates the parameters that are no tables (position codes) by plain SGD at the same rate."""
        for parameter in self._dense:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=self.rate)

    def zero_grad(self) -> None:
        """Forgets the gradients that :meth:`step` used."""
        for parameter in self._dense:
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """The layers' optimizer state by layer name: empty for SGD."""
        return {name: layer.update.state for name, layer in self._layers.items() if layer.update.state is not None}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes up a state from :meth:`state_dict`; an empty one, as it gives before the first step, is zeros.

        Raises:
            ValueError: the state names other layers, or other shapes, than this optimizer has.
        """
        for layer in self._layers.values():
            layer.update.prepare(layer.synaptic_vectors)
        expected = self.state_dict()
        if state.keys() - expected.keys() or (state and expected.keys() - state.keys()):
            raise ValueError(f"state must name the layers {sorted(expected)}; got {sorted(state)}")
        for name, value in state.items():
            if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
                raise ValueError(
                    f"state of {name} must be {expected[name].dtype} of shape {tuple(expected[name].shape)}; "
                    f"got {value.dtype} {tuple(value.shape)}"
                )
            expected[name].copy_(value)
        for name in expected.keys() - state.keys():
            expected[name].zero_()


def attach(
    model: nn.Module,
    kind: str = "sgd",
    rate: float = 0.02,
    epsilon: float = 1e-8,
    visit_cap: int | None = None,
    drop: float = 0.0,
    members: int = 1,
    readout_rate: float = 1.0,
    betas: tuple[float, float] = BETAS,
) -> RowOptimizer:
    """Makes every layer of tables in ``model`` update itself during the backward pass.

    Args:
        model: holds at least one :class:`polychron.nn.RowLayer`.
        kind: ``"sgd"``, ``"adagrad"`` or ``"adam"`` (both row-wise) or ``"online_sgd"`` (the reference program's order;
            one window a step).
        rate: learning rate, for a loss that is *summed* over positions.
        epsilon: of Adagrad and Adam.
        visit_cap: of SGD: a row that more positions read in one step moves as if so many did; see
            :class:`polychron.ops.RowUpdate`.
        drop: part of the tables of each layer (attention and recurrent layers excepted) that a step leaves out, against
            overfitting.
        members: of an ensemble that share all layers but the readout, whose tables are divided among them; each step
            trains one. The readout computes their mean: nothing changes but what a row learns.
        readout_rate: the readout's rate in units of the other layers'.
        betas: of Adam: see :class:`polychron.ops.RowUpdate`.

    Raises:
        ValueError: a model without tables, or a readout whose tables cannot be divided among the members.

    Example:
        >>> from polychron.nn import LookupTables
        >>> layer = LookupTables(n_inputs=8, n_outputs=2, n_tables=4, n_comparisons=3)
        >>> optimizer = attach(layer, "sgd", rate=0.1)
        >>> layer(torch.randn(5, 8)).square().sum().backward()   # the tables have changed already
        >>> optimizer.step()
        >>> layer.synaptic_vectors.grad is None
        True
    """
    return RowOptimizer(model, kind, rate, epsilon, visit_cap, drop, members, readout_rate, betas)
