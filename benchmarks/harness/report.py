"""The result folder as a page of Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from harness.results import OURS, TRAINED, Result
from harness.summary import Mean, best_twin, frontier, means_of, time_to, twins_in

NOTHING = "—"


def markdown(about: dict[str, Any], results: list[Result], tunings: dict[str, dict[str, Any]]) -> str:
    """All tables, under a headline that says what was measured with what."""
    means = means_of(results)
    parts = [
        heading(about, results),
        "## Loss after a time of training\n",
        loss_table(means),
        "## What a byte costs\n",
        cost_table(means),
        "## References\n",
        reference_table(means),
        "## Time to equal loss\n",
        equal_loss_table(means),
        "## Settings chosen before the timed runs\n",
        tuning_table(tunings),
    ]
    return "\n".join(parts)


def heading(about: dict[str, Any], results: list[Result]) -> str:
    """Conditions."""
    distinct = {}
    for result in results:
        for name, value in result.conditions.items():
            distinct.setdefault(name, []).append(str(value))
    conditions = ", ".join(f"{name} {' / '.join(dict.fromkeys(values))}" for name, values in distinct.items())
    seeds = sorted({result.seed for result in results if result.seed is not None})
    return (
        f"# Language models on {about['text']}\n\n"
        f"{about['bytes']:,} bytes (SHA-256 {about['sha256'][:16]}…), the last {about['held_out']:,} held out; "
        f"{about['threads']} threads, {about['machine']}; {conditions}.\n"
        f"Nats per held-out byte: mean of seeds {', '.join(map(str, seeds))} ± half the range. "
        "Only training counts as time.\n"
    )


def loss_table(means: list[Mean]) -> str:
    """A row for each contestant, a column for each budget."""
    budgets = sorted({mean.budget for mean in means if mean.budget})
    by_key = {(mean.model, mean.budget): mean for mean in means}
    best = {budget: min(m.nats_per_byte for m in means if m.budget == budget) for budget in budgets}

    def cell(model: str, budget: float) -> str:
        mean = by_key.get((model, budget))
        if mean is None:
            return ""
        text = f"{mean.nats_per_byte:.4f}"
        text = f"**{text}**" if mean.nats_per_byte == best[budget] else text
        return f"{text} ± {mean.spread:.4f}" if len(mean.runs) > 1 else f"{text} (1 seed)"

    rows = [[model, *(cell(model, budget) for budget in budgets)] for model in _trained(means)]
    return _table(["model", *(f"{budget:g} s" for budget in budgets)], rows)


def cost_table(means: list[Mean]) -> str:
    """Parameters, operations and bytes touched, at the longest budget of each contestant."""
    rows = []
    for model in _trained(means):
        mean = frontier(means, model)[-1]
        rows.append(
            [
                model,
                f"{mean.budget:g} s",
                _count(mean.of("parameters")),
                _count(mean.of("operations")),
                _count(mean.of("bytes_touched")),
                _count(mean.of("training_operations")),
                _count(mean.of("bytes_per_second")),
                _count(mean.of("trained_bytes")),
            ]
        )
    return _table(
        [
            "model", "run of", "parameters", "operations / byte read", "bytes touched / byte read",
            "operations / byte trained on", "bytes / s of training", "bytes trained on",
        ],
        rows,
    )  # fmt: skip


def reference_table(means: list[Mean]) -> str:
    """Plain statistics, by order; and ours where it goes on learning while it is scored, as PPMd does."""
    rows = []
    for mean in frontier(means, OURS):
        nats = mean.of("adapting_nats_per_byte")
        if nats is not None:
            name = f"{OURS} after {mean.budget:g} s, learning while it is scored"
            rows.append([name, f"{nats:.4f}", f"{nats / math.log(2):.4f}", f"{mean.of('seconds'):.1f}"])
    for mean in means:
        if mean.budget is None:
            nats = mean.nats_per_byte
            rows.append([mean.model, f"{nats:.4f}", f"{nats / math.log(2):.4f}", f"{mean.of('seconds'):.1f}"])
    return _table(["reference", "nats / byte", "bits / byte", "seconds"], rows)


def equal_loss_table(means: list[Mean]) -> str:
    """For each budget the best twin's loss: when we have it and at what cost; then the same the other way round."""
    rows = []
    for budget in sorted({mean.budget for mean in means if mean.budget}):
        twin = best_twin(means, budget)
        if twin is not None:
            rows.append(_equal_loss_row(twin, frontier(means, OURS), budget))
            if frontier(means, TRAINED):
                rows.append(_equal_loss_row(twin, frontier(means, TRAINED), budget))
    for mean in frontier(means, OURS):
        for model in twins_in(means):
            budgets = frontier(means, model)
            if budgets and mean.budget in {other.budget for other in budgets}:
                rows.append(_equal_loss_row(mean, budgets, mean.budget))
    return _table(
        ["loss of", "after", "nats / byte", "reached by", "after", "times faster", "operations", "bytes touched"], rows
    )


def _equal_loss_row(target: Mean, budgets: list[Mean], budget: float) -> list[str]:
    row = [target.model, f"{budget:g} s", f"{target.nats_per_byte:.4f}", budgets[0].model if budgets else OURS]
    reached = time_to(target.nats_per_byte, budgets)
    if reached.seconds is None:
        longest = f"not in {budgets[-1].budget:g} s ({budgets[-1].nats_per_byte:.4f})" if budgets else NOTHING
        return [*row, longest, "", "", ""]
    sign = "≤ " if reached.at_most else ""
    ratio = budget / reached.seconds
    return [
        *row,
        f"{sign}{reached.seconds:.3g} s",
        f"{'≥ ' if reached.at_most else ''}{ratio:.3g}",
        _ratio(target.of("operations"), reached.by.of("operations")),
        _ratio(target.of("bytes_touched"), reached.by.of("bytes_touched")),
    ]


def tuning_table(tunings: dict[str, dict[str, Any]]) -> str:
    """What was tried for each twin and budget."""
    rows = []
    for name, tuning in tunings.items():
        settings = tuning["settings"]
        tried = "; ".join(
            f"{trial['rate']:g}{' dropout ' + format(trial['dropout'], 'g') if trial['dropout'] else ''}: "
            + (f"{trial['nats_per_byte']:.3f}" if trial["nats_per_byte"] is not None else "diverged")
            for trial in tuning["trials"]
        )
        compiled = tuning["compiled_bytes_per_second"]
        speeds = f"{_count(tuning['eager_bytes_per_second'])} / {_count(compiled)}"
        rows.append(
            [
                name,
                f"{settings['rate']:g}",
                f"{settings['dropout']:g}",
                "yes" if settings["compiled"] else "no",
                speeds,
                f"{tuning['trial_seconds']:g} s",
                tried,
            ]
        )
    return _table(
        ["twin, budget", "rate", "dropout", "compiled", "bytes/s eager / compiled", "trials of", "rate: nats / byte"],
        rows,
    )


def _trained(means: Iterable[Mean]) -> list[str]:
    return list(dict.fromkeys(mean.model for mean in means if mean.budget))


def _ratio(theirs: float | None, own: float | None) -> str:
    if theirs is None or own is None:
        return NOTHING
    return f"{theirs / own:.3g} times fewer" if theirs >= own else f"{own / theirs:.3g} times more"


def _count(value: float | None) -> str:
    if value is None:
        return NOTHING
    for unit, size in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return "Nothing measured yet.\n"
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
