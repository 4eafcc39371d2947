"""Learning on equal terms: tables and twins trained on one thread for so many bytes or so much processor time.

Time is the process' own (``time.process_time``), counted while steps are made and at no other time. On one thread it is
what the run takes on a machine of its own, whatever else a shared one does meanwhile.
"""

# B window or stream, T position, N position in the text

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polychron import models, optim
from polychron.data import Windows
from polychron.errors import InputError
from polychron.training.evaluate import score, spread_sample
from polychron.training.schedule import Budget, Schedule
from polychron.twins.split import Split
from polychron.twins.training import Settings, nats_per_byte, one_step, prepare, schedule
from polychron.twins.twin import Recipe

SAMPLE_PIECES = 8
FURTHER_RATES = 4


@dataclass(frozen=True)
class Learner:
    """Something that learns a text, ready for its first step.

    Attributes:
        step: makes step number k at a progress in [0, 1) of the budget; returns its loss in nats a byte.
        score: nats a byte of held-out ids (N,) uint8.
        bytes_per_step: bytes predicted in a step.
        n_parameters: trained numbers; of tables also the embedding, which is not trained.
        network: that learns, where there is one.
    """

    step: Callable[[int, float], float]
    score: Callable[[np.ndarray], float]
    bytes_per_step: int
    n_parameters: int
    network: torch.nn.Module | None = None


@dataclass(frozen=True)
class Point:
    """Where a run stood: steps made, bytes trained on, seconds spent, nats a byte of the held-out sample."""

    steps: int
    n_bytes: int
    seconds: float
    nats: float


def of_tables(
    config: models.ModelConfig,
    split: Split,
    seed: int,
    *,
    rate: float,
    batch: int,
    length: int,
    visit_cap: int | None = 64,
    warmup_steps: int = 20,
) -> Learner:
    """A network of tables, trained as ``polychron train`` trains it."""
    model = models.build(config, seed=seed)
    optimizer = optim.attach(model, "sgd", visit_cap=visit_cap)
    windows = Windows(split.training, [(0, split.training.size)], length=length, batch=batch, seed=seed)
    rates = Schedule(peak=rate, warmup_steps=warmup_steps)

    def step(k: int, progress: float) -> float:
        model.train()
        optimizer.rate = rates.rate(k, progress)
        torch.default_generator.manual_seed(seed * 1_000_003 + k)
        optimizer.zero_grad()
        loss = model.train_step(*windows.batch(k))
        optimizer.step()
        return loss / windows.bytes_per_batch

    def nats(tokens: np.ndarray) -> float:
        return score(model, tokens, split.vocabulary).nats_per_byte

    return Learner(step, nats, windows.bytes_per_batch, model.n_parameters(), model)


def of_twin(recipe: Recipe, settings: Settings, split: Split, seed: int) -> Learner:
    """A dense twin, trained as the benchmarks train it: AdamW, warm-up, cosine."""
    twin, batches, optimizer, loss_of = prepare(recipe, settings, split, seed)

    def step(k: int, progress: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * schedule(progress)
        return one_step(twin, optimizer, loss_of, batches.batch(k))

    def nats(tokens: np.ndarray) -> float:
        return nats_per_byte(twin, tokens, split)

    return Learner(step, nats, batches.bytes_per_batch, twin.n_parameters(), twin)


def learn(
    learner: Learner,
    held_out: np.ndarray,
    *,
    n_bytes: int | None = None,
    seconds: float | None = None,
    looks: tuple[float, ...] = (),
) -> list[Point]:
    """Train for so many bytes or seconds, the schedule fitted to them; the last point is the end's.

    Args:
        learner: at its beginning.
        held_out: (N,) ids that are scored at every point.
        n_bytes: the budget in bytes trained on, or
        seconds: in processor time.
        looks: parts of the budget after which to score on the way; looking stops the clock.

    Raises:
        InputError: not exactly one budget, or the loss is no longer finite.
    """
    steps = None if n_bytes is None else max(1, round(n_bytes / learner.bytes_per_step))
    budget = Budget(steps=steps, seconds=seconds)
    waiting = sorted(looks)
    points: list[Point] = []
    k, spent, progress = 0, 0.0, 0.0
    while progress < 1:
        began = time.process_time()
        loss = learner.step(k, progress)
        spent += time.process_time() - began
        if not math.isfinite(loss):
            raise InputError(f"the training diverged at step {k}: take a lower rate")
        k += 1
        progress = budget.progress(k, spent)
        if progress == 1 or (waiting and progress >= waiting[0]):
            waiting = [look for look in waiting if look > progress]
            points.append(Point(k, k * learner.bytes_per_step, spent, learner.score(held_out)))
    return points


@dataclass(frozen=True)
class RateSearch:
    """The rates that were tried, each with the loss after its trial; infinite where the training diverged."""

    tried: dict[float, float]

    @property
    def rate(self) -> float:
        """The one whose trial cost least."""
        return min(self.tried, key=self.tried.__getitem__)

    @property
    def is_bracketed(self) -> bool:
        """Whether it lies between two worse ones: the best at an end of what was tried may not be the best."""
        return min(self.tried) < self.rate < max(self.tried)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the rate, and pairs (rate, loss) by rate, None for a loss that diverged."""
        trials = [[rate, nats if math.isfinite(nats) else None] for rate, nats in sorted(self.tried.items())]
        return {"rate": self.rate, "trials": trials}


def search_rate(
    make: Callable[[float], Learner],
    rates: tuple[float, ...],
    held_out: np.ndarray,
    n_bytes: int | None = None,
    seconds: float | None = None,
) -> RateSearch:
    """Try rates, each in a run of so many bytes or seconds, scored on ``held_out``.

    Where the best of ``rates`` is their lowest or highest, the trials go on beyond it by the same factor until it lies
    between two worse ones, at most `FURTHER_RATES` times; a single rate is taken as it is.

    Raises:
        InputError: all diverged.
    """
    search = RateSearch({})

    def try_rate(rate: float) -> None:
        learner = make(rate)
        try:
            search.tried[rate] = learn(learner, held_out, n_bytes=n_bytes, seconds=seconds)[-1].nats
        except InputError:
            search.tried[rate] = math.inf

    for rate in rates:
        try_rate(rate)
    if not math.isfinite(search.tried[search.rate]):
        raise InputError(f"the training diverged at every rate of {', '.join(f'{rate:g}' for rate in rates)}")
    for _ in range(FURTHER_RATES if len(rates) > 1 else 0):
        ascending = sorted(search.tried)
        if search.is_bracketed:
            break
        inner = ascending[1] if search.rate == ascending[0] else ascending[-2]
        try_rate(search.rate * search.rate / inner)
    return search


def sample_of(held_out: np.ndarray, n_bytes: int) -> np.ndarray:
    """A fixed part of the held-out ids, evenly spread; all of them where there are no more."""
    return spread_sample(held_out, n_bytes, SAMPLE_PIECES)
