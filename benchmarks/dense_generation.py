"""Bytes written in a second on one thread: tables, and dense networks of equal loss in PyTorch and in int8 C.

    python benchmarks/dense_generation.py book.txt runs/book runs/book-int8 --transformer transformer.safetensors \\
      --width 96 --layers 3 --heads 3 --rate 0.003 --transformer-bytes 4200000
    python benchmarks/dense_generation.py book.txt runs/micro-int8 --window window.safetensors --hidden 512 --steps 8000

Dense are a transformer that remembers keys and values (`polychron.twins`), and a perceptron over the last eight bytes,
which keeps no state: what each byte brings to its first layer at each place is known beforehand, so that this layer can
be rows of tables too (*rows*; *products* is the ordinary layer). Both are trained here and kept in the files named,
which are read where they exist; ``--transformer`` may be given several times. They write in PyTorch (float32, eager and
compiled) and in C (int8 weights); losses are of what writes: int8 is scored as int8, a transformer reads the held-out
part byte after byte. The tables should be at least as good, or the comparison is idle. All take turns in one process;
time is the thread's own, so that other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from boards.dense_int8 import DenseInt8
from boards.dense_pc import COMPILER, OPTIONS, CompiledWindow
from boards.dense_training import WindowPerceptron, kept_window, window_in_bytes, windows
from boards.transformer_pc import CompiledTransformer, Int8Transformer
from boards.transformer_training import kept_transformer
from polychron import __version__, _native, runtime
from polychron.runtime import SamplingOptions
from polychron.runtime.text_stream import score_progressively
from polychron.twins.split import Split
from polychron.twins.transformer import Transformer, TransformerSize
from polychron.twins.transformer_cache import CachedTransformer, stream_nats


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


def spread(figures: list[float], form: str) -> str:
    return f"{statistics.median(figures):{form}} ({min(figures):{form}} to {max(figures):{form}})"


@dataclass(frozen=True)
class Contestant:
    """What writes, how well it predicts the held-out part, and how many bytes it writes in a turn."""

    name: str
    nats: float
    write: Callable[[int], object]
    n: int


def of_tables(folder: Path, split: Split, arguments: argparse.Namespace) -> Contestant:
    tables = runtime.load(folder)
    *_, (nats, n_bytes) = score_progressively(tables, split.vocabulary.bytes_of(split.held_out.tobytes()))
    stream = tables.stream()
    stream.start(split.vocabulary.bytes_of(split.held_out[:64].tobytes()))
    options = SamplingOptions(seed=arguments.seed)
    name = f"tables, {folder.name}, {tables.precision}"
    return Contestant(name, nats / n_bytes, lambda n: stream.generate(n, options), arguments.bytes)


def of_window(split: Split, arguments: argparse.Namespace, folder: Path) -> list[Contestant]:
    """The perceptron in every way that its C is compiled, and in PyTorch.

    Raises:
        SystemExit: the C does not say what numpy does.
    """
    model = kept_window(
        arguments.window, split.training, split.vocabulary.size, arguments.hidden, arguments.steps, arguments.seed
    )
    network, embedding = window_in_bytes(model, split.training)
    nats = nats_in_bytes(network, embedding, split, model.context)
    side_by_side = embedding[windows(split.held_out[:2000], model.context)]
    expected = network.logits(side_by_side.reshape(len(side_by_side), -1))
    prompt, made = split.held_out[:64], []
    about = f"window {model.context} bytes, {network.n_weights:,} weights"
    for options in OPTIONS:
        compiled = CompiledWindow(network, embedding, 1.0, folder, options)
        if not np.array_equal(compiled.logits(split.held_out[:2000]), expected):
            raise SystemExit(f"the C ({options}) does not say what numpy does")
        write = lambda n, of=compiled: of.write(prompt, n, arguments.seed)  # noqa: E731
        made.append(Contestant(f"{about}, C int8, {options}", nats, write, arguments.bytes))
    write = lambda n: write_in_torch(model, prompt, n, arguments.seed)  # noqa: E731
    return [*made, Contestant(f"{about}, PyTorch float32", nats, write, max(100, arguments.bytes // 100))]


def of_transformer(path: Path, split: Split, arguments: argparse.Namespace, folder: Path) -> list[Contestant]:
    """A transformer in C, and in PyTorch eager and compiled.

    Raises:
        SystemExit: the C or the compiled one does not say what the eager one does.
    """
    size = TransformerSize(arguments.width, arguments.layers, arguments.heads, arguments.context)
    twin = kept_transformer(path, split, size, arguments.rate, arguments.transformer_bytes, arguments.seed)
    about = f"transformer {path.stem}, {twin.n_parameters():,} weights"
    prompt = split.held_out[:64]
    held_out = torch.from_numpy(split.held_out.astype(np.int64))
    few = max(100, arguments.bytes // 100)
    nats = with_unseen(stream_nats(twin, held_out).sum(dtype=torch.float64).item(), split)
    made = [of_cached(f"{about}, PyTorch float32, eager", twin, nats, prompt, few, arguments.seed, compiled=False)]
    if not arguments.eager:
        name = f"{about}, PyTorch float32, torch.compile"
        made.append(of_cached(name, twin, nats, prompt, few, arguments.seed, compiled=True))
        if made[0].write(100) != made[1].write(100):
            raise SystemExit("the compiled transformer does not write what the eager one does")
    int8 = Int8Transformer(twin)
    (part := folder / path.stem).mkdir()
    compiled = CompiledTransformer(int8, part)
    with torch.no_grad():
        expected = int8.read(held_out[None, :2000])[0]
    said = torch.from_numpy(compiled.logits(split.held_out[:2000]))
    if (said - expected).abs().mean() > 0.01 * expected.std():
        raise SystemExit("the C does not say what its definition in PyTorch does")
    costs = torch.nn.functional.cross_entropy(
        torch.from_numpy(compiled.logits(split.held_out[:-1])), held_out[1:], reduction="sum"
    )
    nats = with_unseen(costs.item(), split)
    write = lambda n: compiled.write(prompt, n, arguments.seed)  # noqa: E731
    return [*made, Contestant(f"{about}, C int8", nats, write, arguments.bytes)]


def of_cached(
    name: str, twin: Transformer, nats: float, prompt: np.ndarray, n: int, seed: int, *, compiled: bool
) -> Contestant:
    cached = CachedTransformer(twin, compiled=compiled)
    ids = torch.from_numpy(prompt.astype(np.int64))
    cached.write(ids, 10, seed)  # what is compiled is compiled now
    return Contestant(name, nats, lambda n: cached.write(ids, n, seed), n)


def with_unseen(nats: float, split: Split) -> float:
    """Nats a byte; a byte never seen also pays for its name."""
    n_unseen = int(np.count_nonzero(split.held_out[1:] == split.vocabulary.unseen_id))
    return (nats + n_unseen * split.vocabulary.unseen_nats) / (len(split.held_out) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="what all were trained on, the last tenth held out")
    parser.add_argument("tables", type=Path, nargs="+", help="folders that polychron train or quantize wrote")
    parser.add_argument("--window", type=Path, help="safetensors file of the perceptron")
    parser.add_argument("--hidden", type=int, default=512, help="of a perceptron that is trained now")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--transformer", type=Path, action="append", default=[], help="safetensors file of one")
    parser.add_argument("--width", type=int, default=64, help="of a transformer that is trained now")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--context", type=int, default=64, help="bytes that it remembers")
    parser.add_argument("--rate", type=float, default=8e-3)
    parser.add_argument("--transformer-bytes", type=int, default=3_000_000, help="that it is trained on")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--bytes", type=int, default=300_000, help="written in a turn; PyTorch writes a hundredth")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split = Split.of(arguments.text)
    ours = [of_tables(folder, split, arguments) for folder in arguments.tables]
    with tempfile.TemporaryDirectory() as temporary:
        dense = [] if arguments.window is None else of_window(split, arguments, Path(temporary))
        for path in arguments.transformer:
            dense += of_transformer(path, split, arguments, Path(temporary))
        speeds: dict[str, list[float]] = {contestant.name: [] for contestant in (*ours, *dense)}
        for _ in range(arguments.repeats):
            for contestant in (*ours, *dense):
                speeds[contestant.name].append(per_second(contestant.write, contestant.n))
    print(f"polychron {__version__}, {_native.current_kernels()}; {' '.join(COMPILER)}; torch {torch.__version__}")
    print(f"Python {platform.python_version()}; one thread, seconds are the thread's own\n")
    columns = "".join(f" times slower than {contestant.name} |" for contestant in ours)
    print(f"| | held-out, nats per byte | bytes/s, median (least to most) |{columns}")
    print("|---|---|---|" + "---|" * len(ours))
    for contestant in (*ours, *dense):
        found = speeds[contestant.name]
        times = ([a / b for a, b in zip(speeds[one.name], found, strict=True)] for one in ours)
        print(f"| {contestant.name} | {contestant.nats:.4f} | {spread(found, ',.0f')} | "
              + " | ".join(spread(figures, ".3g") for figures in times) + " |")  # fmt: skip
    losses = {contestant.name: contestant.nats for contestant in (*ours, *dense)}
    print(json.dumps({"losses": losses, "bytes_per_second": speeds}))


if __name__ == "__main__":
    main()
