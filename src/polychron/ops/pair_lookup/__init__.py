"""``pair_lookup``: attention without dot products, one table row per pair of positions (paper, equations 14, 15)."""

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops import checks
from polychron.ops.dispatch import run_uncompiled
from polychron.ops.pair_lookup.operators import FusedPairLookup, arithmetic, pair_operator
from polychron.ops.row_update import RowUpdate

__all__ = ["POSITION_GRADIENTS", "extend", "pair_lookup"]

POSITION_GRADIENTS = ("additional", "nearest")


def pair_lookup(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    position_code: Tensor,
    *,
    key_anchors: Tensor | None = None,
    window: int | None = None,
    position_gradient: str = "additional",
    residual: bool = False,
    gradient: str = "dense",
    update: RowUpdate | None = None,
) -> Tensor:
    r"""For each pair of positions s < t, joins query, key and relative position to an index and adds the row.

    .. math:: y_t = [x_t +] \sum_{\max(0, t - W) \le s < t} \sum_i V_i[\,H_i(x_t)\,\|\,H_i(x_s)\,\|\,H(PE_{i,t-s})\,]

    Query bits are the highest, those of the relative position the lowest. Position 0 attends to nothing, no position
    to itself. The gradient in ``tables`` is exact; in ``x`` it is the paper's surrogate: of query and key the one
    nearer to flipping, ties going to the key. The relative position is routed by ``position_gradient``.

    Args:
        x: latencies, (B, T, n), float32 or float64.
        tables: V, (n_tables, 2^(n_query + n_key + p), n_outputs), x's type.
        anchors: of the query, (n_tables, n_query, 2) int32.
        position_code: PE, (n_tables, n_distances, p): p values a distance, each compared with 0; index 0 is unused;
            n_distances must exceed min(T - 1, window). p may be 0.
        key_anchors: of the key, (n_tables, n_key, 2) int32. None: shared with the query, as in the reference program.
        window: attends to this many earlier positions. None: to all.
        position_gradient: ``"additional"``: PE gets a flip of its own when its abs(u) is strictly smaller than
            query's and key's (the reference program); ``"nearest"``: then only PE gets one.
        residual: adds x; needs n_outputs == n.
        gradient: of the tables, as in :func:`polychron.ops.lookup`.
        update: how rows change when ``gradient="fused"``.

    Returns:
        y, (B, T, n_outputs). An empty batch gives an empty y.

    Raises:
        ValueError: a wrong shape, type or range; the message names the argument.

    Source: Spiking Manifesto, equations 14 and 15; routing of gradients as in the author's reference program.

    Example:
        >>> import torch
        >>> anchors = torch.tensor([[[0, 1]]], dtype=torch.int32)
        >>> tables = torch.arange(8.0).reshape(1, 8, 1)
        >>> x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
        >>> pair_lookup(x, tables, anchors, torch.ones(1, 3, 1)).flatten()
        tensor([ 0.,  3., 12.])
    """
    _check(x, tables, anchors, position_code, key_anchors, window, residual, n_past=0)
    if position_gradient not in POSITION_GRADIENTS:
        raise ValueError(f"position_gradient must be one of {POSITION_GRADIENTS}; got {position_gradient!r}")
    checks.check_gradient(gradient, update, tables)
    arguments = (x, tables, anchors, position_code, key_anchors, window, position_gradient == "nearest", residual)
    if gradient == "fused":
        return run_uncompiled(FusedPairLookup.apply, *arguments, update)
    return pair_operator(*arguments, gradient)[0]


def _check(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    position_code: Tensor,
    key_anchors: Tensor | None,
    window: int | None,
    residual: bool,
    n_past: int,
) -> None:
    checks.check_latencies(x)
    checks.check_anchors(anchors)
    n_key = anchors.shape[1]
    if key_anchors is not None:
        checks.check_anchors(key_anchors, "key_anchors")
        n_key = key_anchors.shape[1]
        if key_anchors.shape[0] != anchors.shape[0]:
            raise ValueError(
                f"key_anchors must name as many tables as anchors, {anchors.shape[0]}; got {key_anchors.shape[0]}"
            )
    if window is not None and not (isinstance(window, int) and 1 <= window < 1 << 31):
        raise ValueError(f"window must be an integer in [1, 2^31), or None for all earlier positions; got {window}")
    furthest = n_past + x.shape[1] - 1
    furthest = furthest if window is None else min(furthest, window)
    if position_code.dim() != 3 or position_code.shape[0] != anchors.shape[0] or position_code.shape[1] <= furthest:
        raise ValueError(
            f"position_code must have shape ({anchors.shape[0]}, more than {max(furthest, 0)}, p); got "
            f"{tuple(position_code.shape)}. Is the sequence longer than the context it was made for?"
        )
    if position_code.dtype != x.dtype:
        raise ValueError(f"position_code must have x's type {x.dtype}; got {position_code.dtype}")
    checks.check_tables(tables, x, anchors.shape[0], anchors.shape[1] + n_key + position_code.shape[2])
    if residual and tables.shape[2] != x.shape[2]:
        raise ValueError(f"residual needs n_outputs == n = {x.shape[2]}; got tables with {tables.shape[2]} outputs")


@torch.no_grad()
def extend(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    position_code: Tensor,
    past_keys: Tensor | None,
    *,
    key_anchors: Tensor | None = None,
    window: int | None = None,
    residual: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`pair_lookup` of positions that follow others, of which only the rows of their keys are known.

    Nothing is differentiated. The values are those of the whole sequence, bit for bit.

    Args:
        x: latencies of the new positions, (B, T, n).
        tables: as in :func:`pair_lookup`.
        anchors: as in :func:`pair_lookup`.
        position_code: as in :func:`pair_lookup`; must reach as far as the window.
        past_keys: rows of the keys before x, (n_tables, B, n_past) int32, or None.
        key_anchors: as in :func:`pair_lookup`.
        window: as in :func:`pair_lookup`.
        residual: as in :func:`pair_lookup`.

    Returns:
        y (B, T, n_outputs), and the rows of all keys, past and new, (n_tables, B, n_past + T) int32.

    Raises:
        ValueError: a wrong shape, type or range; the message names the argument.
    """
    n_past = 0 if past_keys is None else past_keys.shape[-1]
    _check(x, tables, anchors, position_code, key_anchors, window, residual, n_past)
    n_query = anchors.shape[1]
    n_key = n_query if key_anchors is None else key_anchors.shape[1]
    if past_keys is not None:
        _check_past_keys(past_keys, anchors.shape[0], x.shape[0], 1 << n_key)
    run = arithmetic(x)
    addresses = run.address(x, anchors, key_anchors, position_code)
    keys = addresses[3] if past_keys is None else torch.cat([past_keys, addresses[3]], dim=2)
    addresses = (*addresses[:3], keys, *addresses[4:])
    y = run.gather(tables, addresses, n_query, n_key, position_code.shape[2], window, x if residual else None)
    return y, keys


def _check_past_keys(past_keys: Tensor, n_tables: int, n_sequences: int, n_rows: int) -> None:
    if past_keys.dtype != torch.int32 or past_keys.dim() != 3 or past_keys.shape[:2] != (n_tables, n_sequences):
        raise ValueError(
            f"past_keys must be int32 of shape ({n_tables}, {n_sequences}, n_past); got {past_keys.dtype} "
            f"{tuple(past_keys.shape)}"
        )
    if past_keys.numel() and not 0 <= int(past_keys.min()) <= int(past_keys.max()) < n_rows:
        raise ValueError(f"past_keys must lie in [0, {n_rows}), the rows of a key; got {past_keys.aminmax()}")
