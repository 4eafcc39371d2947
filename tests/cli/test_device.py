"""``polychron train --device``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polychron.training import open_checkpoint

from .conftest import Command

GPU = torch.cuda.is_available()


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_without_a_gpu_the_device_is_refused_before_anything_is_made(polychron: Command, text: Path):
    refused = polychron("train", text, "--device", "cuda", "--steps", 2)
    assert refused.code == 2
    assert refused.err.startswith("error: --device cuda needs a GPU")
    assert list(Path().iterdir()) == []


def test_a_device_that_does_not_exist_is_refused(polychron: Command, text: Path):
    assert polychron("train", text, "--device", "abacus").code == 2


@pytest.mark.skipif(not GPU, reason="no GPU")
@pytest.mark.parametrize(
    ("model", "preset"),
    [("delay", "tiny"), ("delay", "medium"), ("transformer", "paper-small"), ("recurrent", "small")],
)
def test_a_run_on_a_gpu_is_repeated_bit_by_bit_and_read_on_the_cpu(polychron: Command, text: Path, model, preset):
    options = ("--model", model, "--preset", preset, "--device", "cuda", "--json")
    for folder in ("once", "again"):
        done = polychron("train", text, *options, "--steps", 8, "--out", folder)
        assert done.code == 0, done.err
        assert done.objects[0]["device"] == "cuda:0"
    once, again = (open_checkpoint(folder).load_model().state_dict() for folder in ("once", "again"))
    assert all(torch.equal(once[name], again[name]) for name in once)
    scored = polychron("evaluate", "once", "--json")
    assert scored.objects[-1]["nats_per_byte"] == pytest.approx(done.objects[-1]["val_nats_per_byte"], rel=1e-3)
