"""Structural plasticity beside none: the same text, seeds and bytes, comparisons replaced every so many steps or never.

    python benchmarks/rewiring.py austen.txt --bytes 8e6 --every 100 200 400 --seeds 3

Losses are of the last tenth of the text (the first ``--score-bytes`` of it), which no training reads. Prints one JSON
object a run, which ``--results`` keeps and does not repeat, and a Markdown table at the end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from harness.kept import KeptRuns, Text, add_common_options, conditions, spread
from polychron import models, optim
from polychron.data import Vocabulary, Windows
from polychron.training.evaluate import score
from polychron.training.rewiring import Rewiring
from polychron.training.schedule import Budget, Schedule
from polychron.training.steps import train_steps


def run(text: Text, preset: str, n_bytes: float, seed: int, every: int | None, share: float) -> dict[str, object]:
    settings = models.training_defaults("delay", preset)
    vocabulary = Vocabulary.of(text.train)
    model = models.build(models.preset("delay", preset, vocabulary.size), seed)
    windows = Windows(
        vocabulary.encode(text.train), [(0, text.train.size)], length=settings.length, batch=settings.batch, seed=seed
    )
    optimizer = optim.attach(model, "sgd", visit_cap=settings.visit_cap)
    budget = Budget(steps=max(1, round(n_bytes / windows.bytes_per_batch)))
    rewiring = None if every is None else Rewiring(model, windows, every, share)
    replaced = 0

    def after_step(step: int, progress: float) -> None:
        nonlocal replaced
        if rewiring is not None:
            replaced += len(rewiring(step, progress))

    began = time.perf_counter()
    schedule = Schedule(settings.rate, settings.warmup_steps)
    *_, report = train_steps(model, windows, optimizer, schedule, budget, after_step=after_step)
    return {
        "seed": seed,
        "every": every,
        "share": share if every else None,
        "replaced": replaced,
        "seconds": time.perf_counter() - began,
        "training": report.nats_per_byte,
        "held_out": score(model, vocabulary.encode(text.held_out), vocabulary).nats_per_byte,
    }


def table_of(results: list[dict]) -> Iterator[str]:
    yield "| every | replaced | held-out | less than without, by seed | training |\n|---|---|---|---|---|"
    without = {result["seed"]: result["held_out"] for result in results if result["every"] is None}
    for every in dict.fromkeys(result["every"] for result in results):
        of_kind = [result for result in results if result["every"] == every]
        nats = [result["held_out"] for result in of_kind]
        gains = [f"{without[r['seed']] - r['held_out']:+.4f}" for r in of_kind if r["seed"] in without]
        yield (
            f"| {every or 'never'} | {statistics.mean(r['replaced'] for r in of_kind):.0f} | "
            f"{spread(nats)} | "
            f"{' / '.join(gains) if every else ''} | {statistics.mean(r['training'] for r in of_kind):.4f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", help="default: Python's standard library")
    parser.add_argument("--preset", default="tiny", help="of the delay model")
    parser.add_argument("--bytes", type=float, default=8e6)
    parser.add_argument("--every", type=int, nargs="+", default=[100])
    parser.add_argument("--share", type=float, default=0.02, help="of a layer's comparisons, each time")
    add_common_options(parser)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    kept = KeptRuns(arguments.results, key=("seed", "every"))
    text = Text(arguments.text, arguments.score_bytes)
    for seed in range(arguments.seeds):
        for every in (None, *arguments.every):
            if not kept.has(seed, every):
                kept.add(run(text, arguments.preset, arguments.bytes, seed, every, arguments.share))
    print(
        f"\n{text.name}: delay {arguments.preset}, {arguments.bytes:,.0f} bytes, {arguments.share:g} of a layer's "
        f"comparisons each time, {conditions(arguments.seeds)}\n"
    )
    print("\n".join(table_of(kept)))


if __name__ == "__main__":
    main()
