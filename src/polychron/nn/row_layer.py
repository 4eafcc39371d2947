"""What all layers made of tables have in common: the tables, and what becomes of their gradient."""

# I table, J row, K output

from __future__ import annotations

import torch
from torch import nn

from polychron.anchors import draw_anchors
from polychron.memory import zero_tables
from polychron.ops.checks import GRADIENTS
from polychron.ops.row_update import RowUpdate


class RowLayer(nn.Module):
    """Base of the layers: ``synaptic_vectors`` S (n_tables, n_rows, n_outputs), which start at 0.

    ``gradient`` says what becomes of their gradient: ``"dense"`` and ``"sparse"`` leave it in ``.grad`` for a torch
    optimizer, ``"fused"`` applies ``update`` during the backward pass and never makes anything of the tables' size.
    ``dtype``: float32, or bfloat16, which halves what a step has to read and is trained by fused updates.
    """

    drops_tables = False  # whether an update's ``drop`` acts on this kind of layer
    given_step: tuple[torch.Tensor | None] | None = None  # what :meth:`draw_step` is to give while a step is recorded

    def __init__(
        self,
        n_tables: int,
        n_row_bits: int,
        n_outputs: int,
        gradient: str,
        update: RowUpdate | None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if n_row_bits > 30:
            raise ValueError(f"a row's index has at most 30 bits; got {n_row_bits}")
        if n_outputs < 1:
            raise ValueError(f"n_outputs must be at least 1; got {n_outputs}")
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"dtype must be torch.float32 or torch.bfloat16; got {dtype}")
        self.synaptic_vectors = nn.Parameter(zero_tables(n_tables, 1 << n_row_bits, n_outputs, dtype))
        self.use_gradient(gradient, update)

    def use_gradient(self, gradient: str, update: RowUpdate | None = None) -> None:
        """Chooses what becomes of the tables' gradient from now on.

        Raises:
            ValueError: an unknown ``gradient``, or "fused" without ``update``, or ``update`` without "fused".
        """
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")
        if (gradient == "fused") != (update is not None):
            raise ValueError(f"update must be given for gradient='fused' and only then; got {update} with {gradient!r}")
        self.gradient = gradient
        self.update = update

    def draw_step(self) -> torch.Tensor | None:
        """What chance decides of a training step: the tables that take part (None: all), and how rows are rounded."""
        if self.given_step is not None:
            return self.given_step[0]
        update = self.update
        if update is None or not self.training:
            return None
        kept = update.draw_kept(self.n_tables) if self.drops_tables and update.leaves_out else None
        if self._tables().dtype is torch.bfloat16:
            update.draw_seed()
        return kept

    def _tables(self) -> torch.Tensor:
        """The parameter, by a shorter way than an attribute of a module takes; a parametrization has none there."""
        held = self._parameters.get("synaptic_vectors")
        return self.synaptic_vectors if held is None else held

    def _options(self) -> dict[str, object]:
        return {"gradient": self.gradient, "update": self.update}

    @property
    def n_tables(self) -> int:
        """Tables in the layer."""
        return self.synaptic_vectors.shape[0]

    @property
    def n_outputs(self) -> int:
        """Neurons that the layer drives."""
        return self.synaptic_vectors.shape[2]


def check_width(x: torch.Tensor, n_inputs: int, name: str = "x") -> None:
    """x must have n_inputs neurons: of a longer vector an operator would read the first ones and say nothing.

    Raises:
        ValueError: it has another number.
    """
    if x.size(-1) != n_inputs:
        kind = "" if x.is_floating_point() else ". These look like token ids: pass them through the embedding first"
        raise ValueError(f"{name} must have shape (..., {n_inputs}); got {tuple(x.shape)}{kind}")


def choose_anchors(
    anchors: str | torch.Tensor, n_inputs: int, n_tables: int, n_comparisons: int, seed: int
) -> torch.Tensor:
    """Anchor pairs (n_tables, n_comparisons, 2) int32: drawn as ``anchors`` says, or these themselves.

    Raises:
        InputError: an unknown word, or more comparisons than there are pairs.
        ValueError: pairs of another type or shape, or of neurons that are not there.
    """
    if not isinstance(anchors, torch.Tensor):
        return draw_anchors(anchors, n_inputs, n_tables, n_comparisons, seed)
    shape = (n_tables, n_comparisons, 2)
    if anchors.dtype != torch.int32 or anchors.shape != shape or not anchors_in_range(anchors, n_inputs):
        raise ValueError(
            f"anchors must be int32 {shape}, pairs of different neurons in [0, {n_inputs}); "
            f"got {anchors.dtype} {tuple(anchors.shape)}"
        )
    return anchors


def anchors_in_range(anchors: torch.Tensor, n_inputs: int) -> bool:
    """Whether every anchor names a neuron of the layer's input and none is compared with itself."""
    return bool(((anchors >= 0) & (anchors < n_inputs)).all() and (anchors[..., 0] != anchors[..., 1]).all())
