"""Times a layer of look-up tables beside the same layer composed of PyTorch's own operations.

    python benchmarks/kernels.py [--quick] [--json FILE]

The peer is what one would write without polychron: compare gathered latencies, form the index by an integer dot
product, read and add the rows with ``torch.nn.functional.embedding_bag``; its backward pass is autograd's (rows only:
PyTorch has no surrogate for the latencies) and its update ``torch.optim.SGD`` on sparse gradients. Both run in one
process in turns (A B A B), each figure is the median of the rounds with its quartiles.
"""

# B position, I table, R comparison, J row, K output

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import polychron
from polychron.nn import LookupTables
from polychron.ops import RowUpdate


@dataclass(frozen=True)
class Size:
    """One layer and batch."""

    n: int
    n_tables: int
    n_comparisons: int
    batch: int


FULL = [
    Size(n, n_tables, n_comparisons, batch)
    for n, n_tables in ((16, 8), (32, 64), (64, 64), (512, 128))
    for n_comparisons in (4, 8, 10)
    for batch in (1, 64, 4096)
]
QUICK = [Size(32, 64, 10, 4096), Size(32, 64, 10, 1), Size(64, 64, 8, 4096)]


class Composed(torch.nn.Module):
    """The same layer out of PyTorch's operations."""

    def __init__(self, layer: LookupTables):
        super().__init__()
        n_tables, n_rows, n_outputs = layer.synaptic_vectors.shape
        self.bag = torch.nn.EmbeddingBag(n_tables * n_rows, n_outputs, mode="sum", sparse=True)
        with torch.no_grad():
            self.bag.weight.copy_(layer.synaptic_vectors.flatten(0, 1))
        self.a, self.b = layer.anchors[..., 0].long(), layer.anchors[..., 1].long()
        self.weight = 1 << torch.arange(layer.n_comparisons)
        self.first_row = torch.arange(n_tables) * n_rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Latencies (B, n) to (B, n)."""
        bits = x[:, self.a] > x[:, self.b]
        return self.bag((bits * self.weight).sum(-1) + self.first_row)


def in_turns(rounds: int, *functions: Callable[[], object]) -> list[list[float]]:
    """Seconds per call of each function, once a round, in turns; a call is repeated until it takes 5 ms."""
    repeats = []
    for function in functions:
        function()
        begin = time.perf_counter()
        function()
        repeats.append(max(1, round(0.005 / (time.perf_counter() - begin))))
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, n, into in zip(functions, repeats, seconds, strict=True):
            begin = time.perf_counter()
            for _ in range(n):
                function()
            into.append((time.perf_counter() - begin) / n)
    return seconds


def measure(size: Size, rounds: int) -> dict[str, object]:
    """Forward, and forward + backward + update, of both; seconds as (lower quartile, median, upper quartile)."""
    layer = LookupTables(size.n, size.n, size.n_tables, size.n_comparisons)
    with torch.no_grad():
        layer.synaptic_vectors.normal_()
    composed = Composed(layer)
    x = torch.randn(size.batch, size.n)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), composed(x), rtol=1e-4, atol=1e-3)
    layer.use_gradient("fused", RowUpdate("sgd", rate=1e-6))
    optimizer = torch.optim.SGD(composed.parameters(), lr=1e-6)
    v = torch.randn(size.batch, size.n)

    def forward(module: torch.nn.Module) -> None:
        with torch.no_grad():
            module(x)

    def step_ours() -> None:
        layer(x).backward(v)

    def step_composed() -> None:
        optimizer.zero_grad()
        composed(x).backward(v)
        optimizer.step()

    results: dict[str, object] = asdict(size)
    pairs = {"forward": (lambda: forward(layer), lambda: forward(composed)), "step": (step_ours, step_composed)}
    for name, functions in pairs.items():
        ours, peer = (statistics.quantiles(s, n=4) for s in in_turns(rounds, *functions))
        results[name] = {"polychron": ours, "composed": peer, "ratio": peer[1] / ours[1]}
    return results


def main() -> None:
    """Prints a table; with --json also writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three sizes only")
    parser.add_argument("--rounds", type=int, default=11, help="rounds of A B (default 11)")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    info = polychron.kernel_info()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, polychron {polychron.__version__}")
    print(f"kernel {info['kernel']}, {info['threads']} threads, huge pages {info['huge_pages']}")
    print("microseconds: median of the rounds; ratio: composed / polychron\n")
    print(f"{'n':>4} {'n_t':>4} {'n_c':>4} {'batch':>6} | {'forward':>9} {'composed':>9} {'ratio':>6} |"
          f" {'step':>9} {'composed':>9} {'ratio':>6}")  # fmt: skip
    rows = []
    for size in QUICK if arguments.quick else FULL:
        row = measure(size, arguments.rounds)
        rows.append(row)
        cells = [
            f"{1e6 * row[name]['polychron'][1]:9.0f} {1e6 * row[name]['composed'][1]:9.0f} {row[name]['ratio']:6.1f}"
            for name in ("forward", "step")
        ]
        print(f"{size.n:4} {size.n_tables:4} {size.n_comparisons:4} {size.batch:6} | " + " | ".join(cells), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"kernel_info": info, "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
