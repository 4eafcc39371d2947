"""Times a layer of look-up tables beside the same layer out of PyTorch's own operations, and of FBGEMM's.

    python benchmarks/kernels.py [--full] [--json FILE] [--png FILE]

*forward*: y alone. *step*: y, the surrogate gradient of the latencies, and SGD on the rows that were read. Ours is the
module through autograd; eager and FBGEMM are one autograd function with each part in its fastest form for the size;
the compiled step is one graph, forward and backward, given dL/dy beforehand (benchmarks/harness/layer_peers.py).

Before anything is timed, y, gradient and the tables' change of all are compared after a step. Then they take turns in
one process (A B C A B C); a figure is the median over the rounds, a ratio that of the medians. A layer whose tables
take more than --tables-gib, or whose batch reads more than --reads-gib of rows in one pass, is left out.

*limit*: the least time in which this machine reads as many rows as long, at random places of as much memory, and does
nothing else (native/probe.inl, the best prefetch distance). A step reads them twice, since each row has a neighbour. A
peer's time over the limit is the most by which anybody could be ahead of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

import polychron
from harness.conditions import machine, versions
from harness.layer_peers import PEERS, Composed, Polychron, missing
from harness.turns import Seconds, in_turns, once
from polychron.analysis.speed import PREFETCH_DISTANCES
from polychron.nn import LookupTables
from polychron.ops.dispatch import native

PASSES = ("forward", "step")
RATE = 1e-3
READS_OF_ROWS = {"forward": 1, "step": 2}  # of each row that is addressed, at least
LONGEST_READ = 256  # numbers that the probe reads in one piece
WORTH = 4  # times as fast
GIB = 1 << 30


@dataclass(frozen=True)
class Size:
    """One layer, n to n neurons, and its batch."""

    n: int
    n_tables: int
    n_comparisons: int
    batch: int

    @property
    def table_bytes(self) -> int:
        """Of all tables."""
        return self.n_tables * self.n * 4 << self.n_comparisons

    @property
    def read_bytes(self) -> int:
        """Of the rows that a forward pass reads."""
        return self.batch * self.n_tables * self.n * 4


@dataclass
class Result:
    """One size: seconds of each contestant in each pass, and which way its parts went."""

    size: Size
    seconds: dict[str, dict[str, Seconds]]
    limit: float
    ways: dict[str, dict[str, str]] = field(default_factory=dict)

    def ratio(self, name: str, peer: str) -> float:
        """How often ours goes into the peer's time."""
        return self.seconds[name][peer].median / self.seconds[name][Polychron.name].median

    def most(self, name: str, peer: str) -> float:
        """How often the limit does."""
        return self.seconds[name][peer].median / (READS_OF_ROWS[name] * self.limit)


def grid(layers: Iterable[tuple[int, int]], comparisons: Iterable[int], batches: Iterable[int]) -> list[Size]:
    """All combinations, batch fastest; a layer is (n, n_tables)."""
    return [Size(*layer, n_c, batch) for layer, n_c, batch in itertools.product(layers, comparisons, batches)]


FULL = grid(itertools.product((16, 64, 512), (8, 64, 512)), (4, 8, 12, 16), (1, 16, 256, 4096, 65_536))
THIN = grid(((16, 8), (64, 64), (16, 512), (512, 8), (512, 512)), (4, 10, 16), (1, 64, 4096)) + grid(
    ((16, 8), (64, 64)), (4, 10), (65_536,)
)


def measure(size: Size, names: list[str], rounds: int, most_seconds: float) -> Result:
    """Ours and the named peers in turns.

    Raises:
        AssertionError: they do not compute the same.
    """
    generator = torch.Generator().manual_seed(0)
    layer = LookupTables(size.n, size.n, size.n_tables, size.n_comparisons)
    with torch.no_grad():
        layer.synaptic_vectors.uniform_(-1, 1, generator=generator)
    x, v = torch.randn(2, size.batch, size.n, generator=generator)
    peers = [PEERS[name](layer, RATE) for name in names]
    ways = {peer.name: chosen for peer in peers if (chosen := choose(peer, x, v))}
    ours = Polychron(layer, RATE)
    check_equal(ours, peers, x, v)
    calls: dict[str, Callable] = {"forward": lambda c: c.forward(x), "step": lambda c: c.step(x, v)}
    seconds = {}
    for name, call in calls.items():
        turns = in_turns(rounds, most_seconds, *(lambda c=c, call=call: call(c) for c in (ours, *peers)))
        seconds[name] = {c.name: Seconds.of(turn) for c, turn in zip((ours, *peers), turns, strict=True)}
    return Result(size, seconds, limit(size, rounds), ways)


def limit(size: Size, rounds: int) -> float:
    """Seconds of reading a forward pass's rows at random places, at best."""
    pieces = -(-size.n // LONGEST_READ)
    n_rows = size.n_tables << size.n_comparisons
    memory = native.allocate_tables([n_rows * pieces, size.n // pieces], torch.get_num_threads())
    row = np.random.default_rng(0).integers(0, n_rows, size.batch * size.n_tables, dtype=np.int32)
    reads = (row[:, None] * pieces + np.arange(pieces, dtype=np.int32)).ravel()
    n_threads = torch.get_num_threads()
    n_passes = max(1, round(0.005 / native.read_rows(memory, reads, 0, 1, n_threads)[0]))
    return min(
        native.read_rows(memory, reads, distance, n_passes, n_threads)[0] / n_passes
        for _ in range(rounds)
        for distance in PREFETCH_DISTANCES
    )


def choose(
    peer: Composed, x: torch.Tensor, v: torch.Tensor, seconds: Callable[[Callable[[], object]], float] = once
) -> dict[str, str]:
    """Lets a peer find its fastest ways; the tables are as before."""
    before = peer.tables().clone()
    chosen = peer.choose(x, v, seconds)
    peer.tables().copy_(before)
    return chosen


def check_equal(ours: Polychron, peers: list[Composed], x: torch.Tensor, v: torch.Tensor) -> None:
    """One step of each from the same tables: y, dL/dx and the tables' change must agree.

    Raises:
        AssertionError: they do not; the message names the peer and what differs.
    """
    start = ours.tables().clone()
    y, dx = (tensor.detach() for tensor in ours.step(x, v))
    change = (ours.tables() - start) / RATE
    for peer in peers:
        torch.testing.assert_close(peer.forward(x), y, rtol=1e-4, atol=1e-3)
        its_y, its_dx = peer.step(x, v)
        parts = {"y": (its_y, y), "dL/dx": (its_dx, dx), "the tables' change": ((peer.tables() - start) / RATE, change)}
        for part, (its, own) in parts.items():
            scale = float(own.abs().max())
            torch.testing.assert_close(
                its.detach(), own, rtol=1e-3, atol=1e-4 * scale + 1e-3,
                msg=lambda text, part=part, peer=peer: f"{part} of {peer.name} differs: {text}",
            )  # fmt: skip


def table(results: list[Result], peers: list[str]) -> str:
    """Markdown: our microseconds and quartiles, each peer's, and the ratio."""
    head = ["n", "n_t", "n_c", "batch"]
    for name in PASSES:
        head += [f"{name}, µs", "limit", *(f"{peer}, µs (ratio, at most)" for peer in peers)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for result in results:
        size = result.size
        cells = [str(size.n), str(size.n_tables), str(size.n_comparisons), f"{size.batch:,}"]
        for name in PASSES:
            own = result.seconds[name][Polychron.name]
            cells.append(f"{micro(own.median)} ({micro(own.lower_quartile)}-{micro(own.upper_quartile)})")
            cells.append(micro(READS_OF_ROWS[name] * result.limit))
            for peer in peers:
                it = result.seconds[name].get(peer)
                ratio = f"**{result.ratio(name, peer):.1f}**, {result.most(name, peer):.1f}" if it else ""
                cells.append(f"{micro(it.median)} ({ratio})" if it else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def micro(seconds: float) -> str:
    """Microseconds with three digits.

    Example:
        >>> micro(0.00012345), micro(1.2345)
        ('123', '1,234,500')
    """
    return f"{1e6 * seconds:,.0f}" if seconds >= 1e-4 else f"{1e6 * seconds:.3g}"


def summary(results: list[Result], peers: list[str]) -> str:
    """Least, median and largest ratio to each peer, where the least is, and at how many sizes there could be more."""
    lines = []
    for name, peer in itertools.product(PASSES, peers):
        ratios = sorted((r.ratio(name, peer), i) for i, r in enumerate(results) if peer in r.seconds[name])
        if not ratios:
            continue
        (low, where), (middle, _), (high, _) = ratios[0], ratios[len(ratios) // 2], ratios[-1]
        size = results[where].size
        at = f"n {size.n}, n_t {size.n_tables}, n_c {size.n_comparisons}, batch {size.batch:,}"
        count = sum(ratio >= WORTH for ratio, _ in ratios)
        bound = sum(ratio < WORTH and results[i].most(name, peer) < WORTH for ratio, i in ratios)
        lines.append(
            f"- {name}, {peer}: {low:.1f} (at {at}), median {middle:.1f}, up to {high:.1f}; {WORTH} or more at {count} "
            f"of {len(ratios)} sizes; at {bound} others the peer itself takes less than {WORTH} times the limit"
        )
    return "\n".join(lines)


def draw(results: list[Result], peers: list[str], about: str, path: Path) -> None:
    """The ratio against the batch: a panel for each pass and peer, a line for each layer."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    from harness.plots import FAINT, INK, STYLE

    layers = sorted({(r.size.n, r.size.n_tables) for r in results})
    comparisons = sorted({r.size.n_comparisons for r in results})
    shades = matplotlib.colormaps["viridis"](torch.linspace(0, 0.9, len(layers)).numpy())
    colours = dict(zip(layers, shades, strict=True))
    markers = dict(zip(comparisons, "osD^v<>"[: len(comparisons)], strict=True))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.2 + 2.9 * len(peers), 7), layout="constrained")
        panels = figure.subplots(len(PASSES), len(peers), sharex=True, sharey=True, squeeze=False)
        for (row, name), (column, peer) in itertools.product(enumerate(PASSES), enumerate(peers)):
            axes = panels[row, column]
            for layer, n_c in itertools.product(layers, comparisons):
                some = [
                    r for r in results
                    if (r.size.n, r.size.n_tables, r.size.n_comparisons) == (*layer, n_c) and peer in r.seconds[name]
                ]  # fmt: skip
                axes.plot([r.size.batch for r in some], [r.ratio(name, peer) for r in some], markers[n_c] + "-",
                          color=colours[layer], linewidth=1.1, markersize=4.5)  # fmt: skip
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_yticks([0.5, 1, 2, 4, 8, 16, 32, 64])
            axes.axhline(1, color=INK, linewidth=1)
            axes.axhline(WORTH, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_title(f"{name}: {peer}", fontsize=10)
            if row == len(PASSES) - 1:
                axes.set_xlabel("batch (log scale)")
            if column == 0:
                axes.set_ylabel("its time / polychron's")
        keys = [
            matplotlib.lines.Line2D([], [], color=colour, linewidth=2, label=f"n {n}, n_t {n_t}")
            for (n, n_t), colour in colours.items()
        ] + [
            matplotlib.lines.Line2D([], [], color=INK, marker=marker, linestyle="", markersize=5, label=f"n_c {n_c}")
            for n_c, marker in markers.items()
        ]
        figure.legend(handles=keys, loc="outside right upper", frameon=False)
        figure.suptitle(about, x=0.01, ha="left", fontweight="bold", fontsize=11)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def as_json(result: Result) -> dict[str, object]:
    """What the file holds of a size."""
    seconds = {name: {peer: asdict(s) for peer, s in each.items()} for name, each in result.seconds.items()}
    return asdict(result.size) | {"ways": result.ways, "limit": result.limit, "seconds": seconds}


def main() -> int:
    """Prints the table, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="every n, n_t, n_c and batch (an hour without compiled)")
    parser.add_argument("--quick", action="store_true", help="three sizes")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), help="default: all that can take part here")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of A B A B (default 9)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for the rounds of a pass and size, after the third")
    parser.add_argument("--tables-gib", type=float, default=1.0, help="leave out larger tables (default 1 GiB)")
    parser.add_argument("--reads-gib", type=float, default=4.0, help="leave out larger batches (default 4 GiB of rows)")
    parser.add_argument("--part", metavar="K/N", help="every N-th size from the K-th on, K from 1: a grid in pieces")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--json", type=Path, help="write the figures here; sizes that it already has are not repeated")
    parser.add_argument("--png", type=Path, help="draw ratios against batch")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    absent = {name: why for name in arguments.peers or PEERS if (why := missing(name))}
    wanted = [name for name in arguments.peers or PEERS if name not in absent]
    for name, why in absent.items():
        print(f"{name} is left out: {why}")

    sizes = [Size(32, 64, 10, 4096), Size(32, 64, 10, 1), Size(64, 64, 8, 4096)] if arguments.quick else THIN
    sizes = FULL if arguments.full else sizes
    sizes = [
        size for size in sizes
        if size.table_bytes <= arguments.tables_gib * GIB and size.read_bytes <= arguments.reads_gib * GIB
    ]  # fmt: skip
    if arguments.part:
        k, n = map(int, arguments.part.split("/"))
        sizes = sizes[k - 1 :: n]
    about = {"machine": machine(), "versions": versions(), "threads": torch.get_num_threads(),
             "kernels": polychron.kernel_info()["kernel"]}  # fmt: skip
    held = read(arguments.json) if arguments.json and arguments.json.exists() else {}
    print(about, flush=True)
    for size in sizes:
        if size in held and set(wanted) <= set(held[size].seconds["forward"]):
            continue
        began = time.perf_counter()
        held[size] = measure(size, wanted, arguments.rounds, arguments.seconds)
        print(table([held[size]], wanted).splitlines()[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
        if arguments.json:
            write(arguments.json, about, held.values())
    results = [held[size] for size in sizes]
    print("\nmicroseconds: median (quartiles); ratio: its median / ours\n")
    print(table(results, wanted), "\n")
    print(summary(results, wanted))
    if arguments.png:
        draw(results, wanted, f"{about['machine']}, {about['threads']} threads", arguments.png)
    return 0


def write(path: Path, about: dict[str, object], results: Iterable[Result]) -> None:
    """JSON, renamed into its place when whole."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(about | {"results": [as_json(result) for result in results]}, indent=1))
    beside.replace(path)


def read(path: Path) -> dict[Size, Result]:
    """What :func:`write` wrote."""
    found = {}
    for row in json.loads(path.read_text())["results"]:
        size = Size(*(row[key] for key in ("n", "n_tables", "n_comparisons", "batch")))
        seconds = {name: {peer: Seconds(**s) for peer, s in each.items()} for name, each in row["seconds"].items()}
        found[size] = Result(size, seconds, row["limit"], row["ways"])
    return found


if __name__ == "__main__":
    sys.exit(main())
