"""A timed run of a tuned twin as a result of the benchmark."""

from __future__ import annotations

from dataclasses import asdict

from harness.results import Result
from polychron.twins.split import Split
from polychron.twins.training import Settings, Trained, train
from polychron.twins.twin import Recipe

# AdamW's, per parameter and step: decay, two running means and their corrections, root, quotient, clipping.
OPTIMIZER_OPERATIONS = 15


def run_twin(recipe: Recipe, settings: Settings, split: Split, seconds: float, seed: int) -> Result:
    """Train for ``seconds`` and score the held-out part."""
    trained = train(recipe, settings, split, seconds, seed)
    twin = trained.twin
    reading = twin.reading_cost()
    return Result(
        model=recipe.name,
        budget=seconds,
        seed=seed,
        nats_per_byte=trained.nats_per_byte,
        scored_bytes=trained.scored_bytes,
        seconds=trained.seconds,
        trained_bytes=trained.trained_bytes,
        parameters=twin.n_parameters(),
        operations=reading.operations,
        bytes_touched=reading.bytes,
        training_operations=training_operations(trained),
        settings={**asdict(settings), "steps": trained.steps, "bytes_per_step": trained.trained_bytes / trained.steps},
        curve=trained.curve,
    )


def training_operations(trained: Trained) -> float:
    """Per byte trained on.

    The backward pass counts as two forward passes: a matrix is multiplied once for the gradient of its input and once
    for its own.
    """
    twin, bytes_per_step = trained.twin, trained.trained_bytes / trained.steps
    return 3 * twin.training_forward_cost().operations + OPTIMIZER_OPERATIONS * twin.n_parameters() / bytes_per_step
