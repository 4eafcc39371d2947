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
from polychron.nn.pair_attention import PairAttention, draw_position_code
from polychron.nn.row_layer import RowLayer


@torch.no_grad()
def add_tables(
    layer: RowLayer, n: int, *, anchors: str = "random", delay_distribution: str = "geometric", seed: int = 0
) -> None:
    r"""Gives a layer ``n`` tables more, all zeros: its function is unchanged to the bit.

    The layer's row state (Adagrad's sums, Adam's moments) grows with zeros. Parameters stay the same objects, so that
    an optimizer made by :func:`polychron.optim.attach` goes on; one of torch's with state of its own must be made anew.

    Pairs, delays and an attention's position code are what a layer of all the tables would have drawn for the last
    ``n``: the seed that the layer itself was made with gives no copies of its own tables.

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
    n_all = layer.n_tables + n
    pairs = draw_anchors(anchors, layer.n_inputs, n_all, layer.n_comparisons, seed)[-n:]
    if isinstance(layer, PairAttention):
        if layer.key_anchors is not None:
            keys = draw_anchors(anchors, layer.n_inputs, n_all, layer.n_comparisons, seed + 1)[-n:]
            layer.key_anchors = _joined(layer.key_anchors, keys)
        code = draw_position_code(n_all, *layer.position_code.shape[1:], seed)[-n:]
        replace(layer.position_code, _joined(layer.position_code, code))
    elif layer.delays is not None:
        delays = draw_delays(delay_distribution, n_all, layer.n_comparisons, layer.max_delay, seed + 1)[-n:]
        layer.delays = _joined(layer.delays, delays)
    layer.anchors = _joined(layer.anchors, pairs)
    old = layer.synaptic_vectors
    grown = _zeros_beside(old, n_all, old.shape[1])
    grown[: len(old)] = old
    replace(old, grown)
    if layer.update is not None and layer.update.state is not None:
        state = layer.update.state
        layer.update.state = torch.cat([state, state.new_zeros(n, *state.shape[1:])])


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
        if anchors == "independent":  # drawn with tables last, or the layer's own seed could give its own pairs again
            drawn = draw_anchors(anchors, layer.n_inputs, n_held + n, layer.n_tables, seed)
            return _joined(held, drawn[-n:].transpose(0, 1), dim=1)
        drawn = draw_anchors(anchors, layer.n_inputs, layer.n_tables, n_held + n, seed)
        return _joined(held, further_anchors(held, drawn), dim=1)

    layer.anchors = more(layer.anchors, seed)
    if is_attention and layer.key_anchors is not None:
        layer.key_anchors = more(layer.key_anchors, seed + 1)
    if not is_attention and layer.delays is not None:
        delays = draw_delays(delay_distribution, n_held + n, layer.n_tables, layer.max_delay, seed + 1)
        layer.delays = _joined(layer.delays, delays[-n:].transpose(0, 1), dim=1)
    layer.n_comparisons = n_held + n

    # Each row under all values of the new bits: ones of length 1 in `old` are repeated along the grown table.
    if is_attention:
        n_code = layer.position_code.shape[2]
        parts, grown_parts = (1, 1 << n_held, 1, 1 << (n_held + n_code)), (1 << n, 1 << n_held, 1 << n,
                                                                          1 << (n_held + n_code))  # fmt: skip
    else:
        parts, grown_parts = (1, 1 << n_held), (1 << n, 1 << n_held)
    grown = _zeros_beside(old, old.shape[0], _product(grown_parts))
    grown.unflatten(1, grown_parts).copy_(old.detach().unflatten(1, parts).expand(-1, *grown_parts, -1))
    replace(old, grown)
    if layer.update is not None and layer.update.state is not None:
        state = layer.update.state
        held = state.shape[2:]  # of Adam, numbers of a row; of Adagrad nothing: it has one
        grown_state = state.unflatten(1, parts).expand(-1, *grown_parts, *held)
        layer.update.state = grown_state.reshape(old.shape[0], -1, *held).contiguous()


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


def _joined(held: Tensor, drawn: Tensor, dim: int = 0) -> Tensor:
    """Both, of the type and on the device of what the layer holds: what is drawn comes from the CPU."""
    return torch.cat([held, drawn.to(held)], dim)


def _zeros_beside(tables: Tensor, n_tables: int, n_rows: int) -> Tensor:
    """Tables of zeros, of the outputs, type and device of those there."""
    if tables.is_cpu:
        return zero_tables(n_tables, n_rows, tables.shape[2], tables.dtype)
    return tables.new_zeros(n_tables, n_rows, tables.shape[2])


def replace(parameter: torch.nn.Parameter, value: Tensor) -> None:
    """Other contents, of another shape, in the same parameter.

    A loss that is still alive holds autograd's node that adds up the parameter's gradient, of the old shape. It is made
    anew only where type or device change: hence a moment of another type.
    """
    parameter.grad = None
    another = torch.float64 if value.dtype != torch.float64 else torch.float32
    parameter.data = value.new_empty(0, dtype=another)
    parameter.data = value
