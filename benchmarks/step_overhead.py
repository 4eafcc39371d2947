"""Times what a training step of a tiny model spends outside the kernels.

    python benchmarks/step_overhead.py [--threads 1] [--json FILE]

A step on one window of one byte, four ways. *kernels*: the native call alone, with its arguments made beforehand.
*train_step*: LanguageModel.train_step, as a user calls it. *loop*: a step of polychron train, with its schedule, seed,
batch and smoothing. *autograd*: loss(...).backward() through the modules, as any torch model. All take turns; a figure
is the best of the rounds, since what disturbs so short a call only ever adds to it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from harness.conditions import machine, versions
from harness.turns import Seconds, in_turns
from polychron import models, optim
from polychron.data import Windows
from polychron.models import DelayConfig, ModelConfig
from polychron.nn import Chain
from polychron.ops.lookup.native import view
from polychron.training.schedule import Budget, Schedule
from polychron.training.steps import train_steps

STEPS_OF_LOOP = 100
RATE = 1e-6


def tiny(n_layers: int, drop: float = 0.0) -> tuple[ModelConfig, float]:
    """Eight neurons, two tables a layer; and the part of the tables that a step leaves out."""
    config = DelayConfig(
        vocabulary_size=8, n_neurons=8, n_layers=n_layers, n_tables=2, n_comparisons=3, max_delay=4,
        readout_n_tables=2, readout_n_comparisons=3, readout_max_delay=1,
    )  # fmt: skip
    return config, drop


MODELS = {"1 layer": tiny(1), "4 layers": tiny(4), "4 layers, drop 0.5": tiny(4, 0.5)}


def calls_of(config: ModelConfig, drop: float) -> dict[str, Callable[[], object]]:
    """The ways to make a step; "loop" makes :data:`STEPS_OF_LOOP` of them."""
    model = models.build(config, seed=0)
    optimizer = optim.attach(model, "sgd", rate=RATE, drop=drop)
    tokens, targets = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64)
    layers = model.layers_in_order()
    chain = Chain(model.embedding.latencies, layers, trains=True)
    model.train()
    kept = [view(layer.draw_step()) for layer in layers] if drop else []
    seeds = [layer.update.seed for layer in layers] if drop else []
    factors = [1.0] * len(kept)
    numbers = (RATE, 0.0, (), float("inf"))
    given = (tokens.numpy(), targets.numpy(), "sgd", *numbers, seeds, kept, factors, None, torch.get_num_threads())
    text = (np.arange(4096) % config.vocabulary_size).astype(np.int64)
    windows = Windows(text, [(0, text.size)], length=1, batch=1, seed=0)

    def loop() -> None:
        for _ in train_steps(model, windows, optimizer, Schedule(RATE), Budget(steps=STEPS_OF_LOOP)):
            pass

    return {
        "kernels": lambda: chain._chain.train(*given),
        "train_step": lambda: model.train_step(tokens, targets),
        "loop": loop,
        "autograd": lambda: model.loss(tokens, targets).backward(),
    }


def measure(config: ModelConfig, drop: float, rounds: int) -> dict[str, Seconds]:
    """Seconds of a step, each way."""
    calls = calls_of(config, drop)
    turns = dict(zip(calls, in_turns(rounds, float("inf"), *calls.values()), strict=True))
    turns["loop"] = [seconds / STEPS_OF_LOOP for seconds in turns["loop"]]
    return {name: Seconds.of(seconds) for name, seconds in turns.items()}


def table(results: dict[str, dict[str, Seconds]]) -> str:
    """Markdown, in microseconds."""
    ways = list(next(iter(results.values())))
    lines = [
        "| model | " + " | ".join(f"{way}, µs" for way in ways) + " | outside kernels: train_step | loop | autograd |",
        "|---" * (len(ways) + 4) + "|",
    ]
    for name, seconds in results.items():
        kernels = seconds["kernels"].lowest
        cells = [f"{1e6 * seconds[way].lowest:.1f}" for way in ways]
        cells += [f"{1e6 * (seconds[way].lowest - kernels):.1f}" for way in ways[1:]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--rounds", type=int, default=51, help="rounds of turns (default 51)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    about = {"machine": machine(), "versions": versions(), "threads": torch.get_num_threads()}
    print(about)
    results = {name: measure(*model, arguments.rounds) for name, model in MODELS.items()}
    print(table(results))
    if arguments.json:
        figures = {name: {way: vars(s) for way, s in seconds.items()} for name, seconds in results.items()}
        arguments.json.write_text(json.dumps(about | {"results": figures}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
