"""How a row changes when its gradient arrives in the backward pass (``gradient="fused"``).

Exact: the gradients of all positions that read a row are summed first (positions ascending), then the row changes once.

    SGD                  S_j <- S_j - rate * min(1, visit_cap / n_j) * G_j      n_j positions read row j
    row-wise Adagrad     a_j <- a_j + mean_k(G_jk^2) ;   S_j <- S_j - rate * G_j / (sqrt(a_j) + epsilon)
    row-wise Adam        m_j <- beta1 m_j + (1 - beta1) G_j ;   v_j <- beta2 v_j + (1 - beta2) mean_k(G_jk^2)
                         S_j <- S_j - rate * m_j / p_j / (sqrt(v_j / q_j) + epsilon)
                         p_j = 1 - beta1^n, q_j = 1 - beta2^n, n the steps that read row j
    online SGD           for each position in order: S_j <- S_j - rate * v   (later positions see earlier updates)

Of a row that no position of a step read nothing changes, and Adam's moments are lazy: they stay as well.

Tables of bfloat16 change in float32 and are then rounded stochastically, to the number below or above by chance, such
that the mean is exact: a step smaller than half a unit in the last place is not lost.
"""

# I table, J row, K output

from __future__ import annotations

import numpy as np
import torch

KINDS = ("sgd", "adagrad", "adam", "online_sgd")
STATEFUL = ("adagrad", "adam")
ADAM_NUMBERS = 3  # of a row's state, after m: v, p, q
BETAS = (0.9, 0.99)

_32_BITS = 0xFFFFFFFF
_TABLE_STEP = 0xC2B2AE3D


class RowUpdate:
    """The update of one layer's tables, applied inside the backward pass.

    Args:
        kind: ``"sgd"``, ``"adagrad"`` (row-wise: one number of state a row), ``"adam"`` (row-wise: a number of state
            for each synapse and three a row, float32) or ``"online_sgd"`` (the reference program's order, one position
            after another).
        rate: learning rate; a 0-dim float64 tensor is shared, so that one assignment reaches many layers.
        epsilon: keeps Adagrad's and Adam's division finite, above 0 for them; ignored by the others.
        visit_cap: of SGD: a row that more positions read in one step moves as if so many did. Plain SGD, without it,
            overshoots where a batch repeats itself: the gradients of a thousand equal readings are summed. None: no
            cap.
        drop: part of a layer's tables that each training step leaves out, drawn from torch's generator; the sum of
            the others' rows is scaled up to make good for it. Against overfitting; see
            :class:`polychron.nn.LookupTables`.
        members: the tables are divided into so many groups of neighbours, and each training step trains one of them,
            drawn from torch's generator, as if it were the whole layer: the members of an ensemble, whose mean the
            layer computes.
        betas: Adam's: how much of its moments a row keeps from one step that reads it to the next.

    Attributes:
        rate: the learning rate as a float; assign to change it.
        rate_factor: of this layer alone. A row of one of E members weighs 1 / E in the mean: its gradient is that much
            smaller and, to change the member's logits as it would alone, the row has to move that much less, hence
            1 / E^2 at first (of Adagrad and Adam, which divide by the gradient's size, 1 / E).
        seed: of the rounding of bfloat16 tables; a layer in training mode draws a new one for each step.
        state: made at the first use, float32; Adagrad's sums (n_tables, n_rows), or Adam's m, v, p and q
            (n_tables, n_rows, n_outputs + 3); None for the others.

    Raises:
        ValueError: an unknown kind, a rate or epsilon that is negative or not finite, betas outside [0, 1), a cap that
            makes no sense, or fewer than one member.

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
        members: int = 1,
        betas: tuple[float, float] = BETAS,
    ):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
        if not 0.0 <= epsilon < float("inf"):
            raise ValueError(f"epsilon must be finite and not negative; got {epsilon}")
        if kind in STATEFUL and epsilon == 0:
            raise ValueError(f"epsilon must be above 0 for {kind}: a row whose gradient is 0 would be divided by 0")
        if visit_cap is not None and (kind != "sgd" or visit_cap < 1):
            raise ValueError(f"visit_cap must be at least 1, and goes with kind 'sgd'; got {visit_cap} with {kind!r}")
        if not 0.0 <= drop < 1.0:
            raise ValueError(f"drop must be at least 0 and below 1; got {drop}")
        if members < 1:
            raise ValueError(f"members must be at least 1; got {members}")
        if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas must be two numbers, at least 0 and below 1; got {betas}")
        self.kind = kind
        self.drop = drop
        self.members = members
        self.betas = tuple(betas)
        self.rate_factor = 1 / members if kind in STATEFUL else 1 / members**2
        self.visit_cap = visit_cap
        self.epsilon = epsilon
        self.seed = 0
        self.state: torch.Tensor | None = None
        # Where a recorded step reads the rate, float32, and the seed, int64.
        self.device_rate: torch.Tensor | None = None
        self.device_seed: torch.Tensor | None = None
        self.shared_rate = (
            rate if isinstance(rate, torch.Tensor) else torch.zeros((), dtype=torch.float64, device="cpu")
        )
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

    @property
    def step_rate(self) -> float:
        """The rate at which rows change: :attr:`rate` times :attr:`rate_factor`."""
        return self.shared_rate.item() * self.rate_factor

    @property
    def step_device_rate(self) -> torch.Tensor | None:
        """The same of :attr:`device_rate`."""
        if self.device_rate is None or self.rate_factor == 1:
            return self.device_rate
        return self.device_rate * self.rate_factor

    @property
    def leaves_out(self) -> bool:
        """Whether a step may leave tables out."""
        return self.drop > 0 or self.members > 1

    def draw_kept(self, n_tables: int) -> torch.Tensor | None:
        """The tables that take part in one step, ascending int32 (m,), drawn from torch's generator; None: all.

        Raises:
            ValueError: the tables cannot be divided evenly among the members.
        """
        if n_tables % self.members:
            raise ValueError(f"members must divide the layer's {n_tables} tables evenly; got {self.members}")
        of_member = n_tables // self.members
        n_kept = max(1, round((1 - self.drop) * of_member))
        if n_kept == n_tables:
            return None
        start = of_member * int(torch.randint(self.members, (), device="cpu")) if self.members > 1 else 0
        kept = torch.randperm(of_member, device="cpu").numpy()[:n_kept].astype(np.int32) + np.int32(start)
        kept.sort()  # numpy's calls take a fifth of the time of torch's on so few numbers
        return torch.from_numpy(kept)

    def draw_seed(self) -> int:
        """A new :attr:`seed`, drawn from torch's generator."""
        self.seed = int(torch.randint(1 << 32, (), device="cpu"))
        return self.seed

    def of_table(self, i: int) -> RowUpdate:
        """The same update for one table alone, with that table's part of the state."""
        one = RowUpdate(self.kind, self.shared_rate, self.epsilon, self.visit_cap, betas=self.betas)
        one.rate_factor = self.rate_factor
        one.device_rate, one.device_seed = self.device_rate, self.device_seed
        one.seed = self.seed + i * _TABLE_STEP & _32_BITS
        one.state = None if self.state is None else self.state[i : i + 1]
        return one

    def prepare(self, tables: torch.Tensor) -> None:
        """Makes the state that ``tables`` (n_tables, n_rows, n_outputs) need where they are, unless it is there.

        Raises:
            ValueError: the state there belongs to tables of another shape.
        """
        if self.kind not in STATEFUL:
            return
        n_tables, n_rows, n_outputs = tables.shape
        shape = (n_tables, n_rows) if self.kind == "adagrad" else (n_tables, n_rows, n_outputs + ADAM_NUMBERS)
        if self.state is not None and self.state.shape != shape:
            raise ValueError(
                f"update must be used for one layer's tables: its state is of shape {tuple(self.state.shape)}, "
                f"these tables need {shape}"
            )
        if self.state is None:
            with torch.inference_mode(False):  # what is made in inference mode could not change in training
                self.state = torch.zeros(shape, dtype=torch.float32, device=tables.device)
        elif self.state.device != tables.device:
            self.state = self.state.to(tables.device)

    def __repr__(self) -> str:
        return (
            f"RowUpdate(kind={self.kind!r}, rate={self.rate}, epsilon={self.epsilon}, visit_cap={self.visit_cap}, "
            f"drop={self.drop}, members={self.members}, betas={self.betas})"
        )


def apply_merged(tables: torch.Tensor, gradient: torch.Tensor, n_visits: torch.Tensor, update: RowUpdate) -> None:
    """Updates ``tables`` (I, J, K) in place from their dense gradient and the readings of each row (I, J).

    The definition of the merged updates.
    """
    rate = update.step_rate
    if update.kind == "adagrad":
        update.state += gradient.square().mean(dim=-1).to(update.state.dtype)
        step = rate * gradient / (update.state.sqrt() + update.epsilon)[..., None]
    elif update.kind == "adam":
        step = _adam_step(gradient, n_visits > 0, update)
    elif update.visit_cap is None:
        step = rate * gradient
    else:
        share = update.visit_cap / n_visits.clamp(min=update.visit_cap).to(gradient.dtype)
        step = (rate * share)[..., None] * gradient
    if tables.dtype == torch.bfloat16:
        tables.copy_(round_stochastically(tables.float() - step, update.seed))
    else:
        tables -= step


def _adam_step(gradient: torch.Tensor, is_read: torch.Tensor, update: RowUpdate) -> torch.Tensor:
    beta1, beta2 = update.betas
    m, v, p, q = update.state.split([gradient.shape[-1], 1, 1, 1], dim=-1)
    mean_square = gradient.square().mean(dim=-1, keepdim=True)
    targets = ((m, gradient, beta1), (v, mean_square, beta2), (p, 1.0, beta1), (q, 1.0, beta2))
    for moment, towards, beta in targets:
        moment.copy_(torch.where(is_read[..., None], beta * moment + (1 - beta) * towards, moment))
    row_rate = update.step_rate / (p * ((v / q).sqrt() + update.epsilon))
    return torch.where(is_read[..., None], row_rate * m, 0.0)


def round_stochastically(tables: torch.Tensor, seed: int) -> torch.Tensor:
    """Tables (I, J, K) float32 as bfloat16: 16 random bits are added below the 16 that stay.

    The bits of table i, row j and column k are those of x ^ x >> 15 from bit 16 on, with

        x = (y ^ y >> 16) * 0x7FEB352D,    y = mix(seed + i * 0xC2B2AE3D ^ j * 0x85EBCA77) + k * 0x9E3779B9

    modulo 2^32 and mix the finaliser of two multiplications in :func:`_mix`: a function of seed and place alone.

    Example:
        >>> round_stochastically(torch.full((1, 1, 4096), 1.001), seed=1).float().mean()
        tensor(1.0011)
    """
    i, j, k = (torch.arange(size, device=tables.device) for size in tables.shape)
    row = _mix((seed + i[:, None] * _TABLE_STEP & _32_BITS) ^ (j * 0x85EBCA77 & _32_BITS))
    y = row[..., None] + k * 0x9E3779B9 & _32_BITS
    x = _times(y ^ y >> 16, 0x7FEB352D)
    chance = (x ^ x >> 15) >> 16
    bits = tables.contiguous().view(torch.int32) + chance.to(torch.int32)
    return (bits & -65536).view(torch.float32).to(torch.bfloat16)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = _times(x ^ x >> 16, 0x7FEB352D)
    x = _times(x ^ x >> 15, 0x846CA68B)
    return x ^ x >> 16


def _times(x: torch.Tensor, factor: int) -> torch.Tensor:
    """x * factor modulo 2^32, of int64 in [0, 2^32); the product of halves cannot overflow."""
    low = (x & 0xFFFF) * factor
    high = ((x >> 16) * factor & 0xFFFF) << 16
    return low + high & _32_BITS
