"""Layers that grow without changing what they compute: further tables, further comparisons.

"n_t + 1": a table of zeros adds nothing until it has learnt. "n_c + 1": a comparison doubles a table, and both halves
start with the same rows.
"""

# I table, R comparison, J row, K output, D distance

from __future__ import annotations

import torch
from torch import Tensor

from polychron.anchors import draw_anchors, draw_delays, further_anchors
from polychron.memory import zero_tables
from polychron.nn.lookup_tables import LookupTables
from polychron.nn.pair_attention import PairAttention
from polychron.nn.row_layer import RowLayer


@torch.no_grad()
def add_tables(
    layer: RowLayer, n: int, *, anchors: str = "random", delay_distribution: str = "geometric", seed: int = 0
) -> None:
    r"""Gives a layer ``n`` tables more, all zeros: its function is unchanged to the bit.

    The layer's row state (Adagrad's sums) grows with zeros. Parameters stay the same objects, so that an optimizer made
    by :func:`polychron.optim.attach` goes on; one of torch's with state of its own must be made anew.

    Args:
        layer: :class:`LookupTables` or a layer derived from it, or :class:`PairAttention`; changed in place.
        n: tables to add after those there, at least 1.
        anchors: how their pairs are drawn: ``"random"``, ``"covering"`` or ``"independent"``.
        delay_distribution: of their delays, where the layer has any.
        seed: of what is drawn.

    Raises:
        ValueError: n below 1, or another kind of layer.

    Source: Spiking Manifesto, appendix on fine-tuning, "n_t + 1".

    Example:
        >>> layer = LookupTables(n_inputs=8, n_outputs=2, n_tables=4, n_comparisons=3)
        >>> add_tables(layer, 2)
        >>> layer.synaptic_vectors.shape
        torch.Size([6, 8, 2])
    """
    _check(layer, n)
    pairs = draw_anchors(anchors, layer.n_inputs, n, layer.n_comparisons, seed)
    if isinstance(layer, PairAttention):
        if layer.key_anchors is not None:
            keys = draw_anchors(anchors, layer.n_inputs, n, layer.n_comparisons, seed + 1)
            layer.key_anchors = torch.cat([layer.key_anchors, keys])
        _, n_distances, n_code = layer.position_code.shape
        code = torch.rand(n, n_distances, n_code, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        _replace(layer.position_code, torch.cat([layer.position_code, code]))
    elif layer.delays is not None:
        delays = draw_delays(delay_distribution, n, layer.n_comparisons, layer.max_delay, seed + 1)
        layer.delays = torch.cat([layer.delays, delays])
    layer.anchors = torch.cat([layer.anchors, pairs])
    old = layer.synaptic_vectors
    grown = zero_tables(old.shape[0] + n, old.shape[1], old.shape[2], old.dtype)
    grown[: len(old)] = old
    _replace(old, grown)
    if layer.update is not None and layer.update.state is not None:
        state = layer.update.state
        layer.update.state = torch.cat([state, state.new_zeros(n, state.shape[1])])


@torch.no_grad()
def add_comparisons(
    layer: RowLayer, n: int, *, anchors: str = "random", delay_distribution: str = "geometric", seed: int = 0
) -> None:
    r"""Gives every table of a layer ``n`` comparisons more: each row is copied 2^n times, the function unchanged.

    The new bits are the highest of the index, j' = j + b 2^{n_c}, of an attention the highest of the query and of the
    key (an attention's tables grow by 4^n). Row state is copied with the rows; parameters stay the same objects.

    Args:
        layer: :class:`LookupTables` or a layer derived from it, or :class:`PairAttention`; changed in place.
        n: comparisons to add, at least 1. None repeats a pair of neurons that its table compares already, unless
            ``anchors`` is ``"independent"``.
        anchors: how pairs are drawn: ``"random"``, ``"covering"`` or ``"independent"``.
        delay_distribution: of their delays, where the layer has any.
        seed: of what is drawn.

    Raises:
        InputError: more comparisons than there are pairs of neurons.
        ValueError: n below 1, another kind of layer, or an index of more than 30 bits.

    Source: Spiking Manifesto, appendix on fine-tuning, "n_c + 1".

    Example:
        >>> layer = LookupTables(n_inputs=8, n_outputs=2, n_tables=4, n_comparisons=3)
        >>> add_comparisons(layer, 1)
        >>> layer.anchors.shape, layer.synaptic_vectors.shape
        (torch.Size([4, 4, 2]), torch.Size([4, 16, 2]))
    """
    _check(layer, n)
    is_attention = isinstance(layer, PairAttention)
    old = layer.synaptic_vectors
    if old.shape[1] << (2 * n if is_attention else n) > 1 << 30:
        raise ValueError(f"n must leave rows an index of at most 30 bits; got {n}")
    n_held = layer.n_comparisons

    def more(held: Tensor, seed: int) -> Tensor:
        if anchors == "independent":
            return torch.cat([held, draw_anchors(anchors, layer.n_inputs, layer.n_tables, n, seed)], dim=1)
        drawn = draw_anchors(anchors, layer.n_inputs, layer.n_tables, n_held + n, seed)
        return torch.cat([held, further_anchors(held, drawn)], dim=1)

    layer.anchors = more(layer.anchors, seed)
    if is_attention and layer.key_anchors is not None:
        layer.key_anchors = more(layer.key_anchors, seed + 1)
    if not is_attention and layer.delays is not None:
        delays = draw_delays(delay_distribution, layer.n_tables, n, layer.max_delay, seed + 1)
        layer.delays = torch.cat([layer.delays, delays], dim=1)
    layer.n_comparisons = n_held + n

    # Each row under all values of the new bits: ones of length 1 in `old` are repeated along the grown table.
    if is_attention:
        n_code = layer.position_code.shape[2]
        parts, grown_parts = (1, 1 << n_held, 1, 1 << (n_held + n_code)), (1 << n, 1 << n_held, 1 << n,
                                                                          1 << (n_held + n_code))  # fmt: skip
    else:
        parts, grown_parts = (1, 1 << n_held), (1 << n, 1 << n_held)
    grown = zero_tables(old.shape[0], _product(grown_parts), old.shape[2], old.dtype)
    grown.unflatten(1, grown_parts).copy_(old.detach().unflatten(1, parts).expand(-1, *grown_parts, -1))
    _replace(old, grown)
    if layer.update is not None and layer.update.state is not None:
        state = layer.update.state.unflatten(1, parts).expand(-1, *grown_parts)
        layer.update.state = state.reshape(old.shape[0], -1).contiguous()


def _check(layer: RowLayer, n: int) -> None:
    if not isinstance(layer, (LookupTables, PairAttention)):
        raise ValueError(f"layer must be LookupTables or PairAttention to grow; got {type(layer).__name__}")
    if n < 1:
        raise ValueError(f"n must be at least 1; got {n}")


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _replace(parameter: torch.nn.Parameter, value: Tensor) -> None:
    """Other contents of another shape in the same parameter."""
    parameter.grad = None
    parameter.data = value
