"""Measures how many rows a second this machine can read at random places, and how near to that the gather kernel comes.

    python benchmarks/memory_limit.py [--quick] [--threads 2] [--json FILE] [--png FILE]

The limit is a loop that only reads rows and adds them (native/probe.inl), at the best prefetch distance, on huge pages
and on small ones. The kernel is the gather of `polychron.ops`, with as many reads of rows as long from as much memory;
it also writes its outputs, and its time holds the check that every index lies inside its table. Limit and kernel take
turns; a figure is the best of the rounds, since what disturbs a measurement only ever makes it slower. Above 100 % the
kernel gains from taking tables in groups that fit a cache, which the probe's random order does not allow.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from harness.conditions import machine, versions
from polychron.analysis.speed import PREFETCH_DISTANCES, RandomRows
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.ops.dispatch import native

ROW_BYTES = (32, 64, 128, 256, 512, 1024)
WORKING_SETS = tuple(1 << bits for bits in (15, 17, 19, 20, 22, 24, 26, 28, 30))
QUICK_ROW_BYTES, QUICK_WORKING_SETS = (64, 256), (1 << 15, 1 << 19, 1 << 24, 1 << 28)
CALL_SECONDS = 0.02


@dataclass(frozen=True)
class Point:
    """Rows per second for one length of row and working set.

    Attributes:
        row_bytes: length of a row.
        working_set: bytes of all rows.
        limit: of the probe, at its best.
        prefetch_distance: where that was, in rows.
        huge_pages: whether that was on huge pages.
        limit_on_small_pages: of the probe on pages of the usual size.
        kernel: of the gather kernel, tables on huge pages.
    """

    row_bytes: int
    working_set: int
    limit: float
    prefetch_distance: int
    huge_pages: bool
    limit_on_small_pages: float
    kernel: float

    @property
    def share(self) -> float:
        """Kernel by limit."""
        return self.kernel / self.limit


def measure(row_bytes: int, working_set: int, threads: int, rounds: int) -> Point:
    """One point. ``row_bytes`` is a power of two from 32 to 1,024, ``working_set`` a larger one."""
    rows = RandomRows(row_bytes, working_set, threads)
    memory = {True: rows.memory, False: small_pages(*rows.memory.shape)}
    n_passes = max(1, round(CALL_SECONDS / rows.read(rows.memory, 0, 1)))
    limits = {(distance, pages): 0.0 for pages in memory for distance in PREFETCH_DISTANCES}
    ours = 0.0
    for _ in range(rounds):
        for (distance, pages), best in limits.items():
            limits[distance, pages] = max(best, rows.n_reads / rows.read(memory[pages], distance, n_passes))
            ours = max(ours, rows.n_reads / rows.gather(max(1, n_passes // 4)))
    (distance, pages), best = max(limits.items(), key=lambda item: item[1])
    on_small = max(rate for (_, pages), rate in limits.items() if not pages)
    return Point(row_bytes, working_set, best, distance, pages, on_small, ours)


def small_pages(n_rows: int, floats: int) -> np.ndarray:
    """(n_rows, floats) zeros on pages of the usual size."""
    memory = mmap.mmap(-1, n_rows * floats * 4)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    rows = np.frombuffer(memory, dtype=np.float32).reshape(n_rows, floats)
    rows[:] = 0  # pages that were never written would all be the same page of zeros
    return rows


def caches() -> dict[str, int]:
    """Bytes of the first core's data caches by level, where the system tells."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                sizes[f"L{level}"] = int(size.rstrip("K")) * 1024
        except (OSError, ValueError):
            continue
    return sizes


def table(points: Iterable[Point]) -> str:
    """A Markdown table, in millions of rows and billions of bytes per second."""
    lines = [
        "| row, bytes | working set | limit, M rows/s | GB/s | prefetch | small pages | kernel, M rows/s | share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {p.row_bytes} | {size_name(p.working_set)} | {p.limit / 1e6:.0f} | {p.limit * p.row_bytes / 1e9:.1f} "
        f"| {p.prefetch_distance or 'none'} | {p.limit_on_small_pages / p.limit:.0%} | {p.kernel / 1e6:.0f} "
        f"| {p.share:.0%} |"
        for p in points
    ]
    return "\n".join(lines)


def size_name(n_bytes: float) -> str:
    """Bytes in powers of 1024, whole.

    Example:
        >>> size_name(1 << 15), size_name(1 << 30)
        ('32 KiB', '1 GiB')
    """
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if n_bytes >= size:
            return f"{n_bytes / size:g} {unit}"
    return f"{n_bytes / 1024:g} KiB"


def draw(points: list[Point], cache_sizes: dict[str, int], about: str, path: Path) -> None:
    """The roofline: rows a second against the working set, and the kernel's share of it."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

    from harness.plots import FAINT, STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 7.5), layout="constrained")
        roof, share = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        lengths = sorted({point.row_bytes for point in points})
        colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, len(lengths)))
        for row_bytes, colour in zip(lengths, colours, strict=True):
            some = sorted((p for p in points if p.row_bytes == row_bytes), key=lambda p: p.working_set)
            sets = [p.working_set for p in some]
            roof.plot(sets, [p.limit for p in some], "-", color=colour, linewidth=2, label=f"{row_bytes} bytes")
            roof.plot(sets, [p.kernel for p in some], "o--", color=colour, linewidth=1.2, markersize=4)
            share.plot(sets, [p.share for p in some], "o-", color=colour, linewidth=1.2, markersize=4)
        roof.set_xscale("log", base=2)
        roof.set_yscale("log")
        roof.set_ylabel("rows per second")
        roof.set_title(f"Rows read at random places: {about}", pad=18, fontsize=11)
        roof.legend(title="row;  line: limit, dots: gather kernel", frameon=False, ncols=2, loc="upper right")
        share.set_ylabel("kernel / limit")
        share.set_ylim(bottom=0)
        share.yaxis.set_major_formatter(PercentFormatter(1.0))
        share.axhline(1, color=FAINT, linewidth=1)
        share.set_xlabel("working set: bytes of all rows (log scale)")
        share.xaxis.set_major_formatter(FuncFormatter(lambda n_bytes, _: size_name(n_bytes)))
        share.xaxis.set_minor_locator(NullLocator())
        for name, size in cache_sizes.items():
            for axes in (roof, share):
                axes.axvline(size, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
            roof.annotate(name, (size, 1.01), xycoords=("data", "axes fraction"), ha="center", color=FAINT, fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def main() -> int:
    """Prints the table, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two lengths of row, four working sets")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of limit and kernel (default 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's own choice")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--png", type=Path, help="draw them here (needs matplotlib)")
    given = parser.parse_args()
    lengths, sets = (QUICK_ROW_BYTES, QUICK_WORKING_SETS) if given.quick else (ROW_BYTES, WORKING_SETS)
    try:
        if native is None:
            raise InputError("the native kernels are not installed: pip install . builds them")
        if given.rounds < 1 or given.threads < 1:
            raise InputError("--rounds and --threads must be at least 1")
        require_memory(3 * max(sets), "the working sets", "close other programs, or take --quick")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    conditions = {"machine": machine(), "threads": given.threads, "caches": caches(), **versions()}
    print(", ".join(f"{name} {value}" for name, value in conditions.items()) + f", {os.uname().release}\n")
    points = []
    for row_bytes in lengths:
        for working_set in sets:
            points.append(measure(row_bytes, working_set, given.threads, given.rounds))
            lines = table(points[-1:]).splitlines()
            print("\n".join(lines if len(points) == 1 else lines[-1:]), flush=True)
    if given.json:
        figures = {"conditions": conditions, "points": [asdict(point) for point in points]}
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if given.png:
        draw(points, caches(), f"{given.threads} threads, kernel {conditions['kernel']}", given.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())
