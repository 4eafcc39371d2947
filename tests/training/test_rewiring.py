from __future__ import annotations

import pytest
import torch

from polychron.models import RecurrentConfig, TransformerConfig, build
from polychron.optim import attach
from polychron.training import rewiring
from polychron.training.checkpoint import open_checkpoint
from polychron.training.rewiring import Rewiring, read_gradients

from .conftest import RunMaker

TOKENS = torch.randint(0, 9, (4, 12), generator=torch.manual_seed(0))


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch):
    monkeypatch.setattr(rewiring, "SAMPLE_POSITIONS", 512)


def anchors_of(folder) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in open_checkpoint(folder).load_tensors().items() if name.endswith("anchors")}


def test_a_run_rewires_and_a_resumed_one_ends_with_the_same_bits(make_run: RunMaker, tmp_path):
    *_, finished = make_run("plain").events()
    *_, rewired = make_run("whole", rewire=7).events()
    before, after = anchors_of(tmp_path / "plain"), anchors_of(tmp_path / "whole")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert rewired.score.nats_per_byte != finished.score.nats_per_byte

    asked = iter([False] * 21)  # before and after every step
    run = make_run("halves", rewire=7)
    *_, stopped = run.events(lambda: next(asked, True))
    assert 0 < stopped.step < 30
    run.writer.close()
    *_, resumed = make_run("halves", resume=True).events()
    assert resumed.score.nats == rewired.score.nats
    whole, halves = (open_checkpoint(tmp_path / name).load_tensors() for name in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_it_acts_at_intervals_and_not_at_the_end(make_run: RunMaker):
    run = make_run()
    rewires = Rewiring(run.model, run.windows, every=5)
    for step in (5, 10):
        run.model.train_step(*run.windows.batch(step))
        assert rewires(step, 0.5)
    assert rewires(6, 0.5) == []
    assert rewires(10, 0.8) == []
    assert run.model.training


def test_a_rewired_model_trains_by_the_native_chain_as_layer_by_layer(make_run: RunMaker, monkeypatch):
    runs = [make_run("a"), make_run("b")]
    for run in runs:
        run.optimizer.rate = 0.02
    monkeypatch.setattr(runs[1].model, "_chain", lambda **_: None)
    for step in range(4):
        losses = [run.model.train_step(*run.windows.batch(step)) for run in runs]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        for run in runs:
            Rewiring(run.model, run.windows, every=1)(step, 0.0)
    first, second = (run.model.state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (TransformerConfig(vocabulary_size=9, context=12, n_neurons=8, n_layers=1, n_heads=1, n_tables=2,
                           n_comparisons=2, n_position_bits=1), ["layers.0.ffn", "readout"]),
        (RecurrentConfig(vocabulary_size=9, n_neurons=8, n_tables=3, n_comparisons=3, readout_n_tables=2,
                         readout_n_comparisons=2), ["readout"]),
    ],
)  # fmt: skip
def test_gradients_are_read_and_nothing_learns(config, names):
    model = build(config, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.manual_seed(3)))
    optimizer = attach(model, "adagrad", rate=0.1)
    codes = [parameter for name, parameter in model.named_parameters() if name.endswith("position_code")]
    for code in codes:
        code.grad = torch.ones_like(code)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    targets = TOKENS.roll(-1, dims=1)
    read = read_gradients(model, TOKENS, targets)
    assert all((code.grad == 1).all() for code in codes)
    modules = dict(model.named_modules())
    assert list(read) == [modules[name] for name in names]
    x, v = read[model.readout]
    expected = model(TOKENS).softmax(dim=-1) - torch.nn.functional.one_hot(targets, 9)
    torch.testing.assert_close(v, expected.detach())
    assert torch.equal(x, model.latencies(TOKENS).detach())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(layer.gradient == "fused" for layer in model.layers_in_order())
    assert not optimizer.state_dict() or not any(state.any() for state in optimizer.state_dict().values())
    model.train_step(TOKENS, targets)
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
