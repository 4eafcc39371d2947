"""How a layer's tables are used: which rows are read how often, and what each comparison tells.

All of it follows from one count, how often each row of each table is read: a row's index is the bits of the
comparisons, so the count is their joint distribution. Only near ties need the comparisons themselves.
"""

# I table, R bit of the row's index, J row, K output

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polychron.nn.rewiring import lost_by_merging

# A comparison that falls one way less often than this is nearly constant; one that explains less of its rows' variance
# tells nothing; two whose bits agree (or disagree) more than this tell the same.
CONSTANT_SHARE = 0.01
TELLING_SHARE = 0.01
CORRELATED = 0.95

# |u| is counted between these; powers of ten among them are exact thresholds.
U_EDGES = 10.0 ** (np.arange(-16, 9) / 4)
NEAR_TIES = (0.01, 0.1, 1.0)

VISIT_CLASSES = ("never", "rarely", "evenly", "often")


@dataclass(frozen=True)
class LayerUsage:
    """What was seen of one layer on some text or examples.

    Attributes:
        name: of the layer.
        visits: (I, J) int64, how often each row was read.
        bits: (R,) what each bit of a row's index is: ``"latency"``, or an attention's ``"query"``, ``"key"``,
            ``"position"``.
        explained: (I, R), see :func:`explained_by`.
        n_equal: comparisons that stand in their table a second time, the same neurons at the same delays.
        u_counts: (len(U_EDGES) + 1,) comparisons by abs(u); the first count is those below the first edge.
        n_ties: comparisons with u = 0.
        n_states: different tuples of rows, one of each table, that were read: the states of the paper's finite-state
            machine, of 2^(n_t n_c); None of attention, which reads a row for every pair of positions.
    """

    name: str
    visits: np.ndarray
    bits: tuple[str, ...]
    explained: np.ndarray
    n_equal: int
    u_counts: np.ndarray
    n_ties: int
    n_states: int | None = None

    @property
    def n_tables(self) -> int:
        """I."""
        return self.visits.shape[0]

    @property
    def n_rows(self) -> int:
        """J."""
        return self.visits.shape[1]

    @property
    def n_readings(self) -> int:
        """Rows read from each table."""
        return int(self.visits[0].sum())

    @cached_property
    def relative_visits(self) -> np.ndarray:
        """(I, J): readings of a row over those that it would have if all rows of the table were read evenly."""
        return self.visits * (self.n_rows / max(1, self.n_readings))

    @cached_property
    def visit_shares(self) -> dict[str, float]:
        """Part of the rows that are read never, rarely (less than half the even share), evenly, often (over double)."""
        relative = self.relative_visits
        n = relative.size
        never = int((relative == 0).sum())
        rarely = int((relative < 0.5).sum()) - never
        often = int((relative > 2).sum())
        return dict(zip(VISIT_CLASSES, (never / n, rarely / n, (n - never - rarely - often) / n, often / n),
                        strict=True))  # fmt: skip

    @cached_property
    def entropy(self) -> np.ndarray:
        """(I,) entropy of the row that is read, in bits; R bits where all rows are read evenly."""
        p = self.visits / max(1, self.n_readings)
        return -np.sum(p * np.log2(p, out=np.zeros_like(p), where=p > 0), axis=1)

    @property
    def possible_entropy(self) -> float:
        """Bits that the entropy can reach: R, or fewer where there were fewer readings than rows."""
        return min(len(self.bits), math.log2(max(1, self.n_readings)))

    @cached_property
    def _joint(self) -> np.ndarray:
        """(I, R, R): how often two bits are 1 together, as a part of all readings."""
        bit = np.arange(self.n_rows)[:, None] >> np.arange(len(self.bits)) & 1
        joint = np.empty((self.n_tables, len(self.bits), len(self.bits)))
        for i, visits in enumerate(self.visits):
            read = np.flatnonzero(visits)
            joint[i] = (bit[read] * visits[read, None]).T @ bit[read]
        return joint / max(1, self.n_readings)

    @cached_property
    def minority(self) -> np.ndarray:
        """(I, R) part of the readings in which a bit has its rarer value: 0.5 splits evenly, 0 is constant."""
        ones = np.einsum("irr->ir", self._joint)
        return np.minimum(ones, 1 - ones).clip(0)

    @cached_property
    def correlation(self) -> np.ndarray:
        """(I, R) greatest abs(correlation) of a bit with another one of its table; constant bits have none: 0."""
        ones = np.einsum("irr->ir", self._joint)
        spread = np.sqrt((ones * (1 - ones)).clip(0))
        covariance = self._joint - ones[:, :, None] * ones[:, None, :]
        scale = spread[:, :, None] * spread[:, None, :]
        phi = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 1e-12)
        at = np.arange(phi.shape[1])
        phi[:, at, at] = 0
        return np.abs(phi).max(axis=2)

    @property
    def n_constant(self) -> int:
        """Comparisons that nearly always fall the same way."""
        return int((self.minority < CONSTANT_SHARE).sum())

    @property
    def n_correlated(self) -> int:
        """Comparisons that tell what another one of their table tells."""
        return int((self.correlation > CORRELATED).sum())

    @property
    def n_silent(self) -> int:
        """Comparisons whose two half-tables hold the same, as far as they are read."""
        return int((self.explained < TELLING_SHARE).sum())

    @property
    def n_comparisons(self) -> int:
        """Bits of all tables."""
        return self.n_tables * len(self.bits)

    def near_ties(self, threshold: float) -> float:
        """Part of the comparisons with abs(u) below ``threshold``, one of ``NEAR_TIES``."""
        below = int(np.searchsorted(U_EDGES, threshold * (1 - 1e-9)))
        return float(self.u_counts[: below + 1].sum() / max(1, self.u_counts.sum()))

    def summary(self) -> dict[str, object]:
        """The figures, for JSON and for tables."""
        return {
            "layer": self.name,
            "tables": self.n_tables,
            "rows": self.n_rows,
            "readings": self.n_readings,
            "states": self.n_states,
            "rows_read": self.visit_shares,
            "entropy_bits": {
                "mean": float(self.entropy.mean()),
                "least": float(self.entropy.min()),
                "most": float(self.entropy.max()),
                "possible": self.possible_entropy,
            },
            "near_ties": {f"{threshold:g}": self.near_ties(threshold) for threshold in NEAR_TIES},
            "ties": self.n_ties / max(1, int(self.u_counts.sum())),
            "comparisons": self.n_comparisons,
            "constant": self.n_constant,
            "correlated": self.n_correlated,
            "equal_pairs": self.n_equal,
            "silent": self.n_silent,
        }


def explained_by(visits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    r"""The part of its rows' variance that each comparison explains beside the others, in [0, 1].

    :func:`polychron.nn.rewiring.lost_by_merging` over :math:`\sum_j n_j \lVert S_j - \bar S \rVert^2`; 0 where all rows
    read are the same.

    Example:
        >>> explained_by(np.array([1, 1, 2, 2]), np.array([[0.0], [0.0], [1.0], [1.0]])).round(6).tolist()
        [0.0, 1.0]
    """
    read = np.flatnonzero(visits)
    weight = visits[read].astype(np.float64)
    mean = weight @ rows[read] / max(1.0, weight.sum())
    total = weight @ np.square(rows[read] - mean).sum(axis=1)
    lost = lost_by_merging(visits, rows)
    return (lost / total).clip(0, 1) if total > 0 else np.zeros_like(lost)
