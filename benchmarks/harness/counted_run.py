"""A timed run of a tuned twin with our counted and recent tables beside it, as a result of the benchmark."""

from __future__ import annotations

from dataclasses import asdict

from harness.context_cost import context_cost, recent_cost
from harness.ours import COST_BYTES
from harness.results import COUNTED, Result
from harness.twin_run import training_operations
from polychron.twins.counted import train_counted
from polychron.twins.split import Split
from polychron.twins.training import Settings
from polychron.twins.twin import Recipe


def run_counted(recipe: Recipe, settings: Settings, split: Split, seconds: float, seed: int) -> Result:
    """Train for ``seconds``, counting included, and score the held-out part."""
    found = train_counted(recipe, settings, split, seconds, seed)
    trained = found.trained
    reading = trained.twin.reading_cost() + context_cost(found.contexts, split.held_out[-COST_BYTES:]) + recent_cost()
    kept = {"steps": trained.steps, "scale": found.belief.scale, "alone_nats_per_byte": trained.nats_per_byte}
    return Result(
        model=recipe.name + COUNTED,
        budget=seconds,
        seed=seed,
        nats_per_byte=found.nats_per_byte,
        scored_bytes=trained.scored_bytes,
        seconds=found.seconds,
        trained_bytes=trained.trained_bytes,
        parameters=trained.twin.n_parameters(),
        operations=reading.operations,
        bytes_touched=reading.bytes,
        training_operations=training_operations(trained),
        settings={**asdict(settings), **kept},
    )
