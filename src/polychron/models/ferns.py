r"""Random ferns: a readout whose rows are counted in one pass instead of learnt by gradients.

A table is a fern: its row is a partition of the inputs, and within it the classes have frequencies. Taking tables for
independent given the class, their log-probabilities add (semi-naive Bayes), which is what a readout does with its rows:

.. math:: \log p(k \mid x) = \log p_k + \beta \sum_i \log \frac{p(k \mid i, j_i(x))}{p_k} + \text{const},\qquad
          p(k \mid i, j) = \frac{n_{ijk} + \alpha p_k}{n_{ij} + \alpha}

Frequencies are smoothed towards the classes' own, so that a row that was never read says nothing. Tables are not
independent: their sum is too sure of itself, which the scale beta makes good; beta = 1 is Bayes' rule.
"""

# P example, I table, J row, K class

from __future__ import annotations

import math

import torch
from torch import Tensor

from polychron.errors import InputError
from polychron.nn import LookupTables
from polychron.ops.lookup.operators import arithmetic

_SCALE_STEPS = 40
_LARGEST_SCALE = 4.0


class Ferns:
    """Counts of what a readout's rows were read for; :meth:`write` makes them its rows.

    Args:
        readout: its anchors say which row an example reads; its rows are replaced by :meth:`write`.

    Source: Spiking Manifesto, on random ferns; M. Ozuysal and others, "Fast keypoint recognition using random ferns",
    IEEE PAMI 32 (2010). Smoothing towards the classes' shares and the scale are this project's.

    Example:
        >>> from polychron.nn import Readout
        >>> readout = Readout(n_inputs=8, n_outputs=3, n_tables=16, n_comparisons=4)
        >>> x = torch.randn(500, 8)
        >>> label = x[:, :3].argmax(dim=1)
        >>> ferns = Ferns(readout)
        >>> ferns.count(x, label)
        >>> ferns.write()
        >>> bool((readout(x).argmax(dim=1) == label).float().mean() > 0.8)
        True
    """

    def __init__(self, readout: LookupTables):
        self._readout = readout
        self._counts = torch.zeros(readout.synaptic_vectors.shape, dtype=torch.int32)
        self._classes = torch.zeros(readout.n_outputs, dtype=torch.int64)

    @torch.no_grad()
    def count(self, x: Tensor, labels: Tensor, history: Tensor | None = None) -> None:
        """Adds examples: latencies (P, n_inputs) or (B, T, n_inputs) and labels (P,) or (B, T) int64.

        Raises:
            InputError: labels of another shape, or out of range.
        """
        n_tables, n_rows, n_classes = self._counts.shape
        if labels.shape != x.shape[:-1] or (
            labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes
        ):
            raise InputError(
                f"labels must be of shape {tuple(x.shape[:-1])}, in [0, {n_classes}); got {tuple(labels.shape)}"
            )
        row = self._rows(x, history)
        flat = labels.flatten()
        for i in range(n_tables):
            cell = row[i].flatten().long() * n_classes + flat
            self._counts[i] += torch.bincount(cell, minlength=n_rows * n_classes).view(n_rows, n_classes).int()
        self._classes += torch.bincount(flat, minlength=n_classes)

    def _rows(self, x: Tensor, history: Tensor | None) -> Tensor:
        """(I, B, T) int32, by the functions under the operator: it would load torch's compiler first."""
        x = (x if x.dim() == 3 else x[:, None]).contiguous()
        return arithmetic(x).address(x, self._readout.anchors, self._readout.delays, history)[0]

    @property
    def shares(self) -> Tensor:
        """p_k: (K,) float32, each class counted once more than it was seen, so that none is impossible."""
        return ((self._classes + 1) / (self._classes.sum() + len(self._classes))).float()

    @torch.no_grad()
    def write(self, smoothing: float = 1.0, scale: float = 1.0) -> None:
        """Makes the readout's rows log-probabilities.

        Args:
            smoothing: alpha, examples' worth of the classes' own shares in every row; positive.
            scale: beta.

        Raises:
            InputError: smoothing is not positive, or one of them not finite.
        """
        if not (0 < smoothing < math.inf and math.isfinite(scale)):
            raise InputError(f"smoothing must be positive and finite, scale finite; got {smoothing} and {scale}")
        shares = self.shares
        prior = shares.log() / len(self._counts)
        for i, counts in enumerate(self._counts):
            n = counts.float()
            rows = (n / shares + smoothing).log() - (n.sum(dim=1, keepdim=True) + smoothing).log()
            rows = scale * rows + prior
            # What is the same for all classes of a row changes no probability; without it sums stay small.
            self._readout.synaptic_vectors[i] = rows - rows.mean(dim=1, keepdim=True)

    def calibrate(
        self, x: Tensor, labels: Tensor, smoothing: float = 1.0, history: Tensor | None = None
    ) -> tuple[float, float]:
        """Writes the rows with the scale that makes examples which were not counted cost least; (scale, mean nats).

        The loss is convex in the scale, so that halving an interval finds it.
        """
        self.write(smoothing, 1.0)
        with torch.no_grad():
            total = arithmetic(x).gather(self._readout.synaptic_vectors, self._rows(x, history), None).flatten(0, -2)
        prior = self.shares.log()
        evidence = total - prior

        def nats(scale: float) -> float:
            return torch.nn.functional.cross_entropy(prior + scale * evidence, labels.flatten()).item()

        low, high = 0.0, _LARGEST_SCALE
        for _ in range(_SCALE_STEPS):
            third = (high - low) / 3
            if nats(low + third) < nats(high - third):
                high -= third
            else:
                low += third
        scale = (low + high) / 2
        self.write(smoothing, scale)
        return scale, nats(scale)
