"""Chooses a twin's settings before its timed runs, on the end of the training text: nothing that is scored is seen."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

from polychron.errors import InputError
from polychron.twins.split import Split
from polychron.twins.training import Settings, one_step, prepare, train
from polychron.twins.twin import Recipe

RATE_STEP = 2.0
MOST_RATES = 6
DROPOUT = 0.1
SCORED_BYTES = 1 << 16
TIMED_SECONDS = 1.5
TIMED_ROUNDS = 3
WORTH_COMPILING = 1.05
SEED = 1_000_003  # of no timed run


@dataclass(frozen=True)
class Trial:
    """One setting that was tried; ``nats_per_byte`` is None where it diverged."""

    rate: float
    dropout: float
    nats_per_byte: float | None


@dataclass(frozen=True)
class Tuning:
    """What was chosen, and what it was chosen from.

    Attributes:
        settings: for the timed runs.
        trials: in the order they were made.
        trial_seconds: of training, each.
        eager_bytes_per_second: training speed without torch.compile, the best of some rounds.
        compiled_bytes_per_second: with it; None where it was not tried or did not work.
    """

    settings: Settings
    trials: list[Trial]
    trial_seconds: float
    eager_bytes_per_second: float
    compiled_bytes_per_second: float | None

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Tuning:
        """What `to_dict` made."""
        trials = [Trial(**trial) for trial in values["trials"]]
        return cls(**{**values, "settings": Settings(**values["settings"]), "trials": trials})


def tune(recipe: Recipe, split: Split, seconds: float) -> Tuning:
    """Compilation by measured speed; then the rate, by factors of two for as long as it helps; then dropout.

    Args:
        recipe: its ``rate`` is where the search begins.
        split: of the benchmark; its held-out part is not touched.
        seconds: training time of a trial, whose schedule is fitted to it.

    Raises:
        InputError: every rate diverged.
    """
    inner = split.for_tuning()
    inner = replace(inner, held_out=inner.held_out[:SCORED_BYTES])
    eager, compiled = training_speeds(recipe, inner)
    settings = Settings(recipe.rate, compiled=compiled is not None and compiled > WORTH_COMPILING * eager)
    trials: list[Trial] = []

    def attempt(rate: float, dropout: float) -> float:
        try:
            candidate = replace(settings, rate=rate, dropout=dropout)
            nats = train(recipe, candidate, inner, seconds, SEED, look=False).nats_per_byte
        except InputError:
            nats = None
        trials.append(Trial(rate, dropout, nats))
        return float("inf") if nats is None else nats

    tried = {rate: attempt(rate, 0.0) for rate in (recipe.rate, recipe.rate / RATE_STEP, recipe.rate * RATE_STEP)}
    while len(tried) < MOST_RATES:
        best = min(tried, key=tried.__getitem__)
        further = {min(tried): best / RATE_STEP, max(tried): best * RATE_STEP}.get(best)
        if further is None:
            break
        tried[further] = attempt(further, 0.0)
    best = min(tried, key=tried.__getitem__)
    if tried[best] == float("inf"):
        raise InputError(f"{recipe.name} diverged at every rate from {min(tried):g} to {max(tried):g}")
    dropout = DROPOUT if attempt(best, DROPOUT) < tried[best] else 0.0
    return Tuning(replace(settings, rate=best, dropout=dropout), trials, seconds, eager, compiled)


def training_speeds(recipe: Recipe, split: Split) -> tuple[float, float | None]:
    """Bytes trained on per second, eager and compiled, in turns, the best round of each."""
    runs = {False: prepare(recipe, Settings(recipe.rate), split, SEED)}
    if recipe.compiles:
        try:
            runs[True] = prepare(recipe, Settings(recipe.rate, compiled=True), split, SEED)
        except Exception as error:  # no compiler, or one that torch does not know: whatever it says, eager works
            print(f"{recipe.name}: torch.compile does not work here ({type(error).__name__}), eager is used")
    speeds = dict.fromkeys(runs, 0.0)
    for _ in range(TIMED_ROUNDS):
        for compiled, (twin, batches, optimizer, loss_of) in runs.items():
            began, step = time.perf_counter(), 0
            while (spent := time.perf_counter() - began) < TIMED_SECONDS / TIMED_ROUNDS or step == 0:
                one_step(twin, optimizer, loss_of, batches.batch(step))
                step += 1
            speeds[compiled] = max(speeds[compiled], step * batches.bytes_per_batch / max(spent, 1e-9))
    return speeds[False], speeds.get(True)
