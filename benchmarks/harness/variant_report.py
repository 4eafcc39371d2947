"""Table and picture of `benchmarks/variants.py`."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from harness.plots import FAINT, OUR_COLOUR, STYLE, TWIN_COLOURS

TASKS = {"text": ("nats per byte", "kB"), "images": ("wrong answers", "thousand images")}


def groups(results: list[dict[str, Any]], task: str, variants: tuple[str, ...]) -> dict[str, dict[str, list]]:
    """Variant to its runs at equal amount and equal time, in the order of ``variants``."""
    found: dict[str, dict[str, list]] = {}
    for variant in variants:
        runs = [result for result in results if result["task"] == task and result["variant"] == variant]
        if runs:
            found[variant] = {kind: [run for run in runs if run["budget"] == kind] for kind in ("amount", "seconds")}
    return found


def figure_of(runs: list[dict[str, Any]]) -> str:
    """Mean of the losses, and half their range where there are several."""
    losses = [run["loss"] for run in runs]
    if not losses:
        return "-"
    mean = statistics.mean(losses)
    return f"{mean:.4f}" + (f" ± {(max(losses) - min(losses)) / 2:.4f}" if len(losses) > 1 else " (one seed)")


def rate_of(rate: float, trials: list[list[float]]) -> str:
    """The rate, and whether it was the lowest or the highest that was tried: then it may not be the best.

    Example:
        >>> rate_of(0.02, [[0.01, 2.1], [0.02, 2.0], [0.04, None]]), rate_of(0.02, [[0.01, 2.1], [0.02, 2.0]])
        ('0.02', '0.02 (the highest tried)')
    """
    tried = [rate for rate, _ in trials]
    if len(tried) > 1 and rate in (min(tried), max(tried)):
        return f"{rate:g} (the {'lowest' if rate == min(tried) else 'highest'} tried)"
    return f"{rate:g}"


def markdown(
    about: dict[str, Any],
    results: list[dict[str, Any]],
    variants: tuple[str, ...],
    trials: dict[tuple[str, str], list[list[float]]],
) -> str:
    """A table for each task; ``trials``: the rates tried, with their losses, by task and variant."""
    lines = []
    for task, (measure, unit) in TASKS.items():
        found = groups(results, task, variants)
        if not found:
            continue
        seeds = sorted({result["seed"] for result in results if result["task"] == task})
        name, amount = about[task], about["bytes" if task == "text" else "examples"]
        lines += [
            f"{name}, {measure}; seeds {', '.join(map(str, seeds))}; mean ± half the range; one thread of "
            f"{about['machine']}",
            "",
            f"| variant | rate | parameters | after {amount / 1000:g} {unit} | {unit} a second | "
            f"after {about['seconds']:g} s | {unit} seen then |",
            "|---|---|---|---|---|---|---|",
        ]
        for variant, kinds in found.items():
            every = kinds["amount"] + kinds["seconds"]
            speed = statistics.mean(run["trained"] / max(run["seconds"], 1e-9) for run in every)
            seen = [run["trained"] for run in kinds["seconds"]]
            rate = rate_of(every[0]["rate"], trials.get((task, variant), []))
            lines.append(
                f"| {variant} | {rate} | {every[0]['parameters']:,} | {figure_of(kinds['amount'])} | "
                f"{thousands(speed)} | {figure_of(kinds['seconds'])} | "
                f"{thousands(statistics.mean(seen) if seen else 0)} |"
            )
        lines.append("")
    return "\n".join(lines)


def thousands(amount: float) -> str:
    """In thousands, to three figures.

    Example:
        >>> thousands(23_456), thousands(2_345_678)
        ('23.5', '2,346')
    """
    return f"{amount / 1000:.3g}" if amount < 1e6 else f"{amount / 1000:,.0f}"


def highest_drawn(losses: list[float]) -> float:
    """Where the axis ends: an outlier beyond it, or a run that diverged, would squeeze all others into a corner.

    Example:
        >>> highest_drawn([1.0, 1.1, 1.2, 1.3, 9.0, math.inf])
        1.3
    """
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    low, _, high = statistics.quantiles(finite, n=4, method="inclusive") if len(finite) > 1 else finite * 3
    return max(loss for loss in finite if loss <= high + 3 * (high - low))


def draw(results: list[dict[str, Any]], variants: tuple[str, ...], path: Path) -> Path:
    """Losses of every seed, a row for each variant, a column for each task; outliers are arrows at the edge."""
    tasks = [task for task in TASKS if any(result["task"] == task for result in results)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2 * len(tasks) + 1.5, 4.6), layout="constrained")
        for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
            found = groups(results, task, variants)
            runs = [run for kinds in found.values() for of_kind in kinds.values() for run in of_kind]
            amount = {"text": "bytes", "images": "examples"}[task]
            highest = highest_drawn([run["loss"] for run in runs])
            lowest = min(run["loss"] for run in runs)
            edge = highest + 0.06 * (highest - lowest)
            for at, kinds in enumerate(reversed(list(found.values()))):
                for kind, colour, move in (("amount", TWIN_COLOURS[0], 0.14), ("seconds", OUR_COLOUR, -0.14)):
                    inside = [run["loss"] for run in kinds[kind] if run["loss"] <= highest]
                    outside = [run["loss"] for run in kinds[kind] if run["loss"] > highest]
                    equal = amount if kind == "amount" else "time"
                    label = f"at equal {equal}" if at == 0 else None
                    axes.plot(
                        inside, [at + move] * len(inside), "o", color=colour, markersize=4.5, alpha=0.8, label=label
                    )
                    if outside:
                        axes.plot([edge], [at + move], ">", color=colour, markersize=5)
                        said = ", ".join("diverged" if math.isinf(loss) else f"{loss:.2f}" for loss in sorted(outside))
                        axes.annotate(said, (edge, at + move), (6, 0), textcoords="offset points", ha="left",
                                      va="center", fontsize=7, color=colour)  # fmt: skip
            best = min(run["loss"] for kinds in found.values() for run in kinds["amount"])
            axes.axvline(best, color=FAINT, linewidth=0.8, linestyle=(0, (4, 4)), zorder=0,
                         label=f"best at equal {amount}")  # fmt: skip
            axes.set_yticks(range(len(found)), reversed(list(found)))
            axes.set_xlabel(TASKS[task][0])
            title = {"text": "Text, delay network", "images": "Images, deep network"}[task]
            axes.set_title(title, pad=24)
            axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(-0.01, 1.0))
        unfinished = path.with_suffix(".part.png")
        figure.savefig(unfinished)
        unfinished.replace(path)
    return path
