"""Contestants on one text under the same terms: rates chosen first, then run after run, seed after seed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from polychron.twins.learning import Learner, learn, sample_of, search_rate
from polychron.twins.split import Split

TUNING_SEED = 1_000_003  # of no run that counts


@dataclass(frozen=True)
class Contestant:
    """One way to learn a text.

    Attributes:
        name: in tables.
        make: a split, a rate and a seed to a learner at its beginning.
        rates: to choose from.
        at_end: further figures of a run's trained learner, from it and what it was scored on.
    """

    name: str
    make: Callable[[Split, float, int], Learner]
    rates: tuple[float, ...]
    at_end: Callable[[Learner, np.ndarray], dict[str, float]] | None = None


@dataclass(frozen=True)
class Terms:
    """What every contestant gets: so many bytes to train on, or so many seconds of one thread.

    Attributes:
        n_bytes: or
        seconds: of processor time.
        trial_bytes: for each rate, on the end of the training part, or
        trial_seconds: of processor time for each; neither: the first rate is taken.
        sample_bytes: of the held-out part that are scored.
        looks: parts of the budget after which to score on the way.
    """

    n_bytes: int | None = None
    seconds: float | None = None
    trial_bytes: int = 0
    trial_seconds: float | None = None
    sample_bytes: int = 1 << 15
    looks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A contestant's run.

    Attributes:
        name: the contestant's.
        seed: of the run.
        rate: chosen.
        n_parameters: of the network.
        points: (steps, bytes, seconds, nats a byte) on the way; the last is the end.
        trials: (rate, nats a byte) that the rate was chosen from, by rate; None where it diverged, none without.
        further: figures by the contestant's ``at_end``.
    """

    name: str
    seed: int
    rate: float
    n_parameters: int
    points: list[tuple[int, int, float, float]]
    trials: list[tuple[float, float | None]] = field(default_factory=list)
    further: dict[str, float] = field(default_factory=dict)

    @property
    def nats(self) -> float:
        """At the end."""
        return self.points[-1][3]

    @property
    def bytes_per_second(self) -> float:
        """Trained on, in processor time."""
        return self.points[-1][1] / max(self.points[-1][2], 1e-9)


Once = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]


def run_contest(
    contestants: Sequence[Contestant],
    split: Split,
    terms: Terms,
    seeds: Sequence[int],
    *,
    once: Once = lambda name, make: make(),
    tell: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Every contestant under every seed; ``once`` may keep what was run before, by name.

    Raises:
        InputError: a contestant diverged, or the text is too short.
    """
    sample = sample_of(split.held_out, terms.sample_bytes)
    outcomes = []
    for seed in seeds:
        for contestant in contestants:
            stem = contestant.name.replace(" ", "-").replace(",", "")

            def run(contestant: Contestant = contestant, seed: int = seed, stem: str = stem) -> dict[str, Any]:
                chosen = once(f"tuning/{stem}", lambda: choose(contestant, split, terms))
                rate = chosen["rate"]
                learner = contestant.make(split, rate, seed)
                points = learn(learner, sample, n_bytes=terms.n_bytes, seconds=terms.seconds, looks=terms.looks)
                kept = [(point.steps, point.n_bytes, point.seconds, point.nats) for point in points]
                trials = chosen.get("trials", [])
                further = {} if contestant.at_end is None else contestant.at_end(learner, sample)
                return asdict(Outcome(contestant.name, seed, rate, learner.n_parameters, kept, trials, further))

            outcome = Outcome(**once(f"runs/{stem}-{seed}", run))
            tell(f"{outcome.name}, seed {seed}: {outcome.nats:.4f} nats/byte, {outcome.bytes_per_second:,.0f} bytes/s")
            outcomes.append(outcome)
    return outcomes


def choose(contestant: Contestant, split: Split, terms: Terms) -> dict[str, Any]:
    """The best of the contestant's rates on the end of the training part, which is not scored in the end."""
    by_bytes = terms.trial_seconds is None
    if (by_bytes and not terms.trial_bytes) or len(contestant.rates) == 1:
        return {"rate": contestant.rates[0], "trials": []}
    inner = split.for_tuning()
    scored = sample_of(inner.held_out, terms.sample_bytes)
    return search_rate(
        lambda rate: contestant.make(inner, rate, TUNING_SEED), contestant.rates, scored,
        n_bytes=terms.trial_bytes if by_bytes else None, seconds=terms.trial_seconds,
    ).to_dict()  # fmt: skip


def spread(figures: Sequence[float]) -> str:
    """Mean and half the range, as tables have them.

    Example:
        >>> spread([1.5, 1.7]), spread([1.5])
        ('1.6000 ± 0.1000', '1.5000 (one seed)')
    """
    mean = statistics.mean(figures)
    return f"{mean:.4f}" + (f" ± {(max(figures) - min(figures)) / 2:.4f}" if len(figures) > 1 else " (one seed)")
