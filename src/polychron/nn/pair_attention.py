"""The transformer's attention as a module."""

# B sequence, T position, I table, K output, D distance

from __future__ import annotations

import torch
from torch import Tensor, nn

from polychron.anchors import draw_anchors
from polychron.nn.row_layer import RowLayer, check_width
from polychron.ops import RowUpdate, pair_lookup
from polychron.ops.pair_lookup import extend


class PairAttention(RowLayer):
    r"""Reads one table row per pair of positions: :func:`polychron.ops.pair_lookup`.

    .. math:: y_t = [x_t +] \sum_{s<t} \sum_i V_i[\,H_i(x_t)\,\|\,H_i(x_s)\,\|\,H(PE_{i,t-s})\,]

    Several heads are one such layer with the tables of all: heads read the same input and add into the same output.

    Args:
        n_inputs: neurons in the latency vector.
        n_outputs: neurons driven.
        n_tables: tables, of all heads together.
        n_comparisons: anchor pairs a table, of the query and as many of the key.
        n_position_bits: comparisons of the relative-position code.
        window: how many earlier positions a position attends to at most.
        share_anchors: query and key use the same anchors, so that a position is hashed once.
        position_gradient: ``"additional"`` or ``"nearest"``.
        residual: adds the input; needs n_outputs == n_inputs.
        anchors: ``"random"``, ``"covering"`` or ``"independent"``.
        gradient: of the tables: ``"dense"``, ``"sparse"`` or ``"fused"``.
        update: for ``"fused"``.
        dtype: of the tables: torch.float32 or torch.bfloat16.
        seed: of anchors and of the position code, which starts uniform in [-1, 1].

    Shapes: x (B, T, n_inputs), y (B, T, n_outputs).

    Source: Spiking Manifesto, equations 14 and 15.

    Example:
        >>> head = PairAttention(n_inputs=16, n_outputs=16, n_tables=4, n_comparisons=3, n_position_bits=2, window=7)
        >>> head(torch.randn(2, 8, 16)).shape
        torch.Size([2, 8, 16])
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        n_tables: int,
        n_comparisons: int,
        n_position_bits: int,
        window: int,
        *,
        share_anchors: bool = True,
        position_gradient: str = "additional",
        residual: bool = False,
        anchors: str = "random",
        gradient: str = "dense",
        update: RowUpdate | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        if window < 1:
            raise ValueError(f"window must be at least 1; got {window}")
        if residual and n_inputs != n_outputs:
            raise ValueError(f"residual needs n_outputs == n_inputs; got {n_outputs} and {n_inputs}")
        pairs = draw_anchors(anchors, n_inputs, n_tables, n_comparisons, seed)
        super().__init__(n_tables, 2 * n_comparisons + n_position_bits, n_outputs, gradient, update, dtype)
        self.n_inputs = n_inputs
        self.n_comparisons = n_comparisons
        self.window = window
        self.position_gradient = position_gradient
        self.residual = residual
        self.register_buffer("anchors", pairs)
        key_pairs = None if share_anchors else draw_anchors(anchors, n_inputs, n_tables, n_comparisons, seed + 1)
        self.register_buffer("key_anchors", key_pairs)
        self.position_code = nn.Parameter(draw_position_code(n_tables, window + 1, n_position_bits, seed))

    def forward(self, x: Tensor) -> Tensor:
        """y of the latencies x."""
        check_width(x, self.n_inputs)
        self.draw_step()
        return pair_lookup(
            x, self.synaptic_vectors, self.anchors, self.position_code, key_anchors=self.key_anchors,
            window=self.window, position_gradient=self.position_gradient, residual=self.residual, **self._options(),
        )  # fmt: skip

    def extend(self, x: Tensor, past_keys: Tensor | None) -> tuple[Tensor, Tensor]:
        """y of x, which follows positions known by their keys' rows only, and the keys to pass on next time.

        The index cache: ``past_keys`` (n_tables, B, at most window) int32, None at the start. Nothing is
        differentiated.
        """
        y, keys = extend(
            x, self.synaptic_vectors, self.anchors, self.position_code, past_keys, key_anchors=self.key_anchors,
            window=self.window, residual=self.residual,
        )  # fmt: skip
        return y, keys[:, :, -self.window :].contiguous()

    def extra_repr(self) -> str:
        """Sizes, for print(module)."""
        return (
            f"n_inputs={self.n_inputs}, n_outputs={self.n_outputs}, n_tables={self.n_tables}, "
            f"n_comparisons={self.n_comparisons}, n_position_bits={self.position_code.shape[2]}, "
            f"window={self.window}, residual={self.residual}, gradient={self.gradient}"
        )


def draw_position_code(n_tables: int, n_distances: int, n_position_bits: int, seed: int) -> Tensor:
    """Numbers uniform in [-1, 1): (n_tables, n_distances, n_position_bits) float32, on the CPU whatever the defaults.

    Example:
        >>> draw_position_code(n_tables=2, n_distances=5, n_position_bits=3, seed=0).shape
        torch.Size([2, 5, 3])
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (n_tables, n_distances, n_position_bits)
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") * 2 - 1
