"""How fast the native kernels are on this machine: rows read from memory, layers of tables, language models.

What disturbs a turn only ever makes it slower: of memory the best turn counts. Layers and models will run in the same
company as they are measured in: of these the median does.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polychron import models, optim
from polychron.data import Windows
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.nn import LookupTables
from polychron.ops import RowUpdate
from polychron.ops.dispatch import current_kernel, native

ROW_BYTES = (64, 256)
WORKING_SETS = (32 << 10, 512 << 10, 16 << 20, 256 << 20)
LAYERS = ((32, 64, 10, 1), (32, 64, 10, 4096), (64, 64, 8, 4096), (512, 8, 10, 64))  # n, n_t, n_c, batch
PRESETS = ("micro", "tiny", "small")  # of the delay model
VOCABULARY = 83
N_MEASUREMENTS = len(ROW_BYTES) * len(WORKING_SETS) + len(LAYERS) + len(PRESETS)

# Parts of the time.
_MEMORY, _LAYERS, _MODELS = 0.4, 0.3, 0.3

PREFETCH_DISTANCES = (0, 4, 8, 16, 32, 64)
_MOST_TABLES = 64
_MOST_READS = 1 << 22
_READ_BYTES = 1 << 26  # at least, of one pass: calls from Python count for little then, and outputs stay in a cache
_READ_SECONDS = 0.02  # of a turn

_TURN_SECONDS = 0.005
_LEAST_TURNS = 3
_POSITIONS = 1 << 12  # latencies that a layer reads before any come again: at batch 1 rows would else stay in a cache
_RATE = 1e-3
_TEXT_BYTES = 1 << 20
_SCORED_BYTES = 1 << 15  # at once, as `polychron evaluate` does


@dataclass(frozen=True)
class MemorySpeed:
    """Rows a second, read at random places.

    Attributes:
        row_bytes: length of a row.
        working_set: bytes of all rows.
        rows_per_second: of a loop that only reads rows and adds them, at its best prefetch distance.
        prefetch_distance: that one, in rows.
        gather_rows_per_second: of the kernel that adds the rows of tables, which also checks and writes.
    """

    row_bytes: int
    working_set: int
    rows_per_second: float
    prefetch_distance: int
    gather_rows_per_second: float

    @property
    def bytes_per_second(self) -> float:
        """Of the loop."""
        return self.rows_per_second * self.row_bytes

    @property
    def share(self) -> float:
        """Kernel by loop; above 1 where the kernel takes tables in groups that fit a cache."""
        return self.gather_rows_per_second / self.rows_per_second


@dataclass(frozen=True)
class Spread:
    """Seconds of a call over its turns.

    Example:
        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(lower_quartile=1.5, median=2.0, upper_quartile=2.5, turns=3)
    """

    lower_quartile: float
    median: float
    upper_quartile: float
    turns: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of at least two turns."""
        return cls(*statistics.quantiles(seconds, n=4, method="inclusive"), len(seconds))


@dataclass(frozen=True)
class LayerSpeed:
    """Seconds of one :class:`polychron.nn.LookupTables`.

    Attributes:
        n_neurons: of the input and the output.
        n_tables: tables.
        n_comparisons: anchor pairs a table.
        batch: positions of a call.
        forward: the output alone.
        step: the output, the latencies' gradient, and SGD on the rows that were read.
    """

    n_neurons: int
    n_tables: int
    n_comparisons: int
    batch: int
    forward: Spread
    step: Spread

    @property
    def rows(self) -> int:
        """That a call adds: one a table and position."""
        return self.batch * self.n_tables

    @property
    def forward_rows_per_second(self) -> float:
        """Rows by the median."""
        return self.rows / self.forward.median

    @property
    def step_rows_per_second(self) -> float:
        """Rows by the median; the gradient's neighbours, as many again, do not count."""
        return self.rows / self.step.median


@dataclass(frozen=True)
class ModelSpeed:
    """Seconds of a delay model, trained tables alone.

    Attributes:
        preset: its size.
        batch: windows of a training step.
        length: bytes of a window.
        scored_bytes: of a call that scores.
        training: a step, with what makes its batch; no tables are left out.
        scoring: a call.
    """

    preset: str
    batch: int
    length: int
    scored_bytes: int
    training: Spread
    scoring: Spread

    @property
    def train_bytes_per_second(self) -> float:
        """Bytes of a step by its median."""
        return self.batch * self.length / self.training.median

    @property
    def score_bytes_per_second(self) -> float:
        """Bytes of a call by its median."""
        return self.scored_bytes / self.scoring.median


def measure_speed(seconds: float) -> Iterator[MemorySpeed | LayerSpeed | ModelSpeed]:
    """All ``N_MEASUREMENTS`` of them, in about so many seconds: memory, layers, models, on PyTorch's number of threads.

    Raises:
        InputError: see :func:`require_kernels`.

    Example:
        >>> memory = next(measure_speed(seconds=0.1))
        >>> memory.row_bytes, memory.working_set, memory.rows_per_second > 0
        (64, 32768, True)
    """
    require_kernels()
    places = list(itertools.product(ROW_BYTES, WORKING_SETS))
    for row_bytes, working_set in places:
        yield measure_memory(row_bytes, working_set, _MEMORY * seconds / len(places))
    for n_neurons, n_tables, n_comparisons, batch in LAYERS:
        yield measure_layer(n_neurons, n_tables, n_comparisons, batch, _LAYERS * seconds / len(LAYERS))
    for preset in PRESETS:
        yield measure_model(preset, _MODELS * seconds / len(PRESETS))


def require_kernels() -> None:
    """Raise InputError unless native kernels run here, and there is memory for the largest working set."""
    if native is None:
        raise InputError("polychron's native extension is missing, and it is what is measured: reinstall polychron")
    kernel = current_kernel()
    if kernel not in native.available_kernels():
        raise InputError(f"native kernels are measured, and POLYCHRON_KERNEL forces {kernel}: unset it")
    # The indices of its rows and the kernel's output come to less than a quarter more.
    require_memory(max(WORKING_SETS) * 5 // 4, "the rows to be read", "close other programs")


class RandomRows:
    """Rows in memory, and random ones to read, as many by the loop that only reads as by the gather kernel.

    Args:
        row_bytes: length of a row, a power of two from 32 to 1,024.
        working_set: bytes of all rows, a power of two, at least two rows.
        n_threads: of both.

    Attributes:
        memory: the rows, (n, numbers of a row) float32 zeros, on huge pages where the system grants them.
        n_reads: rows that a pass reads.

    Example:
        >>> rows = RandomRows(64, 1 << 15, n_threads=1)
        >>> rows.read(rows.memory, distance=0, n_passes=1) > 0, rows.gather(n_passes=1) > 0
        (True, True)
    """

    def __init__(self, row_bytes: int, working_set: int, n_threads: int):
        n_rows, n_floats = working_set // row_bytes, row_bytes // 4
        n_tables = min(_MOST_TABLES, n_rows // 2)
        n_positions = min(max(n_rows, _READ_BYTES // row_bytes), _MOST_READS) // n_tables
        random = np.random.default_rng(0)
        self._row = random.integers(0, n_rows // n_tables, (n_tables, 1, n_positions), dtype=np.int32)
        self._anywhere = random.integers(0, n_rows, self._row.size, dtype=np.int32)
        self.memory = native.allocate_tables([n_rows, n_floats], n_threads)
        self._tables = self.memory.reshape(n_tables, -1, n_floats)
        self._y = np.empty((1, n_positions, n_floats), dtype=np.float32)
        self._n_threads = n_threads
        self.n_reads = self._row.size
        self.gather(1)  # touches the output's pages

    def read(self, memory: np.ndarray, distance: int, n_passes: int) -> float:
        """Seconds of a pass of the loop over ``memory``, of the same shape; each row is asked for so many ahead."""
        taken, _ = native.read_rows(memory, self._anywhere, distance, n_passes, self._n_threads)
        return taken / n_passes

    def gather(self, n_passes: int) -> float:
        """Seconds of a pass of the kernel."""
        return _seconds(lambda: native.gather(self._tables, self._row, None, self._y, self._n_threads), n_passes)


def measure_memory(row_bytes: int, working_set: int, seconds: float) -> MemorySpeed:
    """Rows of so many bytes, read at random places of so much memory, on huge pages where the system grants them.

    Args:
        row_bytes: a power of two from 32 to 1,024.
        working_set: a power of two, at least two rows.
        seconds: to take; loop and kernel each have one turn at least.

    Example:
        >>> measure_memory(64, 1 << 15, seconds=0.01).working_set
        32768
    """
    began = time.perf_counter()
    rows = RandomRows(row_bytes, working_set, torch.get_num_threads())
    turn = min(_READ_SECONDS, seconds / (2 * len(PREFETCH_DISTANCES)))
    n_passes = max(1, round(turn / rows.read(rows.memory, 0, 1)))
    passes = dict.fromkeys(PREFETCH_DISTANCES, math.inf)  # seconds of one, at best
    ours = math.inf
    while True:
        for distance, best in passes.items():
            passes[distance] = min(best, rows.read(rows.memory, distance, n_passes))
            ours = min(ours, rows.gather(max(1, n_passes // 4)))
        if time.perf_counter() - began >= seconds:
            break
    distance, best = min(passes.items(), key=lambda item: item[1])
    return MemorySpeed(row_bytes, working_set, rows.n_reads / best, distance, rows.n_reads / ours)


def measure_layer(n_neurons: int, n_tables: int, n_comparisons: int, batch: int, seconds: float) -> LayerSpeed:
    """A layer as a module through autograd, its update fused into the backward pass.

    Latencies change from call to call: rows come from where tables of such a size lie, not from the last call's cache.

    Example:
        >>> layer = measure_layer(8, 4, 3, batch=16, seconds=0.01)
        >>> layer.rows, layer.forward.turns >= 3
        (64, True)
    """
    generator = torch.Generator().manual_seed(0)
    layer = LookupTables(
        n_neurons, n_neurons, n_tables, n_comparisons, gradient="fused", update=RowUpdate("sgd", rate=_RATE)
    )
    n_batches = max(2, _POSITIONS // batch)
    given = torch.randn(n_batches, batch, n_neurons, generator=generator).unbind()
    asking = [x.clone().requires_grad_() for x in given]
    v = torch.randn(batch, n_neurons, generator=generator)
    for_forward, for_step = itertools.cycle(given), itertools.cycle(asking)

    def forward() -> None:
        with torch.no_grad():
            layer(next(for_forward))

    def step() -> None:
        x = next(for_step)
        x.grad = None
        layer(x).backward(v)

    return LayerSpeed(n_neurons, n_tables, n_comparisons, batch, *take_turns(seconds, forward, step))


def measure_model(preset: str, seconds: float) -> ModelSpeed:
    """A delay model that is trained as `polychron train` does it, and scored, on random bytes.

    Example:
        >>> model = measure_model("micro", seconds=0.01)
        >>> model.batch, model.length, model.train_bytes_per_second > 0
        (32, 128, True)
    """
    defaults = models.training_defaults("delay", preset)
    model = models.build(models.preset("delay", preset, VOCABULARY))
    optimizer = optim.attach(model, rate=defaults.rate, visit_cap=defaults.visit_cap)
    text = np.random.default_rng(0).integers(0, VOCABULARY, _TEXT_BYTES, dtype=np.uint8)
    windows = Windows(text, [(0, text.size)], length=defaults.length, batch=defaults.batch, seed=0)
    tokens = torch.from_numpy(text[: _SCORED_BYTES + 1].astype(np.int64))
    steps = itertools.count()

    def train() -> None:
        batch = windows.batch(next(steps))
        optimizer.zero_grad()
        model.train_step(*batch)
        optimizer.step()

    def score() -> None:
        model.score(tokens)

    training, scoring = take_turns(seconds, train, score)
    return ModelSpeed(preset, defaults.batch, defaults.length, _SCORED_BYTES, training, scoring)


def take_turns(seconds: float, *calls: Callable[[], object]) -> list[Spread]:
    """Times calls one after another, A B A B, so that what the machine does meanwhile meets all alike.

    Args:
        seconds: to take; every call has three turns at least. In a turn a short call is repeated.
        calls: what to time.

    Example:
        >>> a, b = take_turns(0.01, lambda: None, lambda: sum(range(1000)))
        >>> a.turns == b.turns
        True
    """
    began = time.perf_counter()
    turn = min(_TURN_SECONDS, seconds / (_LEAST_TURNS * len(calls)))
    # The first call allocates, and wakes what sleeps.
    repeats = [max(1, round(turn / max(min(_seconds(call, 1) for _ in range(3)), 1e-9))) for call in calls]
    turns: list[list[float]] = [[] for _ in calls]
    while len(turns[0]) < _LEAST_TURNS or time.perf_counter() - began < seconds:
        for call, n, into in zip(calls, repeats, turns, strict=True):
            into.append(_seconds(call, n))
    return [Spread.of(of_call) for of_call in turns]


def _seconds(call: Callable[[], object], n: int) -> float:
    """Of one call, a mean of n."""
    began = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - began) / n
