"""How far a run has come, and the learning rate that belongs there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polychron.errors import InputError

# A run too short for its warm-up would only ever warm up: a tenth of it is the most that is spent so.
LONGEST_WARMUP = 0.1
# Over which the reference program's rate rises.
REFERENCE_WINDOWS = 4000


@dataclass(frozen=True)
class Budget:
    """How long to train: so many steps, or so many seconds. Exactly one is given.

    With ``steps`` a run is a pure function of its seed: a resumed run ends with the same bits. With
    ``seconds`` the rate follows the clock, and the clock counts training only (neither evaluation nor writing
    checkpoints).

    Raises:
        InputError: both, neither, or one that is not positive and finite.

    Example:
        >>> Budget(steps=200).progress(step=50, seconds=3.0)
        0.25
        >>> Budget(seconds=60).progress(step=50, seconds=3.0)
        0.05
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise InputError("a budget is a number of steps or a number of seconds: give exactly one")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"the number of steps must be at least 1; got {self.steps}")
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise InputError(f"the time to train must be positive and finite; got {self.seconds} seconds")

    def progress(self, step: int, seconds: float) -> float:
        """The part of the budget used before step number ``step`` begins: 0 at first, 1 when it is spent."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        return min(1.0, seconds / self.seconds)


@dataclass(frozen=True)
class ReferenceSchedule:
    """The author's reference program's, which knows no end: with t windows trained on,

        rate = min(1 / sqrt(1 + t), t * 4000^-1.5)

    It rises to 0.0158 over 4,000 windows, then falls as the root of the windows. The first step's rate is 0.

    Attributes:
        windows_per_step: how many windows a step trains on; at least 1, and 1 in the reference program.

    Raises:
        InputError: windows_per_step below 1.

    Example:
        >>> schedule = ReferenceSchedule()
        >>> [round(schedule.rate(step), 6) for step in (0, 2000, 4000, 16000)]
        [0.0, 0.007906, 0.015809, 0.007905]
    """

    windows_per_step: int = 1

    def __post_init__(self) -> None:
        if self.windows_per_step < 1:
            raise InputError(f"windows_per_step must be at least 1; got {self.windows_per_step}")

    @property
    def peak(self) -> float:
        """The highest rate, where the two terms meet."""
        return REFERENCE_WINDOWS**-0.5

    def rate(self, step: int, progress: float = 0.0) -> float:
        """The rate of step number ``step`` (from 0), however much of the budget is used."""
        t = step * self.windows_per_step
        return min((1 + t) ** -0.5, t * REFERENCE_WINDOWS**-1.5)


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then a linear fall to 0 at the end of the run, or of the part of it that is scheduled:

        rate = peak * min(1, max((step + 1) / warmup_steps, done / 0.1)) * (1 - done)
        done = (progress - begin) / (end - begin)

    The warm-up takes the run's first ``warmup_steps`` steps or a tenth of the part, whichever is over first.

    Attributes:
        peak: the rate without warm-up and fall; positive.
        warmup_steps: 0 for none.
        begin: part of the budget that is used when this begins.
        end: and when it ends.

    Raises:
        InputError: peak not positive and finite, warmup_steps negative, not 0 <= begin < end <= 1.

    Example:
        >>> schedule = Schedule(peak=0.02, warmup_steps=4)
        >>> [schedule.rate(step, progress=step / 100) for step in (0, 3, 50)]
        [0.005, 0.0194, 0.01]
    """

    peak: float
    warmup_steps: int = 0
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise InputError(f"begin must lie in [0, 1) and end in (begin, 1]; got {self.begin} and {self.end}")
        if not (math.isfinite(self.peak) and self.peak > 0):
            raise InputError(f"rate must be positive and finite; got {self.peak}")
        if self.warmup_steps < 0:
            raise InputError(f"warmup_steps must be at least 0; got {self.warmup_steps}")

    def rate(self, step: int, progress: float) -> float:
        """The rate of step number ``step`` (from 0), which begins when ``progress`` of the budget is used."""
        done = (progress - self.begin) / (self.end - self.begin)
        fall = 1.0 - done
        if step >= self.warmup_steps:
            return self.peak * fall
        warm = max((step + 1) / self.warmup_steps, done / LONGEST_WARMUP)
        return self.peak * min(1.0, warm) * fall
