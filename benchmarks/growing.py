"""Teaching a trained model a second text: what is learnt of it, and what is forgotten of the first.

    python benchmarks/growing.py austen.txt --seeds 3                        # the second: Python's standard library
    python benchmarks/growing.py austen.txt shakespeare.txt --preset small --first-bytes 20e6 --bytes 5e6

A model is trained on the first text; copies of it then read equally many bytes of the second in five ways: everything
is trained; only the readout; only tables added to all layers, which began with zeros; everything, after tables, or a
comparison a table, were added. Losses are of the last tenth of each text, of which neither training reads anything (the
first ``--score-bytes`` of it). Prints one JSON object a run, which ``--results`` keeps and does not repeat, and a
Markdown table at the end.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from harness.kept import KeptRuns, Text, add_common_options, conditions, spread
from polychron import models, optim
from polychron.data import Vocabulary, Windows
from polychron.models import growth
from polychron.models.language_model import LanguageModel
from polychron.training.evaluate import score
from polychron.training.schedule import Budget, Schedule
from polychron.training.steps import train_steps


def train(model: LanguageModel, optimizer, text: Text, vocabulary: Vocabulary, n_bytes: float, settings, seed: int):
    windows = Windows(
        vocabulary.encode(text.train), [(0, text.train.size)], length=settings.length, batch=settings.batch, seed=seed
    )
    budget = Budget(steps=max(1, round(n_bytes / windows.bytes_per_batch)))
    for _ in train_steps(model, windows, optimizer, Schedule(settings.rate, settings.warmup_steps), budget):
        pass


def ways(n_tables: int) -> dict[str, Callable[[LanguageModel, int], dict[str, int] | None]]:
    """How a copy is made ready: by name, a function that grows it and says what of each layer stays as it is."""

    def layers(model: LanguageModel) -> dict[str, int]:
        return {name: dict(model.named_modules())[name].n_tables for name in growth.added_tables(model, 0)}

    def readout(model: LanguageModel, seed: int) -> dict[str, int]:
        return {name: n for name, n in layers(model).items() if name != "readout"}

    def added(model: LanguageModel, seed: int) -> dict[str, int]:
        frozen = layers(model)
        growth.add_tables(model, n_tables, seed)
        return frozen

    return {
        "everything": lambda model, seed: None,
        "the readout": readout,
        f"{n_tables} added tables a layer": added,
        f"everything, {n_tables} tables added": lambda model, seed: growth.add_tables(model, n_tables, seed),
        "everything, 1 comparison added": lambda model, seed: growth.add_comparisons(model, 1, seed),
    }


def runs_of(seed: int, arguments, first: Text, second: Text, kept: KeptRuns) -> Iterator[dict]:
    names = ["before", *ways(arguments.tables)]
    if all(kept.has(seed, name) for name in names):
        return
    settings = models.training_defaults("delay", arguments.preset)
    own = Vocabulary.of(first.train)
    base = models.build(models.preset("delay", arguments.preset, own.size), seed)
    optimizer = optim.attach(base, "sgd", visit_cap=settings.visit_cap)
    train(base, optimizer, first, own, arguments.first_bytes, settings, seed)
    both = Vocabulary.of(first.train, second.train)
    growth.extend_vocabulary(base, own, both, seed)

    def measured(name: str, model: LanguageModel) -> dict:
        nats = [score(model, both.encode(text.held_out), both).nats_per_byte for text in (first, second)]
        return {"seed": seed, "way": name, "first": nats[0], "second": nats[1], "parameters": model.n_parameters()}

    if not kept.has(seed, "before"):
        yield measured("before", base)
    for name, prepare in ways(arguments.tables).items():
        if kept.has(seed, name):
            continue
        model = copy.deepcopy(base)
        frozen = prepare(model, seed + 1)
        optimizer = optim.attach(model, "sgd", visit_cap=settings.visit_cap)
        if frozen:
            optimizer = optim.FrozenTables(optimizer, model, frozen)
        train(model, optimizer, second, both, arguments.bytes, settings, seed + 1)
        yield measured(name, model)


def table_of(results: list[dict]) -> Iterator[str]:
    yield "| trained on the second text | parameters | first text | second text |\n|---|---|---|---|"
    for name in dict.fromkeys(result["way"] for result in results):
        of_way = [result for result in results if result["way"] == name]
        cells = [spread([result[text] for result in of_way], digits=3) for text in ("first", "second")]
        yield f"| {name} | {of_way[0]['parameters']:,} | {cells[0]} | {cells[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path, nargs="?", help="default: Python's standard library")
    parser.add_argument("--preset", default="tiny", help="of the delay model")
    parser.add_argument("--first-bytes", type=float, default=8e6)
    parser.add_argument("--bytes", type=float, default=2e6)
    parser.add_argument("--tables", type=int, default=16)
    add_common_options(parser)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    kept = KeptRuns(arguments.results, key=("seed", "way"))
    first, second = Text(arguments.first, arguments.score_bytes), Text(arguments.second, arguments.score_bytes)
    for seed in range(arguments.seeds):
        for result in runs_of(seed, arguments, first, second, kept):
            kept.add(result)
    print(
        f"\n{first.name}, then {second.name}: delay {arguments.preset}, {arguments.first_bytes:,.0f} bytes, then "
        f"{arguments.bytes:,.0f}; {conditions(arguments.seeds)}\n"
    )
    print("\n".join(table_of(kept)))


if __name__ == "__main__":
    main()
