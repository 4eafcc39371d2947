"""Bytes written in a second on one thread: int8 tables, a dense network of int8 weights in C, and it in PyTorch.

    python benchmarks/dense_generation.py book.txt runs/book-int8 --dense dense.safetensors --hidden 512 --steps 8000

The dense network is a perceptron over the last eight bytes, the cheapest dense model of text that we know: it keeps no
state, and what each byte brings to the first layer at each place is known beforehand, so that this layer can be rows of
tables too (*rows*; *products* is the ordinary layer). It is trained here (and kept in ``--dense``, which is read where
it exists), made int8, and scored as int8 like the tables. They should be at least as good, or the comparison is idle.
All take turns in one process; time is the thread's own, so that other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from boards.dense_int8 import DenseInt8
from boards.dense_pc import COMPILER, OPTIONS, CompiledWindow
from boards.dense_training import WindowPerceptron, kept_window, window_in_bytes, windows
from polychron import __version__, _native, runtime
from polychron.runtime import SamplingOptions
from polychron.runtime.text_stream import score_progressively
from polychron.twins.split import Split


def nats_in_bytes(network: DenseInt8, embedding: np.ndarray, split: Split, context: int) -> float:
    """Of the held-out part, every byte that has a whole context; a byte never seen also pays for its name."""
    nats = 0.0
    for piece in np.array_split(windows(split.held_out, context + 1), 100):
        logits = torch.from_numpy(network.logits(embedding[piece[:, :-1]].reshape(len(piece), -1)))
        targets = torch.from_numpy(piece[:, -1].astype(np.int64))
        costs = logits[:, : split.vocabulary.size].double() * network.logit_unit
        nats += torch.nn.functional.cross_entropy(costs, targets, reduction="sum").item()
        nats += split.vocabulary.unseen_nats * int((targets == split.vocabulary.unseen_id).sum())
    return nats / (len(split.held_out) - context)


@torch.inference_mode()
def write_in_torch(model: WindowPerceptron, prompt: np.ndarray, n: int, seed: int) -> list[int]:
    """One byte after the other in float32, draws by torch."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.from_numpy(prompt[-model.context :].astype(np.int64))[None]
    written = []
    for _ in range(n):
        chances = torch.softmax(model(tokens)[:, :-1], dim=1)
        drawn = torch.multinomial(chances, 1, generator=generator)
        tokens = torch.cat([tokens[:, 1:], drawn], dim=1)
        written.append(int(drawn))
    return written


def per_second(write: Callable[[int], object], n: int) -> float:
    write(max(1, n // 20))
    began = time.thread_time()
    write(n)
    return n / (time.thread_time() - began)


def fastest(speeds: dict[str, list[float]], of: str) -> list[float]:
    """Of the contestants whose names begin so, the one of the highest median."""
    return max((found for name, found in speeds.items() if name.startswith(of)), key=statistics.median)


def spread(figures: list[float], form: str) -> str:
    return f"{statistics.median(figures):{form}} ({min(figures):{form}} to {max(figures):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="what all were trained on, the last tenth held out")
    parser.add_argument("tables", type=Path, nargs="+", help="folders that polychron quantize wrote")
    parser.add_argument("--dense", type=Path, help="safetensors file of the trained perceptron")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--bytes", type=int, default=300_000, help="written in a turn; PyTorch writes a hundredth")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = Split.of(arguments.text)
    model = kept_window(
        arguments.dense, split.training, split.vocabulary.size, arguments.hidden, arguments.steps, arguments.seed
    )
    network, embedding = window_in_bytes(model, split.training)
    prompt = split.held_out[:64]
    contestants: dict[str, tuple[Callable[[int], object], int]] = {}
    losses: dict[str, float] = {}

    def read(folder: Path) -> None:
        tables = runtime.load(folder)
        *_, (nats, n_bytes) = score_progressively(tables, split.vocabulary.bytes_of(split.held_out.tobytes()))
        stream = tables.stream()
        stream.start(split.vocabulary.bytes_of(prompt.tobytes()))
        name = f"tables, {folder.name}, {tables.precision}"
        losses[name] = nats / n_bytes
        contestants[name] = (lambda n: stream.generate(n, SamplingOptions(seed=arguments.seed))), arguments.bytes

    for folder in arguments.tables:
        read(folder)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dense_nats = nats_in_bytes(network, embedding, split, model.context)
        side_by_side = embedding[windows(split.held_out[:2000], model.context)]
        expected = network.logits(side_by_side.reshape(len(side_by_side), -1))
        for options in OPTIONS:
            compiled = CompiledWindow(network, embedding, 1.0, folder, options)
            if not np.array_equal(compiled.logits(split.held_out[:2000]), expected):
                raise SystemExit(f"the C ({options}) does not say what numpy does")
            name = f"dense C int8, {options}"
            losses[name] = dense_nats
            contestants[name] = (lambda n, of=compiled: of.write(prompt, n, arguments.seed)), arguments.bytes
        name = "dense PyTorch float32"
        losses[name] = dense_nats
        few = max(100, arguments.bytes // 100)
        contestants[name] = (lambda n: write_in_torch(model, prompt, n, arguments.seed)), few
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(arguments.repeats):
            for name, (write, n) in contestants.items():
                speeds[name].append(per_second(write, n))
    sizes = f"{model.context} bytes-{len(model.first.bias)}-{split.vocabulary.size}, {network.n_weights:,} weights"
    print(f"polychron {__version__}, {_native.current_kernels()}; {' '.join(COMPILER)}; torch {torch.__version__}")
    print(f"Python {platform.python_version()}; one thread, seconds are the thread's own; dense: {sizes}\n")
    print("| | held-out, nats per byte | bytes/s, median (least to most) | times rows in C | times products in C |")
    print("|---|---|---|---|---|")
    against = [fastest(speeds, of) for of in ("dense C int8, rows", "dense C int8, products")]
    for name, found in speeds.items():
        print(f"| {name} | {losses[name]:.4f} | {spread(found, ',.0f')} | "
              + " | ".join(spread([a / b for a, b in zip(found, other, strict=True)], ".3g") for other in against)
              + " |")  # fmt: skip
    print(json.dumps({"losses": losses, "bytes_per_second": speeds}))


if __name__ == "__main__":
    main()
