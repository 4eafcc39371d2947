"""The pictures: loss against time, and loss against what it took."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from harness.results import OURS, OWN, TRAINED, Result
from harness.summary import Mean, frontier, means_of, twins_in

# Mostly Okabe and Ito's colours, told apart with any eyes; ours is the only warm and heavy line.
OUR_COLOUR = "#D55E00"
OUR_LIGHTER = "#E8A070"
TWIN_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#6A4C93", "#A3A500")
INK, FAINT = "#222222", "#8A8A8A"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.dpi": 100,
    "savefig.dpi": 200,
}


def draw(about: dict[str, Any], results: list[Result], directory: Path) -> list[Path]:
    """Write ``loss-time.png`` and ``loss-cost.png``; their paths. References alone make no picture."""
    means = means_of(results)
    if all(mean.budget is None for mean in means):
        return []
    paths = [directory / "loss-time.png", directory / "loss-cost.png"]
    with matplotlib.rc_context(STYLE):
        for path, make in zip(paths, (_loss_against_time, _loss_against_cost), strict=True):
            figure = make(about, means)
            figure.savefig(path, bbox_inches="tight")
    return paths


def _loss_against_time(about: dict[str, Any], means: list[Mean]) -> Figure:
    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    ends: list[tuple[float, float, str, str]] = []
    for model, colour in _colours(means).items():
        budgets = frontier(means, model)
        ours = model in OWN
        seconds = [mean.budget for mean in budgets]
        nats = [mean.nats_per_byte for mean in budgets]
        axes.plot(seconds, nats, "o-", color=colour, linewidth=2.6 if ours else 1.5, markersize=6 if ours else 4,
                  zorder=4 if ours else 3)  # fmt: skip
        lowest = [min(run.nats_per_byte for run in mean.runs) for mean in budgets]
        highest = [max(run.nats_per_byte for run in mean.runs) for mean in budgets]
        axes.fill_between(seconds, lowest, highest, color=colour, alpha=0.2, linewidth=0, zorder=2)
        curve = [point for run in budgets[-1].runs[:1] for point in run.curve if point[0] >= _earliest(means)]
        axes.plot([point[0] for point in curve], [point[2] for point in curve], color=colour, linewidth=0.8, alpha=0.45,
                  zorder=1)  # fmt: skip
        ends.append((seconds[-1], nats[-1], model, colour))
    axes.set_xscale("log")
    axes.set_xlim(_earliest(means) * 0.9, _latest(means) * 1.05)
    levels = [(nats, model) for _, nats, model, _ in ends]
    for name, marker in (("PPMd", None), ("Kneser-Ney", "D")):
        best = min((m for m in means if m.budget is None and m.model.startswith(name)), default=None, key=_loss)
        if best is not None:
            axes.axhline(best.nats_per_byte, color=FAINT, linewidth=1.0, linestyle=(0, (5, 4)), zorder=1)
            if marker:
                axes.plot([best.of("seconds")], [best.nats_per_byte], marker, color=FAINT, markersize=5, clip_on=True)
            ends.append((axes.get_xlim()[1], best.nats_per_byte, best.model, FAINT))
    _fit_height(axes, [level for level, _ in levels] + [end[1] for end in ends], means)
    _label_ends(axes, ends)
    _time_axis(axes, sorted({mean.budget for mean in means if mean.budget}))
    axes.set_ylabel("held-out loss, nats per byte")
    axes.set_xlabel("seconds of training (log scale)")
    axes.set_title(f"Loss after a time of training: {about['text']}, {about['threads']} threads", pad=12)
    note = (
        "points: runs of that length, mean of the seeds, band from best to worst; "
        "thin: on the way in the longest run; dashed: plain statistics"
    )
    figure.text(0.01, -0.02, note, fontsize=8, color=FAINT)
    return figure


def _loss_against_cost(about: dict[str, Any], means: list[Mean]) -> Figure:
    panels: list[tuple[str, Callable[[Mean], float | None]]] = [
        ("bytes of text trained on", lambda mean: mean.of("trained_bytes")),
        ("operations of training", lambda mean: _product(mean.of("training_operations"), mean.of("trained_bytes"))),
        ("operations per byte read", lambda mean: mean.of("operations")),
        ("bytes touched per byte read", lambda mean: mean.of("bytes_touched")),
    ]
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    grid = figure.subplots(2, 2, sharey=True)
    colours = _colours(means)
    for axes, (title, value) in zip(grid.flat, panels, strict=True):
        for model, colour in colours.items():
            points = [(value(mean), mean.nats_per_byte) for mean in frontier(means, model) if value(mean) is not None]
            ours = model in OWN
            axes.plot(*zip(*points, strict=True) if points else ((), ()), "o-", color=colour, label=model,
                      linewidth=2.6 if ours else 1.5, markersize=6 if ours else 4, zorder=4 if ours else 3)  # fmt: skip
        axes.set_xscale("log")
        axes.set_title(title, fontsize=10)
    for axes in grid[:, 0]:
        axes.set_ylabel("held-out loss, nats per byte")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(
        f"What a loss takes: {about['text']}, {about['threads']} threads; a point for each length of run",
        x=0.01, ha="left", fontweight="bold", fontsize=12,
    )  # fmt: skip
    return figure


def _colours(means: list[Mean]) -> dict[str, str]:
    trained = {mean.model for mean in means if mean.budget}
    colours = {model: TWIN_COLOURS[i % len(TWIN_COLOURS)] for i, model in enumerate(sorted(twins_in(means)))}
    own = {OURS: OUR_COLOUR, TRAINED: OUR_LIGHTER}
    return {model: colour for model, colour in own.items() if model in trained} | colours


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Names at the right edge, moved apart where they would overlap, with a thin line to where they belong."""
    low, high = axes.get_ylim()
    gap = 0.042 * (high - low)
    place = low - gap
    for _, nats, model, colour in sorted(ends, key=lambda end: end[1]):
        place = max(place + gap, nats)
        axes.annotate(
            f"{model}  {nats:.3f}",
            xy=(1.0, nats), xycoords=("axes fraction", "data"),
            xytext=(1.03, place), textcoords=("axes fraction", "data"),
            color=colour if colour != FAINT else "#666666", fontsize=9, va="center",
            fontweight="bold" if model in OWN else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def _fit_height(axes: Axes, nats: list[float], means: list[Mean]) -> None:
    """The lowest loss to the highest of any budget that not only ours has: early, thin curves may leave the frame."""
    everything = nats + [mean.nats_per_byte for mean in means if mean.budget]
    low, high = min(everything), max(everything)
    margin = max(0.06 * (high - low), 0.005)
    axes.set_ylim(low - margin, high + margin)


def _time_axis(axes: Axes, budgets: list[float]) -> None:
    axes.set_xticks(budgets)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _earliest(means: list[Mean]) -> float:
    return min(mean.budget for mean in means if mean.budget)


def _latest(means: list[Mean]) -> float:
    return max(mean.budget for mean in means if mean.budget)


def _loss(mean: Mean) -> float:
    return mean.nats_per_byte


def _product(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b
