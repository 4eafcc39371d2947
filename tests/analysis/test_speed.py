"""Figures are of what was run: with a clock of the tests' own they can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polychron import limits, models
from polychron.analysis import speed
from polychron.analysis.speed import (
    LayerSpeed,
    Spread,
    measure_layer,
    measure_memory,
    measure_model,
    measure_speed,
    require_kernels,
    take_turns,
)
from polychron.errors import InputError
from polychron.models import DelayLM
from polychron.nn import LookupTables
from polychron.ops import use_kernel
from polychron.ops.dispatch import native

pytestmark = pytest.mark.skipif(native is None, reason="the extension is not built")


class Clock:
    """Stands still unless it is told."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def test_turns_alternate_until_the_time_is_over(clock: Clock):
    calls = []
    of_b = iter([9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0])  # three to learn how long it takes

    def a() -> None:
        calls.append("a")
        clock.now += 1.0

    def b() -> None:
        calls.append("b")
        clock.now += next(of_b)

    assert take_turns(40.0, a, b) == [Spread(1.0, 1.0, 1.0, 4), Spread(1.75, 2.5, 3.25, 4)]
    assert "".join(calls) == "aaabbb" + "ab" * 4


def test_short_calls_are_repeated_and_there_are_three_turns_at_least(clock: Clock):
    calls = []

    def call() -> None:
        calls.append(clock.now)
        clock.now += 0.001

    [spread] = take_turns(0.02, call)
    assert spread.median == pytest.approx(0.001)
    assert len(calls) == 3 + 5 * spread.turns
    calls.clear()
    [spread] = take_turns(1e-9, call)
    assert (spread.turns, len(calls)) == (3, 6)


class Kernels:
    """The native kernels, which run, and seconds of the tests' own."""

    allocate_tables = staticmethod(native.allocate_tables if native else None)

    def __init__(self, clock: Clock):
        self._clock = clock
        self.gathered: list[SimpleNamespace] = []
        self.read: list[SimpleNamespace] = []

    def read_rows(self, memory, rows, distance, n_passes, n_threads):
        native.read_rows(memory, rows, distance, 1, n_threads)
        self.read.append(SimpleNamespace(memory=memory, rows=rows, distance=distance))
        seconds = n_passes * rows.size * (1e-9 if distance == 8 else 2e-9)
        self._clock.now += seconds
        return seconds, 0.0

    def gather(self, tables, row, residual, y, n_threads):
        native.gather(tables, row, residual, y, n_threads)
        self.gathered.append(SimpleNamespace(tables=tables, row=row, y=y))
        self._clock.now += row.size * 4e-9


@pytest.mark.parametrize(("row_bytes", "working_set"), [(64, 1 << 15), (256, 1 << 20), (1024, 1 << 11)])
def test_memory_is_read_everywhere_and_the_best_distance_counts(
    row_bytes: int, working_set: int, clock: Clock, monkeypatch
):
    monkeypatch.setattr(speed, "_READ_BYTES", 1 << 20)
    kernels = Kernels(clock)
    monkeypatch.setattr(speed, "native", kernels)
    point = measure_memory(row_bytes, working_set, seconds=0.1)
    assert (point.row_bytes, point.working_set, point.prefetch_distance) == (row_bytes, working_set, 8)
    assert point.rows_per_second == pytest.approx(1e9)
    assert point.bytes_per_second == pytest.approx(1e9 * row_bytes)
    assert point.gather_rows_per_second == pytest.approx(2.5e8)
    assert point.share == pytest.approx(0.25)
    assert {one.distance for one in kernels.read} == {0, 4, 8, 16, 32, 64}
    read, gathered = kernels.read[-1], kernels.gathered[-1]
    assert read.memory.nbytes == gathered.tables.nbytes == working_set
    assert read.memory.shape[1] * 4 == gathered.tables.shape[2] * 4 == row_bytes
    assert read.rows.size == gathered.row.size
    n_rows = working_set // row_bytes
    met = np.bincount(read.rows, minlength=n_rows) > 0
    assert len(met) == n_rows
    assert met.mean() > 0.6  # of as many reads as rows, 1 - 1 / e


def test_a_layer_reads_new_latencies_learns_and_is_timed_as_it_is_used(monkeypatch):
    class Watched(LookupTables):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.calls: list[tuple[tuple[int, ...], bool, int]] = []
            made.append(self)

        def forward(self, x, history=None):
            self.calls.append((tuple(x.shape), torch.is_grad_enabled(), x.data_ptr()))
            return super().forward(x)

    made: list[Watched] = []
    monkeypatch.setattr(speed, "LookupTables", Watched)
    result = measure_layer(8, 4, 3, batch=16, seconds=0.01)
    [layer] = made
    assert {call[:2] for call in layer.calls} == {((16, 8), False), ((16, 8), True)}
    for differentiated in (False, True):
        places = [place for _, graded, place in layer.calls if graded is differentiated][:256]
        assert len(set(places)) == min(256, len(places)) > 1
    assert layer.synaptic_vectors.any()
    assert layer.gradient == "fused"
    assert (result.n_neurons, result.n_tables, result.n_comparisons, result.batch) == (8, 4, 3, 16)
    assert result.forward.turns == result.step.turns >= 3
    assert 0 < result.forward.lower_quartile <= result.forward.median <= result.forward.upper_quartile


def test_rows_a_second_are_one_a_table_and_position_by_the_median():
    layer = LayerSpeed(32, 64, 10, 100, forward=Spread(0.5, 2.0, 3.0, 9), step=Spread(4.0, 5.0, 6.0, 9))
    assert (layer.forward_rows_per_second, layer.step_rows_per_second) == (3200.0, 1280.0)


@pytest.mark.parametrize("preset", speed.PRESETS)
def test_a_model_is_trained_with_its_presets_defaults_and_scored(preset: str, clock: Clock, monkeypatch):
    batches, scored, seen = [], [], []
    train_step, score = DelayLM.train_step, DelayLM.score

    def timed_step(self, tokens, targets):
        before = clock.now
        nats = train_step(self, tokens, targets)
        batches.append((tokens, targets))
        seen.append((self, nats))
        clock.now = before + 0.5
        return nats

    def timed_score(self, tokens, recalled=None):
        nats = score(self, tokens, recalled)
        scored.append((tokens, nats))
        clock.now += 0.25
        return nats

    monkeypatch.setattr(DelayLM, "train_step", timed_step)
    monkeypatch.setattr(DelayLM, "score", timed_score)
    result = measure_model(preset, seconds=1.0)
    defaults = models.training_defaults("delay", preset)
    assert (result.preset, result.batch, result.length) == (preset, defaults.batch, defaults.length)
    assert result.train_bytes_per_second == defaults.batch * defaults.length / 0.5
    assert result.score_bytes_per_second == (1 << 15) / 0.25
    for tokens, targets in batches:
        assert tokens.shape == (defaults.batch, defaults.length)
        assert torch.equal(tokens[:, 1:], targets[:, :-1])
        assert 0 <= int(tokens.min()) <= int(tokens.max()) < speed.VOCABULARY
    assert not torch.equal(batches[0][0], batches[1][0])
    for tokens, nats in scored:
        assert len(tokens) == len(nats) + 1 == (1 << 15) + 1
    model, nats = seen[-1]
    assert model.config == models.preset("delay", preset, speed.VOCABULARY)
    assert model.contexts is None
    assert model.readout.update.visit_cap == defaults.visit_cap
    assert model.readout.update.rate == defaults.rate
    assert model.readout.synaptic_vectors.any()
    assert np.isfinite(nats)


def test_everything_is_measured_in_its_part_of_the_time(monkeypatch):
    def measured(kind: str, n_sizes: int):
        return lambda *given: (kind, given[:n_sizes], given[n_sizes])

    for name, n_sizes in (("memory", 2), ("layer", 4), ("model", 1)):
        monkeypatch.setattr(speed, f"measure_{name}", measured(name, n_sizes))
    found = list(measure_speed(20.0))
    assert len(found) == speed.N_MEASUREMENTS
    assert sum(seconds for _, _, seconds in found) == pytest.approx(20.0)
    assert [sizes for kind, sizes, _ in found if kind == "memory"] == [
        (row_bytes, n_bytes << 10) for row_bytes in (64, 256) for n_bytes in (32, 512, 16 << 10, 256 << 10)
    ]
    assert [sizes for kind, sizes, _ in found if kind == "layer"] == list(speed.LAYERS)
    assert [sizes for kind, sizes, _ in found if kind == "model"] == [("micro",), ("tiny",), ("small",)]


def test_what_cannot_be_measured_is_refused(monkeypatch):
    require_kernels()
    with use_kernel("reference"), pytest.raises(InputError, match="POLYCHRON_KERNEL forces reference"):
        require_kernels()
    with monkeypatch.context() as patched:
        patched.setattr(limits, "available_memory", lambda: 1 << 28)
        with pytest.raises(InputError, match=r"rows to be read need 335.5 MB of memory and 268.4 MB are available"):
            require_kernels()
    monkeypatch.setattr(speed, "native", None)
    with pytest.raises(InputError, match="extension is missing"):
        next(measure_speed(1.0))
