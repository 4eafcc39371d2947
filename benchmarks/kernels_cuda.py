"""Times a layer of look-up tables on a GPU beside the same layer out of PyTorch's own operations there.

    python benchmarks/kernels_cuda.py [--json FILE]

*forward*: y alone. *step*: y, the surrogate gradient of the latencies, and SGD on the rows that were read; ours through
autograd, eager without it and each part in its fastest form for the size, compiled as one graph. What is
computed is compared before it is timed, as in benchmarks/kernels.py. CUDA events around some calls in a row, the
contestants in turns (A B C A B C); a figure is the median over the rounds with its quartiles. Then the same again with
each call recorded as a CUDA graph: without what Python and the driver need to start the kernels.

The peers' sums over rows add in whatever order the hardware takes (`index_add_`, `scatter_add_`), ours always in one.
"""

from __future__ import annotations

import argparse
import itertools
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
        "update": {name: Composed.WAYS["update"][name] for name in ("index_add_", "scatter_add_")},
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


def recorded(call: Callable[[], object]) -> Callable[[], object] | None:
    """The same kernels as one CUDA graph: what a call takes without the time that Python needs to start them.

    None for a call that waits for the GPU.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


class Ours(Polychron):
    """With a leaf of its own for each call, as a recording wants it."""

    def _leaf(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().requires_grad_()


def measure(size: Size, peers: list[type[Composed]], rounds: int) -> tuple[Result, Result]:
    """Ours and the peers in turns, as they are called and as CUDA graphs.

    Raises:
        AssertionError: they do not compute the same.
    """
    generator = torch.Generator().manual_seed(0)
    layer = LookupTables(size.n, size.n, size.n_tables, size.n_comparisons)
    with torch.no_grad():
        layer.synaptic_vectors.uniform_(-1, 1, generator=generator)
    x, v = torch.randn(2, size.batch, size.n, generator=generator).cuda()
    layer.cuda()
    ours = Ours(layer, RATE)
    with torch.device("cuda"):
        contestants = [peer(layer, RATE) for peer in peers]
        ways = {peer.name: chosen for peer in contestants if (chosen := choose(peer, x, v, seconds_of))}
        check_equal(ours, contestants, x, v)
        everyone = [ours, *contestants]
        calls = {
            "forward": [lambda c=c: c.forward(x) for c in everyone],
            "step": [lambda c=c: c.step(x, v) for c in everyone],
        }
        results = []
        for how in (lambda call: call, recorded):
            named = {}
            for name, each in calls.items():
                able = {c.name: run for c, call in zip(everyone, each, strict=True) if (run := how(call)) is not None}
                named[name] = dict(zip(able, in_turns(rounds, list(able.values())), strict=True))
            results.append(Result(size, named, ways))
    return tuple(results)


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
    pairs = []
    for size in [SIZES[4], SIZES[7]] if arguments.quick else SIZES:
        pairs.append(measure(size, peers, arguments.rounds))
        print("\n".join(table([result], names).splitlines()[-1] for result in pairs[-1]), flush=True)
        if arguments.json:
            write(arguments.json, about, itertools.chain.from_iterable(pairs))
    print("\nmicroseconds: median (quartiles); ratio: its median / ours")
    for about, results in zip(("as called", "as CUDA graphs"), zip(*pairs, strict=True), strict=True):
        print(f"\n{about}:\n\n{table(list(results), names)}\n\n{summary(list(results), names)}")
    print("\n" + json.dumps({str(result.size): result.ways for result, _ in pairs}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
