"""Timing in turns: A B A B, so that what the machine does meanwhile meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LEAST_SECONDS = 0.005  # a call is repeated until a turn takes so long
_SLOW_SECONDS = 0.3  # a call that takes longer is not repeated to learn roughly how long


@dataclass(frozen=True)
class Seconds:
    """Seconds per call over the rounds."""

    lowest: float
    lower_quartile: float
    median: float
    upper_quartile: float
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Seconds:
        """Summary of one figure a round.

        Example:
            >>> Seconds.of([3.0, 1.0, 2.0]).median
            2.0
        """
        if len(seconds) == 1:
            return cls(*seconds * 4, 1)
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(min(seconds), lower, median, upper, len(seconds))


def once(function: Callable[[], object]) -> float:
    """Seconds of a call, roughly: the best of a few turns."""
    first = _turn(function, 1)
    if first > _SLOW_SECONDS:
        return first
    n = _repeats(function)
    return min(_turn(function, n) for _ in range(3))


def in_turns(rounds: int, most_seconds: float, *functions: Callable[[], object]) -> list[list[float]]:
    """Seconds per call of each function in each round; fewer rounds, but three, where they take too long."""
    repeats = [_repeats(function) for function in functions]
    seconds: list[list[float]] = [[] for _ in functions]
    began = time.perf_counter()
    for k in range(rounds):
        for function, n, into in zip(functions, repeats, seconds, strict=True):
            into.append(_turn(function, n))
        if k >= 2 and time.perf_counter() - began > most_seconds:
            break
    return seconds


def _repeats(function: Callable[[], object]) -> int:
    function()  # the first call allocates, and wakes what sleeps
    return max(1, round(_LEAST_SECONDS / _turn(function, 1)))


def _turn(function: Callable[[], object], n: int) -> float:
    began = time.perf_counter()
    for _ in range(n):
        function()
    return (time.perf_counter() - began) / n
