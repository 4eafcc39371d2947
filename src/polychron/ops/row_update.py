"""How a row changes when its gradient arrives in the backward pass (``gradient="fused"``).

Exact: the gradients of all positions that read a row are summed first (positions ascending), then the row changes once.

    SGD                  S_j <- S_j - rate * min(1, visit_cap / n_j) * G_j      n_j positions read row j
    row-wise Adagrad     a_j <- a_j + mean_k(G_jk^2) ;   S_j <- S_j - rate * G_j / (sqrt(a_j) + epsilon)
    online SGD           for each position in order: S_j <- S_j - rate * v   (later positions see earlier updates)
"""

# I table, J row, K output

from __future__ import annotations

import torch

KINDS = ("sgd", "adagrad", "online_sgd")


class RowUpdate:
    """The update of one layer's tables, applied inside the backward pass.

    Args:
        kind: ``"sgd"``, ``"adagrad"`` (row-wise: one number of state a row) or ``"online_sgd"`` (the reference
            program's order, one position after another).
        rate: learning rate; a 0-dim float64 tensor is shared, so that one assignment reaches many layers.
        epsilon: keeps Adagrad's division finite; ignored by the others.
        visit_cap: of SGD: a row that more positions read in one step moves as if so many did. Plain SGD, without it,
            overshoots where a batch repeats itself: the gradients of a thousand equal readings are summed. None: no
            cap.
        drop: part of a layer's tables that each training step leaves out, drawn from torch's generator; the sum of
            the others' rows is scaled up to make good for it. Against overfitting; see
            :class:`polychron.nn.LookupTables`.

    Attributes:
        rate: the learning rate as a float; assign to change it.
        state: Adagrad's sums (n_tables, n_rows) float32, made at the first use; None for the others.

    Raises:
        ValueError: an unknown kind, a rate or epsilon that is negative or not finite, or a cap that makes no sense.

    Example:
        >>> update = RowUpdate("sgd", rate=0.5)
        >>> update.rate = 0.25
        >>> update.rate
        0.25
    """

    def __init__(
        self,
        kind: str = "sgd",
        rate: float | torch.Tensor = 0.02,
        epsilon: float = 1e-8,
        visit_cap: int | None = None,
        drop: float = 0.0,
    ):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
        if not 0.0 <= epsilon < float("inf"):
            raise ValueError(f"epsilon must be finite and not negative; got {epsilon}")
        if visit_cap is not None and (kind != "sgd" or visit_cap < 1):
            raise ValueError(f"visit_cap must be at least 1, and goes with kind 'sgd'; got {visit_cap} with {kind!r}")
        if not 0.0 <= drop < 1.0:
            raise ValueError(f"drop must be at least 0 and below 1; got {drop}")
        self.kind = kind
        self.drop = drop
        self.visit_cap = visit_cap
        self.epsilon = epsilon
        self.state: torch.Tensor | None = None
        self.shared_rate = rate if isinstance(rate, torch.Tensor) else torch.zeros((), dtype=torch.float64)
        if not isinstance(rate, torch.Tensor):
            self.rate = rate

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.shared_rate.item()

    @rate.setter
    def rate(self, value: float) -> None:
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"rate must be finite and not negative; got {value}")
        self.shared_rate.fill_(value)

    def draw_kept(self, n_tables: int) -> torch.Tensor | None:
        """The tables that take part in one step, ascending int32 (m,), drawn from torch's generator; None: all."""
        n_kept = max(1, round((1 - self.drop) * n_tables))
        if n_kept == n_tables:
            return None
        return torch.randperm(n_tables)[:n_kept].sort().values.int()

    def of_table(self, i: int) -> RowUpdate:
        """The same update for one table alone, with that table's part of the state."""
        one = RowUpdate(self.kind, self.shared_rate, self.epsilon, self.visit_cap)
        one.state = None if self.state is None else self.state[i : i + 1]
        return one

    def prepare(self, tables: torch.Tensor) -> None:
        """Makes the state that ``tables`` (n_tables, n_rows, n_outputs) need, unless it is there.

        Raises:
            ValueError: the state there belongs to tables of another shape.
        """
        if self.kind != "adagrad":
            return
        if self.state is not None and self.state.shape != tables.shape[:2]:
            raise ValueError(
                f"update must be used for one layer's tables: its state is of shape {tuple(self.state.shape)}, "
                f"these tables need {tuple(tables.shape[:2])}"
            )
        if self.state is None:
            self.state = torch.zeros(tables.shape[:2], dtype=torch.float32, device=tables.device)

    def __repr__(self) -> str:
        return (
            f"RowUpdate(kind={self.kind!r}, rate={self.rate}, epsilon={self.epsilon}, visit_cap={self.visit_cap}, "
            f"drop={self.drop})"
        )


def apply_merged(tables: torch.Tensor, gradient: torch.Tensor, n_visits: torch.Tensor, update: RowUpdate) -> None:
    """Updates ``tables`` (I, J, K) in place from their dense gradient and the readings of each row (I, J).

    The definition of the merged updates.
    """
    rate = update.rate
    if update.kind == "adagrad":
        update.state += gradient.square().mean(dim=-1).to(update.state.dtype)
        tables -= rate * gradient / (update.state.sqrt() + update.epsilon)[..., None]
    elif update.visit_cap is None:
        tables -= rate * gradient
    else:
        share = update.visit_cap / n_visits.clamp(min=update.visit_cap).to(gradient.dtype)
        tables -= (rate * share)[..., None] * gradient
