"""The transformer's attention with another hash, reading or gradient."""

# B sequence, T position, P = pairs of positions, I table, R comparison, K output, D distance

from __future__ import annotations

import torch
from torch import Tensor, nn

from polychron.anchors import draw_anchors
from polychron.nn.pair_attention import draw_position_code
from polychron.nn.variant_tables import VariantLayer, check_sequences, order_directions
from polychron.ops.variants import Address, binary, join, latency_gradient


class VariantAttention(VariantLayer):
    r"""One table row per pair of positions, as :class:`polychron.nn.PairAttention`, with every step exchangeable.

    .. math:: y_t = [x_t +] \sum_{s<t} \mathrm{read}([\,H(x_t)\,\|\,H(x_s)\,\|\,H(PE_{t-s})\,], V)

    Query and key are hashed by the variant's hash, the relative position always by comparison with 0. The distances
    are read one after another, in PyTorch.

    Args:
        n_inputs: neurons in the latency vector.
        n_outputs: neurons driven.
        n_tables: tables, of all heads together.
        n_comparisons: comparisons of the query and as many of the key.
        n_position_bits: comparisons of the relative-position code.
        window: how many earlier positions a position attends to at most.
        share_anchors: query and key use the same anchors, or directions.
        position_gradient: of the nearest flip: ``"additional"`` or ``"nearest"``; other gradients and readings treat
            the code's comparisons as any others.
        residual: adds the input; needs n_outputs == n_inputs.
        anchors: ``"random"``, ``"covering"`` or ``"independent"``.
        seed: of anchors and of the position code, as in PairAttention.
        variant: hash, reading, gradient, n_bins, bin_width, temperature, as of :class:`polychron.nn.VariantTables`.

    Shapes: x (B, T, n_inputs), y (B, T, n_outputs).

    Example:
        >>> head = VariantAttention(16, 16, n_tables=4, n_comparisons=3, n_position_bits=2, window=7, reading="soft")
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
        seed: int = 0,
        hash: str = "order",
        n_bins: int = 3,
        **variant: object,
    ):
        n_rows = n_bins ** (2 * n_comparisons) if hash == "bins" else 1 << 2 * n_comparisons
        super().__init__(n_tables, n_rows << n_position_bits, n_outputs, hash=hash, n_bins=n_bins, **variant)
        self.n_inputs, self.n_comparisons = n_inputs, n_comparisons
        self.window, self.residual, self.position_gradient = window, residual, position_gradient
        pairs = draw_anchors(anchors, n_inputs, n_tables, n_comparisons, seed)
        key_pairs = None if share_anchors else draw_anchors(anchors, n_inputs, n_tables, n_comparisons, seed + 1)
        self.register_buffer("anchors", pairs)
        self.register_buffer("key_anchors", key_pairs)
        planes = hash == "hyperplane"
        self.directions = order_directions(pairs, n_inputs) if planes else None
        self.key_directions = order_directions(key_pairs, n_inputs) if planes and not share_anchors else None
        self.position_code = nn.Parameter(draw_position_code(n_tables, window + 1, n_position_bits, seed))

    def forward(self, x: Tensor) -> Tensor:
        """y of the latencies x."""
        check_sequences(x, self.n_inputs)
        B, T, n = x.shape
        flat = x.reshape(-1, n)
        directions = [None if some is None else self._trained(some, B * T) for some in
                      (self.directions, self.key_directions)]  # fmt: skip
        query = self._hashed(flat, self.anchors, directions[0], None)
        key = query
        if self.key_anchors is not None:
            key = self._hashed(flat, self.key_anchors, directions[1], None)
        read = [x.new_zeros(B, T, self.n_outputs)]
        for distance in range(1, min(self.window, T - 1) + 1):
            y = self._read_pairs(
                _positions(query, B, distance, T), _positions(key, B, 0, T - distance), self.position_code[:, distance],
                B * T,
            )  # fmt: skip
            read.append(nn.functional.pad(y.view(B, T - distance, -1), (0, 0, distance, 0)))
        y = torch.stack(read).sum(dim=0)
        return x + y if self.residual else y

    def _read_pairs(self, query: Address, key: Address, code: Tensor, n_positions: int) -> Tensor:
        """What P pairs of one distance, whose code is (I, R), read: (P, K)."""
        position = binary(code.expand(len(query.row), *code.shape))
        whole = join(query, key, position)
        if not (self.reading == "hard" and self.gradient == "nearest" and self.position_gradient == "additional"):
            return self._read(whole, n_positions)
        n_both = 2 * self.n_comparisons
        both = Address(whole.row, whole.u[..., :n_both], whole.weights[:n_both], whole.n_rows)
        y = self._read(both, n_positions)
        if not torch.is_grad_enabled() or code.shape[1] == 0:
            return y
        nearer = position.nearest()[0].abs() < both.nearest()[0].abs()
        u = torch.where(nearer[..., None], position.u, position.u.detach())
        alone = Address(whole.row, u, whole.weights[n_both:], whole.n_rows)
        return y + latency_gradient(alone, self.synaptic_vectors, "nearest")

    def extend(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """y of x, which follows positions of the latencies ``past`` (B, at most window, n), and those to pass on."""
        whole = x if past is None else torch.cat([past, x], dim=1)
        return self(whole)[:, -x.shape[1] :], whole[:, -self.window :].contiguous()


def _positions(address: Address, n_sequences: int, begin: int, end: int) -> Address:
    """The part of an address of (B T) positions that lies in [begin, end) of each sequence."""
    row = address.row.view(n_sequences, -1, *address.row.shape[1:])[:, begin:end].flatten(0, 1)
    u = address.u.reshape(n_sequences, -1, *address.u.shape[1:])[:, begin:end].flatten(0, 1)
    return Address(row, u, address.weights, address.n_rows)
