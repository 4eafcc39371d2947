"""Times a layer against its comparisons a table: each one more doubles the rows, but as many are read.

    python benchmarks/comparisons_cost.py [--n 32] [--tables 64] [--json FILE] [--png FILE]

The time of a position should not change with n_c but for the comparisons themselves, as long as the tables stay in the
same cache. *hash* is the comparisons' part of the forward pass, *rows* the reading and adding of rows; *step* is
forward, backward and update through autograd. All n_c take turns; figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from harness.conditions import machine, versions
from harness.turns import Seconds, in_turns
from memory_limit import caches, size_name
from polychron.nn import LookupTables
from polychron.ops import RowUpdate
from polychron.ops.lookup import native

PASSES = ("forward", "hash", "rows", "step")


@dataclass(frozen=True)
class Point:
    """Seconds for each position at one number of comparisons."""

    n_comparisons: int
    table_bytes: int
    seconds: dict[str, Seconds]


def measure(n: int, n_tables: int, most_comparisons: int, batch: int, rounds: int) -> list[Point]:
    """One point for each number of comparisons from 1 on."""
    x, v = torch.randn(2, batch, n)
    x.requires_grad_()
    layers, calls = {}, {}
    for n_c in range(1, most_comparisons + 1):
        layer = layers[n_c] = LookupTables(n, n, n_tables, n_c)
        layer.use_gradient("fused", RowUpdate("sgd", rate=1e-6))
        calls |= {(n_c, name): call for name, call in calls_of(layer, x, v).items()}
    turns = dict(zip(calls, in_turns(rounds, float("inf"), *calls.values()), strict=True))
    return [
        Point(
            n_c,
            layer.synaptic_vectors.numel() * 4,
            {name: Seconds.of([s / batch for s in turns[n_c, name]]) for name in PASSES},
        )
        for n_c, layer in layers.items()
    ]


def calls_of(layer: LookupTables, x: torch.Tensor, v: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What is timed of a layer."""
    latencies, tables, anchors = x.detach()[None], layer.synaptic_vectors.detach(), layer.anchors
    row, *_ = native.address(latencies, anchors, None, None)

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    return {
        "forward": forward,
        "hash": lambda: native.address(latencies, anchors, None, None),
        "rows": lambda: native.gather(tables, row, None),
        "step": lambda: layer(x).backward(v),
    }


def level_of(n_bytes: int, sizes: dict[str, int]) -> str:
    """The nearest cache that holds so much, or memory.

    Example:
        >>> level_of(40_000, {"L1": 32_768, "L2": 1 << 20})
        'L2'
        >>> level_of(1 << 30, {"L1": 32_768})
        'memory'
    """
    return next((name for name, size in sizes.items() if n_bytes <= size), "memory")


def table(points: list[Point], sizes: dict[str, int]) -> str:
    """Markdown, nanoseconds a position; the last column says how a step compares with the first in the same cache."""
    lines = [
        "| n_c | tables | held by | " + " | ".join(f"{name}, ns" for name in PASSES) + " | rows / first in cache |",
        "|---" * (len(PASSES) + 4) + "|",
    ]
    first: dict[str, float] = {}
    for p in points:
        level = level_of(p.table_bytes, sizes)
        rows = p.seconds["rows"].median
        cells = [f"{1e9 * p.seconds[name].median:,.0f}" for name in PASSES]
        ratio = rows / first.setdefault(level, rows)
        lines.append(
            f"| {p.n_comparisons} | {size_name(p.table_bytes)} | {level} | " + " | ".join(cells) + f" | {ratio:.2f} |"
        )
    return "\n".join(lines)


def draw(points: list[Point], sizes: dict[str, int], about: str, path: Path) -> None:
    """Nanoseconds a position against n_c, with lines where the tables outgrow a cache."""
    import matplotlib
    from matplotlib.figure import Figure

    from harness.plots import FAINT, STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.8), layout="constrained")
        axes = figure.subplots()
        for name, colour in zip(PASSES, ("#D55E00", "#009E73", "#0072B2", "#6A4C93"), strict=True):
            seconds = [p.seconds[name] for p in points]
            n_c = [p.n_comparisons for p in points]
            axes.plot(n_c, [1e9 * s.median for s in seconds], "o-", color=colour, label=name, markersize=4)
            axes.fill_between(n_c, [1e9 * s.lower_quartile for s in seconds], [1e9 * s.upper_quartile for s in seconds],
                              color=colour, alpha=0.2, linewidth=0)  # fmt: skip
        for before, after in itertools.pairwise(points):
            left = level_of(before.table_bytes, sizes)
            if left != level_of(after.table_bytes, sizes):
                axes.axvline(before.n_comparisons + 0.5, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
                axes.annotate(f"{left} ends", (before.n_comparisons + 0.5, 1.0), xycoords=("data", "axes fraction"),
                              ha="right", va="top", rotation=90, color=FAINT, fontsize=9)  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.set_xlabel("n_c, comparisons a table (rows: 2^n_c)")
        axes.set_ylabel("nanoseconds a position")
        axes.set_title(about, fontsize=11)
        axes.legend(frameon=False, loc="upper left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def main() -> int:
    """Prints the table, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=32, help="neurons in and out (default 32)")
    parser.add_argument("--tables", type=int, default=64, help="tables (default 64)")
    parser.add_argument("--most", type=int, default=16, help="most comparisons a table (default 16)")
    parser.add_argument("--batch", type=int, default=4096, help="positions (default 4096)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of turns (default 9)")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--png", type=Path, help="draw them")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    about = {"machine": machine(), "versions": versions(), "threads": torch.get_num_threads(), "caches": caches()}
    print(about, "\n")
    points = measure(arguments.n, arguments.tables, arguments.most, arguments.batch, arguments.rounds)
    print(table(points, about["caches"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(about | {"points": [asdict(p) for p in points]}, indent=1))
    if arguments.png:
        title = f"n {arguments.n}, {arguments.tables} tables, batch {arguments.batch:,}, threads {about['threads']}"
        draw(points, about["caches"], f"Time of a position: {title}", arguments.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
