"""Seeds joined to means, and who reaches whose loss when."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from harness.results import COUNTED, OURS, OWN, Result


@dataclass(frozen=True)
class Mean:
    """All seeds of one contestant and budget.

    Attributes:
        model: name.
        budget: seconds given; None for a reference.
        runs: one a seed.
    """

    model: str
    budget: float | None
    runs: tuple[Result, ...]

    def of(self, name: str) -> float | None:
        """Mean of a figure over the seeds; None where a run lacks it."""
        values = [getattr(run, name) for run in self.runs]
        return None if None in values else fmean(values)

    @property
    def nats_per_byte(self) -> float:
        """Mean over the seeds."""
        return fmean(run.nats_per_byte for run in self.runs)

    @property
    def spread(self) -> float:
        """Half the distance from the best seed to the worst."""
        nats = [run.nats_per_byte for run in self.runs]
        return (max(nats) - min(nats)) / 2


def means_of(results: Iterable[Result]) -> list[Mean]:
    """By contestant in order of appearance, ours first, then by budget."""
    grouped: dict[tuple[str, float | None], list[Result]] = {}
    for result in results:
        grouped.setdefault((result.model, result.budget), []).append(result)
    means = [Mean(model, budget, tuple(runs)) for (model, budget), runs in grouped.items()]
    return sorted(means, key=lambda mean: (mean.model != OURS, mean.model not in OWN, mean.model, mean.budget or 0))


def frontier(means: Iterable[Mean], model: str) -> list[Mean]:
    """A contestant's budgets, ascending."""
    return sorted((mean for mean in means if mean.model == model and mean.budget), key=lambda mean: mean.budget)


def twins_in(means: Iterable[Mean]) -> list[str]:
    """Names of the trained contestants that are not ours."""
    return list(dict.fromkeys(mean.model for mean in means if mean.budget and mean.model not in OWN))


def best_twin(means: Iterable[Mean], budget: float) -> Mean | None:
    """The twin with the lowest loss at a budget, of those without our tables."""
    candidates = [
        mean for mean in means if mean.budget == budget and mean.model not in OWN and not mean.model.endswith(COUNTED)
    ]
    return min(candidates, key=lambda mean: mean.nats_per_byte, default=None)


@dataclass(frozen=True)
class Reached:
    """When a loss is reached.

    Attributes:
        seconds: of training; None if no budget that was measured is enough.
        at_most: the shortest budget that was measured is enough already.
        by: the mean at the first budget that is enough.
    """

    seconds: float | None
    at_most: bool = False
    by: Mean | None = None


def _took(mean: Mean) -> float:
    """Seconds of training, with what came after the budget."""
    return max(mean.budget, mean.of("seconds") or 0.0)


def time_to(nats: float, budgets: list[Mean]) -> Reached:
    """When a contestant's final loss is at most ``nats``: between two budgets on a straight line over log seconds.

    Runs of different length are different runs, each with its schedule; a curve inside one run says less, since its
    rate has not fallen yet.
    """
    before = None
    for mean in budgets:
        if mean.nats_per_byte <= nats:
            if before is None:
                return Reached(_took(mean), at_most=True, by=mean)
            part = (before.nats_per_byte - nats) / (before.nats_per_byte - mean.nats_per_byte)
            seconds = _took(before) * math.exp(part * math.log(_took(mean) / _took(before)))
            return Reached(seconds, by=mean)
        before = mean
    return Reached(None)
