"""``readout_cross_entropy``: a layer of look-up tables read as logits, with its loss, in one pass."""

from __future__ import annotations

from torch import Tensor

from polychron.ops import checks
from polychron.ops.dispatch import run_uncompiled
from polychron.ops.readout.operators import FusedReadout, readout_operator
from polychron.ops.row_update import RowUpdate

__all__ = ["readout_cross_entropy"]


def readout_cross_entropy(
    x: Tensor,
    tables: Tensor,
    anchors: Tensor,
    targets: Tensor,
    delays: Tensor | None = None,
    *,
    history: Tensor | None = None,
    gradient: str = "dense",
    update: RowUpdate | None = None,
) -> Tensor:
    r"""Cross-entropy of the softmax over a layer's outputs, position by position.

    .. math:: \ell_t = -\log \mathrm{softmax}(\sum_i S_{i, j_i(x_t)})[\mathrm{target}_t]

    Row sums, softmax and the gradient stay in cache; the logits of a whole batch never exist at once. Gradients are
    those of :func:`polychron.ops.lookup` followed by ``torch.nn.functional.cross_entropy(reduction="none")``.

    Args:
        x: latencies, (B, T, n), float32 or float64.
        tables: synaptic vectors, (n_tables, 2^n_comparisons, n_classes), x's type or bfloat16, as in
            :func:`polychron.ops.lookup`.
        anchors: (n_tables, n_comparisons, 2) int32.
        targets: the right class of each position, (B, T) int64 in [0, n_classes).
        delays: as in :func:`polychron.ops.lookup`.
        history: as in :func:`polychron.ops.lookup`.
        gradient: ``"dense"``, ``"sparse"`` or ``"fused"``, as in :func:`polychron.ops.lookup`.
        update: how rows change when ``gradient="fused"``.

    Returns:
        The loss of each position in nats, (B, T), x's type. An empty batch gives an empty loss.

    Raises:
        ValueError: a wrong shape, type or range; the message names the argument.

    Example:
        >>> import torch
        >>> anchors = torch.tensor([[[0, 1]]], dtype=torch.int32)
        >>> readout_cross_entropy(torch.zeros(1, 1, 2), torch.zeros(1, 2, 4), anchors, torch.tensor([[3]]))
        tensor([[1.3863]])
    """
    checks.check_latencies(x)
    checks.check_anchors(anchors)
    checks.check_delays(delays, anchors)
    checks.check_tables(tables, x, anchors.shape[0], anchors.shape[1])
    checks.check_history(history, x)
    checks.check_gradient(gradient, update, tables)
    checks.check_targets(targets, x)
    if gradient == "fused":
        return run_uncompiled(FusedReadout.apply, x, tables, anchors, delays, targets, history, update)
    return readout_operator(x, tables, anchors, delays, targets, history, gradient)[0]
