"""Calibration: what a run sets aside fits one factor of the readout, at the end and once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from polychron.data.holdout import hold_out, set_aside
from polychron.models import DelayConfig, build, calibration_bytes
from polychron.training.calibrate import calibrate

CONFIG = DelayConfig(
    vocabulary_size=6, n_neurons=8, n_tables=5, n_comparisons=4, readout_n_tables=4, readout_n_comparisons=4
)


def filled(size: float, table_type: str = "float32"):
    model = build(DelayConfig(**{**CONFIG.__dict__, "table_type": table_type}), seed=1)
    torch.manual_seed(1)
    for layer in model.layers_in_order():
        layer.synaptic_vectors.data.copy_(size * torch.randn(layer.synaptic_vectors.shape))
    return model


def cost(model, pieces) -> float:
    return sum(model.score(torch.from_numpy(p.astype(np.int64))).sum().item() for p in pieces)


def pieces_that_the_model_wrote(model, n: int = 3) -> list[np.ndarray]:
    """Texts drawn from the model itself: to these its own logits are just right."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(n):
        state, token, text = model.start(), 0, [0]
        for _ in range(400):
            logits, state = model.advance(torch.tensor([token]), state)
            token = int(rng.choice(6, p=logits.softmax(0).double().numpy() / logits.softmax(0).double().sum().item()))
            text.append(token)
        drawn.append(np.array(text, dtype=np.uint8))
    return drawn


@pytest.mark.parametrize("table_type", ["float32", "bfloat16"])
@pytest.mark.parametrize("factor", [1.0, 1.25, 2.0])
def test_logits_that_are_too_large_are_brought_back(factor: float, table_type: str):
    model = filled(0.7, table_type)
    pieces = pieces_that_the_model_wrote(model)
    best = cost(model, pieces)
    tables = model.readout.synaptic_vectors
    tables.data.mul_(factor)
    too_large = tables.detach().clone()
    scale = calibrate(model, pieces)
    assert scale == pytest.approx(1 / factor, abs=0.08)
    assert torch.equal(tables, (too_large.float() * scale).to(tables.dtype))
    assert cost(model, pieces) <= best * 1.002


def test_no_other_factor_of_the_grid_is_better():
    model = filled(2.0)
    pieces = [np.random.default_rng(5).integers(0, 6, 500).astype(np.uint8)]
    learnt = model.readout.synaptic_vectors.detach().clone()
    scale = calibrate(model, pieces)
    assert 0.4 <= scale <= 1.2
    costs = {}
    for other in (scale - 0.025, scale, scale + 0.025):
        model.readout.synaptic_vectors.data.copy_(learnt * other)
        costs[other] = cost(model, pieces)
    if scale > 0.4:
        assert min(costs, key=costs.get) == scale
    else:
        assert costs[scale] < costs[scale + 0.025]


@pytest.mark.parametrize("kind", ["tail", "blocks"])
@pytest.mark.parametrize("n_bytes", [10_000, 300_000, 4_000_001])
@pytest.mark.parametrize("part", [0.02, 0.8, 0.99])
def test_what_is_set_aside_and_what_is_left_are_the_training_part(kind: str, n_bytes: int, part: float):
    training = hold_out(n_bytes, kind).training
    wanted = int(part * sum(end - start for start, end in training))
    left, pieces = set_aside(training, wanted)
    n_aside = sum(end - start for start, end in pieces)
    assert (0 if part > 0.5 else 1) <= n_aside <= wanted
    whole = np.zeros(n_bytes, dtype=int)
    for start, end in (*left, *pieces):
        whole[start:end] += 1
    expected = np.zeros(n_bytes, dtype=int)
    for start, end in training:
        expected[start:end] = 1
    assert np.array_equal(whole, expected)
    assert list(left) == sorted(left)


def test_segments_too_short_for_a_piece_are_left_whole():
    segments = [(10 * k, 10 * k + 9) for k in range(20)]
    assert set_aside(segments, 80) == (tuple(segments), ())


def test_four_pieces_or_eight_where_four_would_be_too_long():
    first = [set_aside([(0, length)], 400)[1][:1] for length in (400, 399, 200, 199)]
    assert [end - begin for piece in first for begin, end in piece] == [100, 50, 50]
    # What is usual can be had, whatever is held out.
    for n_bytes in (60_000, 400_000, 1_115_394, 4_000_000, 40_000_000):
        for kind in ("tail", "blocks"):
            training = hold_out(n_bytes, kind).training
            wanted = calibration_bytes(1e9, sum(end - start for start, end in training), contexts=True)
            pieces = set_aside(training, wanted)[1]
            assert sum(end - start for start, end in pieces) > 0.7 * wanted


def test_only_what_is_read_often_is_calibrated():
    assert calibration_bytes(5.9e6, 1_000_000) == 0
    assert calibration_bytes(6e6, 1_000_000) == 20_000
    assert calibration_bytes(1e9, 50_000) == 0


def test_a_run_sets_aside_calibrates_and_says_so(tmp_path, monkeypatch):
    from polychron.cli import main
    from polychron.training import open_checkpoint

    monkeypatch.chdir(tmp_path)
    text = np.random.default_rng(0).choice(list(b"abc de"), 20_000).astype(np.uint8).tobytes()
    (tmp_path / "text.txt").write_bytes(text)
    options = ["--preset", "tiny", "--batch", "4", "--length", "32", "--steps", "60", "--json"]
    assert main(["train", "text.txt", *options, "--calibration", "2000", "--out", "run"]) == 0
    assert main(["train", "text.txt", *options, "--calibration", "2000", "--threads", "1", "--out", "again"]) == 0
    record = open_checkpoint("run").record
    assert record.training.calibration == 2000
    assert 0.4 <= record.metrics.readout_scale <= 1.2
    assert (tmp_path / "run/weights-60.safetensors").read_bytes() == (
        tmp_path / "again/weights-60.safetensors"
    ).read_bytes()
    assert main(["train", "text.txt", "--from", "run", "--only", "readout", "--calibration", "2000"]) == 2


@pytest.mark.parametrize("wanted", [500_000, 740_000, 760_000, 900_000, 999_999])
def test_pieces_of_nearly_all_do_not_overlap(wanted: int):
    left, pieces = set_aside([(0, 700_000), (700_010, 1_000_010)], wanted, n_pieces=64)
    parts = sorted((*left, *pieces))
    assert all(end <= start for (_, end), (start, _) in pairwise(parts))
    assert sum(end - start for start, end in parts) == 1_000_000
    assert wanted * 0.9 < sum(end - start for start, end in pieces) <= wanted
