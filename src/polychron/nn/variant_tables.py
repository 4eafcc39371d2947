"""The layer with another hash, reading or gradient, one argument each."""

# B sequence, T position, I table, R comparison, K output

from __future__ import annotations

import torch
from torch import Tensor, nn

from polychron.anchors import draw_anchors
from polychron.limits import require_memory
from polychron.ops.variants import GRADIENTS, HASHES, READINGS, bins_hash, hyperplane_hash, order_hash, read, zero_hash


class VariantTables(nn.Module):
    r"""Look-up tables as in :class:`polychron.nn.LookupTables`, in plain PyTorch, with every step exchangeable.

    .. math:: y = [x +] \mathrm{read}(\mathrm{hash}(x), S)

    With the defaults it is the paper's layer without delays: the same output and gradients, slower. For comparing
    ideas, on any device; the tables' gradient is dense, any torch optimizer takes it.

    Args:
        n_inputs: neurons in the latency vector.
        n_outputs: neurons driven.
        n_tables: tables.
        n_comparisons: comparisons a table.
        hash: ``"order"``, ``"zero"``, ``"hyperplane"`` (trained directions, which start as the order of the anchor
            pairs) or ``"bins"``; see :mod:`polychron.ops.variants.hashes`.
        reading: ``"hard"``, ``"soft"`` or ``"confidence"`` (with trained beta and gamma); see
            :mod:`polychron.ops.variants.readings`.
        gradient: of the hard reading: ``"nearest"``, ``"all"``, ``"softmax"`` or ``"scalar"``.
        n_bins: m of ``"bins"``, which has m^n_comparisons rows a table.
        bin_width: distance of two thresholds of ``"bins"``.
        temperature: of ``"softmax"``.
        anchors: ``"random"`` or ``"covering"``.
        residual: adds the input; needs n_outputs == n_inputs.
        seed: of the anchors.

    Shapes: x (..., n_inputs), y (..., n_outputs).

    Raises:
        ValueError: an unknown name, or arguments that do not fit together.
        InputError: more comparisons than there are pairs, or tables larger than memory.

    Example:
        >>> layer = VariantTables(n_inputs=16, n_outputs=5, n_tables=4, n_comparisons=3, hash="bins", n_bins=3)
        >>> layer(torch.randn(2, 7, 16)).shape, layer.synaptic_vectors.shape
        (torch.Size([2, 7, 5]), torch.Size([4, 27, 5]))
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        n_tables: int,
        n_comparisons: int,
        *,
        hash: str = "order",
        reading: str = "hard",
        gradient: str = "nearest",
        n_bins: int = 3,
        bin_width: float = 1.0,
        temperature: float = 1.0,
        anchors: str = "random",
        residual: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        for name, value, choices in (("hash", hash, HASHES), ("reading", reading, READINGS),
                                     ("gradient", gradient, GRADIENTS)):  # fmt: skip
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
        if residual and n_inputs != n_outputs:
            raise ValueError(f"residual needs n_outputs == n_inputs; got {n_outputs} and {n_inputs}")
        if reading != "hard" and gradient != "nearest":
            raise ValueError(f"gradient is the hard reading's: the {reading} one is differentiated as it is")
        if hash == "bins" and gradient == "softmax":
            raise ValueError("gradient softmax needs rows whose index is made of bits: take another hash than bins")
        n_rows = n_bins**n_comparisons if hash == "bins" else 1 << n_comparisons
        require_memory(4 * n_tables * n_rows * n_outputs, "the tables", "take fewer comparisons or bins")
        self.hash, self.reading, self.gradient = hash, reading, gradient
        self.n_bins, self.bin_width, self.temperature = n_bins, bin_width, temperature
        self.n_inputs, self.residual = n_inputs, residual
        self.register_buffer("anchors", draw_anchors(anchors, n_inputs, n_tables, n_comparisons, seed))
        self.synaptic_vectors = nn.Parameter(torch.zeros(n_tables, n_rows, n_outputs))
        if hash == "hyperplane":
            one = nn.functional.one_hot(self.anchors.long(), n_inputs).float()
            self.directions = nn.Parameter(one[:, :, 0] - one[:, :, 1])
        if reading == "confidence":
            self.beta, self.gamma = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """y of the latencies x."""
        if x.shape[-1] != self.n_inputs or not x.is_floating_point():
            raise ValueError(f"x must hold latencies of shape (..., {self.n_inputs}); got {x.dtype} {tuple(x.shape)}")
        flat = x.reshape(-1, self.n_inputs)
        if self.hash == "order":
            address = order_hash(flat, self.anchors)
        elif self.hash == "zero":
            address = zero_hash(flat, self.anchors)
        elif self.hash == "hyperplane":
            address = hyperplane_hash(flat, self.directions)
        else:
            address = bins_hash(flat, self.anchors, self.n_bins, self.bin_width)
        trained = {"beta": self.beta, "gamma": self.gamma} if self.reading == "confidence" else {}
        y = read(
            address, self.synaptic_vectors, self.reading, self.gradient, temperature=self.temperature, **trained
        ).reshape(*x.shape[:-1], -1)
        return x + y if self.residual else y

    def extra_repr(self) -> str:
        """Sizes and variant, for print(module)."""
        n_tables, n_rows, n_outputs = self.synaptic_vectors.shape
        return (
            f"n_inputs={self.n_inputs}, n_outputs={n_outputs}, n_tables={n_tables}, n_rows={n_rows}, "
            f"hash={self.hash}, reading={self.reading}, gradient={self.gradient}, residual={self.residual}"
        )
