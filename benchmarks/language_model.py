"""Trains our language model and dense twins on the same text for the same time, and reports who is where when.

    python benchmarks/language_model.py book.txt --out results [--budget 60 180 600] [--seeds 0 1 2] [--threads 2]
    python benchmarks/language_model.py --out results --report

The last tenth of the text is held out, and every byte of it scored once with the context that a model can use. Twins: a
transformer in three sizes, a GRU, a window MLP, each with its learning rate, dropout and torch.compile chosen before
the timed runs; *-counted* are the transformers beside the counted and recent tables that ours has. References: PPMd and
a Kneser-Ney n-gram. Every run is one JSON file in the result folder, so a benchmark that was stopped goes on with
--resume. Method: docs/benchmarks.md. Needs: pip install 'polychron[bench]'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from harness.conditions import machine, versions
from harness.counted_run import run_counted
from harness.ending import exit_code
from harness.ours import run_ours
from harness.plan import Plan, run_name, tuning_name
from harness.report import markdown
from harness.results import COUNTED, OURS, OWN, TRAINED, Result, ResultFolder, read_results
from harness.twin_run import run_twin
from polychron.errors import InputError
from polychron.twins import RECIPES
from polychron.twins.split import Split
from polychron.twins.tuning import MOST_RATES, Tuning, tune
from references.run import KNESER_NEY, NAMES, PPMD, run_reference

# Twins that take our counted and recent tables as well.
COUNTED_TWINS = tuple(name + COUNTED for name in RECIPES if name.startswith("transformer"))
MODELS = (OURS, TRAINED, *RECIPES, *COUNTED_TWINS, *NAMES)


def measure(plan: Plan, directory: Path, *, resume: bool) -> None:
    """Run what the folder does not have yet: references, then round after round.

    Raises:
        InputError: text, folder or settings cannot be used.
    """
    torch.set_num_threads(plan.threads)
    split = Split.of(plan.text)
    about = {
        "text": split.name,
        "sha256": split.sha256,
        "bytes": split.training.size + split.held_out.size,
        "held_out": split.held_out.size,
        "threads": plan.threads,
        "machine": machine(),
    }
    folder = ResultFolder(directory, about, resume=resume)
    conditions = versions()

    for name, orders in ((PPMD, plan.ppmd_orders), (KNESER_NEY, plan.kneser_ney_orders)):
        for order in orders if name in plan.models else ():
            make = lambda name=name, order=order: _with(conditions, run_reference(name, order, split))  # noqa: E731
            result = folder.run_once(f"{name}-{order}", make)
            say(f"{result.model}: {result.nats_per_byte:.4f} nats/byte, {result.seconds:.1f} s")

    runs = [run for run in plan.runs(references=NAMES) if not folder.has(run_name(*run))]
    say_how_long(plan, runs, directory)
    for number, (model, budget, seed) in enumerate(runs, start=1):
        say(f"{number}/{len(runs)}  {model}, {budget:g} s, seed {seed} ...")
        result = folder.run_once(
            run_name(model, budget, seed),
            lambda run=(model, budget, seed): _with(conditions, _trained(plan, split, folder, *run)),
        )
        say(f"{'':8}{result.nats_per_byte:.4f} nats/byte, {result.bytes_per_second:,.0f} bytes/s")


def _trained(plan: Plan, split: Split, folder: ResultFolder, model: str, budget: float, seed: int) -> Result:
    if model in OWN:
        return run_ours(plan.text, budget, seed, plan.threads, say, counted=model == OURS)
    recipe = RECIPES[model.removesuffix(COUNTED)]
    name = f"tuning/{tuning_name(recipe.name, budget)}.json"
    tuning = Tuning.from_dict(folder.once(name, lambda: tune(recipe, split, plan.trial_part * budget).to_dict()))
    run = run_counted if model in COUNTED_TWINS else run_twin
    return run(recipe, tuning.settings, split, budget, seed)


def _with(conditions: dict[str, object], result: Result) -> Result:
    return replace(result, conditions=conditions)


def say_how_long(plan: Plan, runs: list[tuple[str, float, int]], directory: Path) -> None:
    """How much training there is to do."""
    training = sum(budget for _, budget, _ in runs)
    twins = {(model.removesuffix(COUNTED), budget) for model, budget, _ in runs if model not in OWN}
    trials = sum(
        (MOST_RATES + 1) * plan.trial_part * budget
        for model, budget in twins
        if not (directory / "tuning" / f"{tuning_name(model, budget)}.json").exists()
    )
    say(
        f"{len(runs)} runs: {training / 60:.0f} minutes of training, and up to {trials / 60:.0f} of trials before; "
        "scoring and compiling come on top"
    )


def report(directory: Path) -> None:
    """Make the tables and pictures out of the folder's runs.

    Raises:
        InputError: no runs, or matplotlib is missing.
    """
    try:
        from harness.plots import draw
    except ImportError:
        raise InputError("the report needs matplotlib: pip install 'polychron[bench]'") from None
    about, results, tunings = read_results(directory)
    table = directory / "table.md"
    table.write_text(markdown(about, results, tunings), encoding="utf-8")
    say("\n" + table.read_text(encoding="utf-8"))
    for path in (table, *draw(about, results, directory)):
        say(str(path))


def say(line: str) -> None:
    """Print at once: a benchmark of hours is read through a pipe."""
    print(line, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", help="a file, or a folder of text files")
    parser.add_argument("--out", type=Path, required=True, help="result folder")
    parser.add_argument("--budget", type=_seconds, nargs="+", default=[60, 180, 600], help="seconds of training")
    parser.add_argument(
        "--our-budget", type=_seconds, nargs="*", default=[2, 5, 10, 20, 30],
        help="further seconds for ours alone, for the time to equal loss",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--twin-seeds", type=int, nargs="+", help="those of the seeds that twins run; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", choices=MODELS, nargs="+", default=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument(
        "--trial-part", type=float, default=0.2, help="part of a budget for each trial of a rate (default 0.2)"
    )
    parser.add_argument("--ppmd-orders", type=int, nargs="+", default=[4, 5, 6, 7, 8])
    parser.add_argument("--kneser-ney-orders", type=int, nargs="+", default=[5, 6, 7, 8, 9])
    parser.add_argument("--resume", action="store_true", help="go on with the runs that --out lacks")
    parser.add_argument("--report", action="store_true", help="only make tables and pictures of the runs in --out")
    return parser.parse_args(arguments)


def _seconds(word: str) -> float:
    seconds = float(word)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"seconds must be positive and finite; got {word}")
    return seconds


def run_all(given: argparse.Namespace) -> None:
    """Measure, then report."""
    if not given.report:
        if given.text is None:
            raise InputError("TEXT is missing: the file or folder to train on")
        if not 0 < given.trial_part <= 1:
            raise InputError(f"--trial-part must be above 0 and at most 1; got {given.trial_part:g}")
        if given.threads < 1 or min(given.seeds) < 0:
            raise InputError("--threads must be at least 1 and --seeds at least 0")
        plan = Plan(
            text=given.text,
            budgets=tuple(given.budget),
            our_budgets=tuple(given.our_budget),
            seeds=tuple(given.seeds),
            twin_seeds=tuple(given.twin_seeds or given.seeds),
            threads=given.threads,
            models=tuple(model for model in MODELS if model in given.models),
            trial_part=given.trial_part,
            ppmd_orders=tuple(given.ppmd_orders),
            kneser_ney_orders=tuple(given.kneser_ney_orders),
        )
        measure(plan, given.out, resume=given.resume)
    report(given.out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then report; 2 for input that cannot be used."""
    given = parse(arguments)
    return exit_code(lambda: run_all(given), given.out)


if __name__ == "__main__":
    sys.exit(main())
