"""The paper's recurrent network (equation 11) beside GRUs of equal time: one of the usual width, one of equal size.

    python benchmarks/recurrent.py book.txt --out results --preset small --seconds 60
    python benchmarks/recurrent.py book.txt --out results --preset paper --seconds 600      # the published 5 M setting

Backpropagation through time is truncated for all after 32 bytes; ours begins every window with no state, a GRU carries
its state on, which favours it. Each rate is the best of some on the end of the training part, in trials as long as the
run: a short one recommends a higher rate than a whole run wants. One thread; seconds
are processor time. Every run is a file: --resume goes on. Prints and writes table.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from harness.conditions import machine, versions
from harness.ending import exit_code
from harness.results import ResultFolder
from polychron import models
from polychron.twins.contest import Contestant, Outcome, Terms, run_contest, spread
from polychron.twins.gru import GRU
from polychron.twins.learning import of_tables, of_twin
from polychron.twins.split import Split
from polychron.twins.training import Settings
from polychron.twins.twin import Recipe

EMBEDDING, LENGTH, STREAMS = 64, 32, 32
USUAL_WIDTH = 256
OUR_RATES = (0.01, 0.005, 0.02)
GRU_RATES = (8e-3, 4e-3, 2e-3, 1.6e-2)


def gru_parameters(width: int, vocabulary_size: int) -> int:
    """Trained numbers of a GRU."""
    gates = 3 * width * (EMBEDDING + width) + 6 * width
    return gates + vocabulary_size * EMBEDDING + (width + 1) * vocabulary_size


def width_of_size(n_parameters: int, vocabulary_size: int) -> int:
    """The width whose GRU comes nearest to so many parameters.

    Example:
        >>> gru_parameters(width_of_size(860_000, 82), 82)
        859613
    """
    width = 1
    while gru_parameters(width + 1, vocabulary_size) < n_parameters:
        width += 1
    return min((width, width + 1), key=lambda w: abs(gru_parameters(w, vocabulary_size) - n_parameters))


def contestants(split: Split, preset: str, batch: int | None) -> list[Contestant]:
    """Ours, a GRU of the usual width, and one of our size."""
    config = models.preset("recurrent", preset, split.vocabulary.size)
    training = models.training_defaults("recurrent", preset)

    def ours(split: Split, rate: float, seed: int):
        return of_tables(
            config, split, seed, rate=rate, batch=batch or training.batch, length=LENGTH, visit_cap=training.visit_cap
        )

    found = [Contestant(f"recurrent tables, {preset}", ours, OUR_RATES)]
    for name, width in (
        ("GRU", USUAL_WIDTH),
        ("GRU of equal size", width_of_size(config.n_parameters(), split.vocabulary.size)),
    ):
        recipe = Recipe(
            name, lambda k, dropout, w=width: GRU(k, w, EMBEDDING, length=LENGTH, dropout=dropout), STREAMS, 8e-3
        )

        def dense(split: Split, rate: float, seed: int, recipe: Recipe = recipe):
            return of_twin(recipe, Settings(rate), split, seed)

        found.append(Contestant(f"{name}, {width} units", dense, GRU_RATES))
    return found


def markdown(outcomes: list[Outcome], split: Split, seconds: float) -> str:
    """A row for each contestant."""
    lines = [
        f"{split.name}, nats per byte after {seconds:g} s of one thread of {machine()}; mean ± half the range",
        "",
        "| network | rate | parameters | bytes a second | nats per byte | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(outcome.name for outcome in outcomes):
        runs = [outcome for outcome in outcomes if outcome.name == name]
        speed = sum(run.bytes_per_second for run in runs) / len(runs)
        lines.append(
            f"| {name} | {runs[0].rate:g} | {runs[0].n_parameters:,} | {speed:,.0f} | "
            f"{spread([run.nats for run in runs])} | {', '.join(str(run.seed) for run in runs)} |"
        )
    return "\n".join(lines) + "\n"


def run_all(given: argparse.Namespace) -> None:
    """Measure, then report."""
    torch.set_num_threads(1)
    split = Split.of(given.text)
    trial_seconds = given.seconds if given.trial_seconds is None else given.trial_seconds
    about = {
        "text": split.name, "sha256": split.sha256, "machine": machine(), "preset": given.preset,
        "seconds": given.seconds, "trial_seconds": trial_seconds, "scored_bytes": given.scored_bytes,
        "batch": given.batch,
    }  # fmt: skip
    found = contestants(split, given.preset, given.batch)
    folder = ResultFolder(given.out, about, resume=given.resume)
    folder.once("versions.json", versions)
    terms = Terms(seconds=given.seconds, trial_seconds=trial_seconds, sample_bytes=given.scored_bytes)
    outcomes = run_contest(
        found, split, terms, given.seeds,
        once=lambda name, make: folder.once(f"{name}.json", make), tell=lambda line: print(line, flush=True),
    )  # fmt: skip
    table = markdown(outcomes, split, given.seconds)
    (given.out / "table.md").write_text(table, encoding="utf-8")
    print("\n" + table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a file, or a folder of text files")
    parser.add_argument("--out", type=Path, required=True, help="result folder")
    parser.add_argument("--preset", default="small", help="small, or paper: the published setting of 5 M")
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time for every run")
    parser.add_argument("--trial-seconds", type=float, help="for each rate that is tried (default: as long as a run)")
    parser.add_argument("--scored-bytes", type=int, default=1 << 16, help="of the held-out part")
    parser.add_argument("--batch", type=int, help="windows in a step of ours (default: the preset's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--resume", action="store_true", help="go on with the runs that --out lacks")
    given = parser.parse_args(arguments)
    return exit_code(lambda: run_all(given), given.out)


if __name__ == "__main__":
    sys.exit(main())
