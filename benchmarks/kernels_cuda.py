"""Times a layer of look-up tables on a GPU beside the same layer out of PyTorch's own operations there.

    python benchmarks/kernels_cuda.py [--json FILE]

*forward*: y alone. *step*: y, the surrogate gradient of the latencies, and SGD on the rows that were read; ours through
autograd, eager without it and each part in its fastest form for the size, compiled as one graph. What is
computed is compared before it is timed, as in benchmarks/kernels.py. CUDA events around some calls in a row, the
contestants in turns (A B C A B C); a figure is the median over the rounds with its quartiles.

The peers' sums over rows add in whatever order the hardware takes (`index_add_`, `scatter_add_`), ours always in one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch

import polychron
from harness.layer_peers import Compiled, Composed, Polychron
from harness.turns import Seconds
from kernels import RATE, Result, Size, check_equal, choose, summary, table, write
from polychron.nn import LookupTables

SIZES = [
    Size(n, n_tables, n_comparisons, batch)
    for n, n_tables, n_comparisons in ((16, 8, 4), (32, 64, 10), (64, 64, 8), (512, 64, 10), (64, 512, 10))
    for batch in (256, 4096, 65_536)
]


class OnGpu:
    """All of a batch at once, for which there is room; the backward pass is called, not started by autograd."""

    def _chunk(self) -> int:
        return 1 << 40

    def step(self, x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Y and dL/dx; the tables change."""
        with torch.no_grad():
            y, kept = self.read(x)
            return y, self.differentiate(kept, v)


class ComposedOnGpu(OnGpu, Composed):
    """The ways that make sense where a kernel's start costs microseconds."""

    WAYS: ClassVar[dict[str, dict[str, str]]] = {
        "hash": Composed.WAYS["hash"],
        "gain": {name: Composed.WAYS["gain"][name] for name in ("rows", "weights' gradient")},
        "update": {name: Composed.WAYS["update"][name] for name in ("index_add_", "scatter_add_", "sparse")},
    }


def milliseconds_of(function: Callable[[], object], n: int) -> float:
    """Of one call, by CUDA events around n."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(n):
        function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / n


def seconds_of(function: Callable[[], object]) -> float:
    """Of one call, roughly."""
    function()
    milliseconds_of(function, 3)
    return 1e-3 * min(milliseconds_of(function, 5) for _ in range(3))


def in_turns(rounds: int, functions: list[Callable[[], object]]) -> list[Seconds]:
    """Each function's seconds over the rounds."""
    repeats = [max(3, round(0.02 / seconds_of(function))) for function in functions]
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, n, into in zip(functions, repeats, seconds, strict=True):
            into.append(1e-3 * milliseconds_of(function, n))
    return [Seconds.of(each) for each in seconds]


def measure(size: Size, peers: list[type[Composed]], rounds: int) -> Result:
    """Ours and the peers in turns.

    Raises:
        AssertionError: they do not compute the same.
    """
    generator = torch.Generator().manual_seed(0)
    layer = LookupTables(size.n, size.n, size.n_tables, size.n_comparisons)
    with torch.no_grad():
        layer.synaptic_vectors.uniform_(-1, 1, generator=generator)
    x, v = torch.randn(2, size.batch, size.n, generator=generator).cuda()
    layer.cuda()
    with torch.device("cuda"):
        contestants = [peer(layer, RATE) for peer in peers]
        ways = {peer.name: chosen for peer in contestants if (chosen := choose(peer, x, v, seconds_of))}
        ours = Polychron(layer, RATE)
        check_equal(ours, contestants, x, v)
        everyone = [ours, *contestants]
        seconds = {
            "forward": in_turns(rounds, [lambda c=c: c.forward(x) for c in everyone]),
            "step": in_turns(rounds, [lambda c=c: c.step(x, v) for c in everyone]),
        }
    named = {name: {c.name: s for c, s in zip(everyone, each, strict=True)} for name, each in seconds.items()}
    return Result(size, named, ways)


def main() -> int:
    """Prints the table, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of A B A B (default 9)")
    parser.add_argument("--only-eager", action="store_true", help="without torch.compile, which takes seconds a size")
    parser.add_argument("--quick", action="store_true", help="two sizes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no GPU here")
        return 2
    peers = [ComposedOnGpu] if arguments.only_eager else [ComposedOnGpu, Compiled]
    names = [peer.name for peer in peers]
    about = {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "polychron": polychron.__version__, "kernels": polychron.kernel_info()["cuda"],
    }  # fmt: skip
    print(about, flush=True)
    results = []
    for size in [SIZES[4], SIZES[7]] if arguments.quick else SIZES:
        results.append(measure(size, peers, arguments.rounds))
        print(table(results[-1:], names).splitlines()[-1], flush=True)
        if arguments.json:
            write(arguments.json, about, results)
    print("\nmicroseconds: median (quartiles); ratio: its median / ours\n")
    print(table(results, names), "\n")
    print(json.dumps({str(result.size): result.ways for result in results}), "\n")
    print(summary(results, names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
