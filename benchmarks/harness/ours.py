"""Our contestant: ``polychron train`` as a user starts it, with the defaults that it has for the time given."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from harness.results import OURS, TRAINED, Result
from harness.table_cost import UnknownCostError, reading_cost, training_operations
from polychron.data import Vocabulary, load_corpus
from polychron.training import open_checkpoint

ADAPT_RATE = 0.005
COST_BYTES = 20_000


def run_ours(
    text: Path, seconds: float, seed: int, threads: int, tell: Callable[[str], None], *, counted: bool = True
) -> Result:
    """Train in a process of its own, and read what it prints with ``--json``.

    With ``counted`` as users get it; otherwise its trained tables alone.

    Raises:
        RuntimeError: the process failed; its last words follow.
    """
    with tempfile.TemporaryDirectory(prefix="polychron-benchmark-") as folder:
        checkpoint = Path(folder, "run")
        events = _polychron(
            "train", text, "--holdout", "tail", "--minutes", repr(seconds / 60), "--seed", seed, "--threads", threads,
            "--out", checkpoint, *(() if counted else ("--contexts", 0)),
        )  # fmt: skip
        (adapting,) = _polychron("evaluate", checkpoint, "--adapt", ADAPT_RATE, "--threads", threads)
        trained = open_checkpoint(checkpoint)
        model = trained.load_model()
    start, result = events[0], events[-1]
    try:
        reading = reading_cost(model, _last_bytes(text, trained.vocabulary))
        costs = {
            "operations": reading.operations,
            "bytes_touched": reading.bytes,
            "training_operations": training_operations(model),
        }
    except UnknownCostError as error:
        tell(f"{OURS}: cost per byte left out: {error}")
        costs = {}
    kept = ("model", "preset", "optimizer", "rate", "batch", "length")
    return Result(
        model=OURS if counted else TRAINED,
        budget=seconds,
        seed=seed,
        nats_per_byte=result["val_nats_per_byte"],
        scored_bytes=result["val_bytes"],
        seconds=result["train_seconds"],
        trained_bytes=result["train_bytes"],
        parameters=result["parameters"],
        settings={"config": model.config.to_dict(), **{name: start.get(name) for name in kept}},
        curve=curve_of(events),
        adapting_nats_per_byte=adapting["nats_per_byte"],
        **costs,
    )


def _last_bytes(text: Path, vocabulary: Vocabulary) -> np.ndarray:
    """The end of the held-out part: what a byte costs is averaged over it."""
    return vocabulary.encode(load_corpus(text).data[-COST_BYTES:])


def _polychron(*arguments: object) -> list[dict[str, Any]]:
    """What a command line prints with ``--json``."""
    command = [sys.executable, "-m", "polychron", *map(str, arguments), "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {finished.returncode}: {finished.stderr.strip()[-2000:]}")
    return [json.loads(line) for line in finished.stdout.splitlines()]


def curve_of(events: Iterable[dict[str, Any]]) -> list[tuple[float, int, float]]:
    """(seconds, trained bytes, nats per byte) of each validation: the training event of its step has the time."""
    curve, at = [], None
    for event in events:
        if event["event"] == "training":
            at = (event["train_seconds"], event["train_bytes"])
        elif event["event"] == "validation" and at is not None:
            curve.append((*at, event["val_nats_per_byte"]))
    return curve
