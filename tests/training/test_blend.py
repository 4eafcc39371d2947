"""Counted contexts beside trained tables: the factors, the model on the way, and runs that count."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from polychron.models import DelayConfig, DelayLM
from polychron.nn import ContextTables
from polychron.ops.recent import CELLS_SHAPE
from polychron.training.blend import blend, blended
from polychron.training.fit_recent import USUAL_CELLS

from .counted_text import BYTE, K, text_of


def model_and_contexts(table_type: str = "float32") -> tuple[DelayLM, ContextTables]:
    config = DelayConfig(
        vocabulary_size=K, n_neurons=8, n_tables=5, n_comparisons=4, readout_n_tables=4, readout_n_comparisons=4,
        table_type=table_type,
    )  # fmt: skip
    model = DelayLM(config, seed=1)
    generator = torch.Generator().manual_seed(1)
    for layer in model.layers_in_order():
        layer.synaptic_vectors.data.copy_(0.3 * torch.randn(layer.synaptic_vectors.shape, generator=generator))
    return model, ContextTables.of_text(text_of(600), [(0, 600)], BYTE, 3)


def values_of(contexts: ContextTables) -> list[torch.Tensor]:
    return [of_kind.value.clone() for of_kind in contexts.lists]


def scale(contexts: ContextTables, counted: list[torch.Tensor], factors: list[list[float]]) -> None:
    """Depth by depth, rows that change one logit by the first of two factors.

    The contexts of one depth are the children of those of the one before.
    """
    for of_kind, value, of_depths in zip(contexts.lists, counted, factors, strict=True):
        depth_of = torch.zeros(len(of_kind.symbol), dtype=torch.int64)
        for c in range(len(depth_of)):
            depth_of[of_kind.first_child[c] : of_kind.first_child[c + 1]] = depth_of[c] + 1
        begins = of_kind.first_entry.tolist()
        changes = [int((value[begin:end] != 0).sum()) for begin, end in itertools.pairwise(begins)]
        which = 2 * depth_of + (torch.tensor(changes) != 1)
        of_kind.value.copy_(value * torch.tensor(of_depths)[which.repeat_interleave(of_kind.first_entry.diff())])


def cost(model: DelayLM, pieces: list[np.ndarray]) -> float:
    return sum(model.score(torch.from_numpy(piece.astype(np.int64))).sum().item() for piece in pieces)


@pytest.mark.parametrize("table_type", ["float32", "bfloat16"])
def test_no_other_factors_cost_less(table_type: str):
    model, contexts = model_and_contexts(table_type)
    tables = model.readout.synaptic_vectors
    trained, counted = tables.detach().clone(), values_of(contexts)
    pieces = [text_of(400, seed=2), text_of(50, seed=3)]
    c, believed = blend(model, contexts, pieces, recent=False)
    assert torch.equal(tables, (trained.float() * c).to(tables.dtype))
    assert [len(of_depths) for of_depths in believed] == [8, 8, 8]
    now = values_of(contexts)
    scale(contexts, counted, believed)
    assert all(torch.equal(a, b) for a, b in zip(now, values_of(contexts), strict=True))
    assert model.config.context_depth == 3
    least = cost(model, pieces)
    for i, k in itertools.product(range(3), range(8)):
        for change in (-0.1, 0.1):
            tried = [
                [factor + change * ((i, k) == (j, d)) for d, factor in enumerate(of)] for j, of in enumerate(believed)
            ]
            scale(contexts, counted, tried)
            assert cost(model, pieces) >= least - 1.5  # what the prior takes
    scale(contexts, counted, believed)
    for change in (-0.05, 0.05):
        tables.data.copy_(trained.float() * (c + change))
        assert cost(model, pieces) >= least - 1e-3 * abs(least) * (table_type == "bfloat16") - 1e-2


def test_no_other_cells_of_recent_tables_cost_less_than_the_prior_takes():
    """Nor does another factor of all the rest. Texts that go on as they began, in their own way each."""
    model, contexts = model_and_contexts()
    pieces = [np.tile(np.random.default_rng(seed).integers(5, size=40).astype(np.uint8), 8) for seed in (2, 3)]
    blend(model, contexts, pieces)
    assert model.config.recent
    least, fitted = cost(model, pieces), contexts.recent.clone()
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        contexts.recent.copy_(fitted + 0.1 * torch.randn(fitted.shape, generator=generator))
        assert cost(model, pieces) >= least - 5.0
    contexts.recent.copy_(fitted)
    tables, counted = model.readout.synaptic_vectors, values_of(contexts)
    trained = tables.detach().clone()
    for factor in (0.9, 1.1):
        tables.data.copy_(trained * factor)
        scale(contexts, counted, [[factor] * 8] * 3)
        assert cost(model, pieces) >= least - 5.0
    alone = model_and_contexts()
    blend(*alone, pieces, recent=False)
    assert not alone[0].config.recent
    assert cost(alone[0], pieces) > 2 * least


def test_cells_that_nothing_was_seen_of_are_the_usual_ones():
    model, contexts = model_and_contexts()
    blend(model, contexts, [text_of(2, seed=2)])
    assert torch.equal(contexts.recent, torch.tensor(USUAL_CELLS).reshape(CELLS_SHAPE))


def test_what_says_little_is_believed_less():
    model, _ = model_and_contexts()
    noise = np.random.default_rng(0).integers(5, size=600).astype(np.uint8)
    truth = text_of(600, seed=4)
    useful = ContextTables.of_text(text_of(600), [(0, 600)], BYTE, 3)
    misled = ContextTables.of_text(noise, [(0, 600)], BYTE, 3)
    believed = sum(map(sum, blend(model_and_contexts()[0], useful, [truth])[1]))
    assert believed > 2
    assert sum(map(sum, blend(model, misled, [truth])[1])) < 0.6 * believed


def test_on_the_way_the_model_is_as_before_to_the_bit():
    model, contexts = model_and_contexts()
    trained, counted, config = model.readout.synaptic_vectors.detach().clone(), values_of(contexts), model.config
    piece = text_of(300, seed=5)
    alone = cost(model, [piece])
    with blended(model, contexts, [piece]):
        assert cost(model, [piece]) < alone
        assert model.contexts is not None
    assert model.contexts is None
    assert model.config == config
    assert torch.equal(model.readout.synaptic_vectors, trained)
    assert all(torch.equal(now, value) for now, value in zip(values_of(contexts), counted, strict=True))
    assert cost(model, [piece]) == alone


def test_a_run_counts_blends_and_says_so(tmp_path, monkeypatch, capsys):
    from polychron.cli import main
    from polychron.training import open_checkpoint

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_bytes(np.frombuffer(b"abcdef", dtype=np.uint8)[text_of(30_000)].tobytes())
    options = ["--preset", "tiny", "--batch", "4", "--length", "32", "--steps", "60", "--json"]
    counting = [*options, "--contexts", "3", "--calibration", "2000"]
    assert main(["train", "text.txt", *counting, "--out", "run"]) == 0
    assert main(["train", "text.txt", *counting, "--threads", "1", "--out", "again"]) == 0
    assert main(["train", "text.txt", *options, "--out", "alone"]) == 0
    assert main(["train", "text.txt", *counting, "--no-recent", "--out", "forgets"]) == 0
    assert [open_checkpoint(name).config.recent for name in ("run", "alone", "forgets")] == [True, False, False]
    record = open_checkpoint("run").record
    assert (record.training.contexts, record.model["context_depth"]) == (3, 3)
    assert sum(map(sum, record.metrics.context_scales)) > 1
    assert record.metrics.val_nats_per_byte < open_checkpoint("alone").record.metrics.val_nats_per_byte
    weights = "weights-60.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()
    open_checkpoint("run").load_model().check()

    capsys.readouterr()
    assert main(["evaluate", "run", "--json"]) == 0
    assert f'"nats_per_byte": {record.metrics.val_nats_per_byte}' in capsys.readouterr().out
    assert main(["train", "text.txt", "--from", "run", *options[2:], "--out", "on"]) == 0  # keeps what was counted
    assert open_checkpoint("on").record.model["context_depth"] == 3
    for wrong in (
        ["--contexts", "3", "--calibration", "0"], ["--contexts", "3", "--model", "recurrent"],
        ["--recent", "--contexts", "0"], ["--recent", "--preset", "tiny"],
    ):  # fmt: skip
        assert main(["train", "text.txt", *options[2:], *wrong, "--out", "no"]) == 2


def test_a_run_that_stops_on_the_way_ends_with_the_same_bits(tmp_path):
    from polychron.cli.train import Settings, _new_run
    from polychron.training.checkpoint_writer import CheckpointWriter
    from polychron.training.run import Interrupted, Run

    text = tmp_path / "text.txt"
    text.write_bytes(np.frombuffer(b"abcdef", dtype=np.uint8)[text_of(30_000)].tobytes())
    settings = Settings(preset="tiny", batch=4, length=32, steps=40, contexts=3, calibration=2000)
    record, corpus, _ = _new_run(text, settings, "cpu")
    with CheckpointWriter(tmp_path / "whole") as writer:
        list(Run.begin(record, corpus.data, writer).events())
    with CheckpointWriter(tmp_path / "parts") as writer:
        run = Run.begin(record, corpus.data, writer)
        *_, last = run.events(should_stop=lambda: run.optimizer.rate < 0.01)
        assert isinstance(last, Interrupted)
    with CheckpointWriter(tmp_path / "parts", resume=True) as writer:
        list(Run.resume(corpus.data, writer).events())
    weights = "weights-40.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "parts" / weights).read_bytes()


def test_a_run_of_one_step_counts_enough_of_its_text(tmp_path):
    """As much is counted as is trained on, but never next to nothing."""
    from polychron.cli import main
    from polychron.training import open_checkpoint

    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_bytes(np.frombuffer(b"abcdef", dtype=np.uint8)[text_of(120_000)].tobytes())
    options = ["--preset", "tiny", "--contexts", "3", "--batch", "1", "--length", "8", "--steps", "1"]
    assert main(["train", str(text), *options, "--out", str(out)]) == 0
    record = open_checkpoint(out).record
    assert record.training.counted == 1 << 16
    assert record.metrics.val_nats_per_byte < 1.6  # of five symbols, counted; guessing costs ln 5


@pytest.mark.parametrize(("holdout", "n_bytes"), [("tail", 85_000), ("blocks", 85_000), ("blocks", 400_000)])
def test_no_more_is_counted_than_was_asked_for(monkeypatch, tmp_path, holdout: str, n_bytes: int):
    from polychron.cli import main

    seen = []
    of_text = ContextTables.of_text

    def noted(text: np.ndarray, segments: list, *others: object) -> ContextTables:
        seen.append((text, segments))
        return of_text(text, segments, *others)

    monkeypatch.setattr(ContextTables, "of_text", noted)
    path = tmp_path / "text.txt"
    path.write_bytes(np.frombuffer(b"abcdef", dtype=np.uint8)[np.resize(text_of(20_000), n_bytes)].tobytes())
    options = ["--preset", "tiny", "--contexts", "1", "--calibration", "2000", "--steps", "1", "--holdout", holdout]
    assert main(["train", str(path), *options, "--out", str(tmp_path / "run")]) == 0
    [(text, segments)] = seen
    assert (1 << 16) - 64 < len(text) <= 1 << 16
    assert sum(end - start for start, end in segments) == len(text)


def test_a_run_whose_time_is_spent_counting_ends_all_the_same(tmp_path):
    from polychron.cli import main
    from polychron.training import open_checkpoint

    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_bytes(np.frombuffer(b"abcdef", dtype=np.uint8)[np.resize(text_of(20_000), 120_000)].tobytes())
    options = ["--preset", "tiny", "--contexts", "3", "--batch", "1", "--length", "8", "--minutes", "0.000001"]
    assert main(["train", str(text), *options, "--out", str(out)]) == 0
    record = open_checkpoint(out).record
    assert record.position.step == 1
    assert record.metrics.val_nats_per_byte < 1.6
    open_checkpoint(out).load_model()


def test_counting_beyond_the_budget_is_told(tmp_path, monkeypatch):
    """A run shorter than its counting makes a step, and says how long all of it took."""
    from polychron.cli import main
    from polychron.training import open_checkpoint, run

    count = run.count_contexts

    def slowly(*arguments):
        time.sleep(0.5)
        return count(*arguments)

    monkeypatch.setattr(run, "count_contexts", slowly)
    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_bytes(np.frombuffer(b"abcdef", dtype=np.uint8)[text_of(120_000)].tobytes())
    options = ["--preset", "tiny", "--contexts", "3", "--batch", "1", "--length", "8", "--minutes", "1e-5"]
    assert main(["train", str(text), *options, "--out", str(out)]) == 0
    position = open_checkpoint(out).record.position
    assert position.step == 1
    assert position.seconds > 0.5
