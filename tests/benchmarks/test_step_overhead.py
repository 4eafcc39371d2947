"""The ways to make a step are the same step."""

from __future__ import annotations

import pytest
import torch

import step_overhead


@pytest.mark.parametrize("name", list(step_overhead.MODELS))
def test_every_way_of_a_tiny_step_runs_and_is_timed(name):
    seconds = step_overhead.measure(*step_overhead.MODELS[name], rounds=3)
    assert set(seconds) == {"kernels", "train_step", "loop", "autograd"}
    assert all(0 < s.lowest <= s.median for s in seconds.values())
    assert f"| {name} |" in step_overhead.table({name: seconds})


def test_the_ways_change_the_tables_alike():
    config, _ = step_overhead.MODELS["4 layers"]
    changed = []
    for way in ("kernels", "train_step", "autograd"):
        torch.manual_seed(0)
        model_calls = step_overhead.calls_of(config, 0.0)
        model = model_calls["train_step"].__closure__
        model_calls[way]()
        (held,) = [cell.cell_contents for cell in model if isinstance(cell.cell_contents, torch.nn.Module)]
        changed.append([p.detach().clone() for p in held.parameters()])
    for other in changed[1:]:
        assert all(torch.equal(a, b) for a, b in zip(changed[0], other, strict=True))
    assert any(p.any() for p in changed[0])
