"""A model with tables of bfloat16, from training to every way of running it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from polychron import runtime
from polychron.training import open_checkpoint

from .conftest import Command

OPTIONS = ("--preset", "tiny", "--tables", "bfloat16", "--holdout", "tail", "--drop", 0.1, "--batch", 4, "--length", 32)


@pytest.fixture
def folder(polychron: Command, text: Path) -> Path:
    done = polychron("train", text, *OPTIONS, "--steps", 60, "--out", "run", "--json")
    assert done.code == 0, done.err
    assert done.objects[0]["tables"] == "bfloat16"
    return Path("run")


def test_its_files_are_half_as_large_and_it_resumes_to_the_same_bits(polychron: Command, text: Path, folder: Path):
    checkpoint = open_checkpoint(folder)
    assert {t.dtype for name, t in checkpoint.load_tensors().items() if name.endswith("synaptic_vectors")} == {
        torch.bfloat16
    }
    assert (folder / "weights-60.safetensors").stat().st_size < 2.2 * checkpoint.config.n_parameters()
    again = polychron("train", text, *OPTIONS, "--steps", 60, "--out", "again", "--threads", 1, "--json")
    assert again.code == 0, again.err
    assert (folder / "weights-60.safetensors").read_bytes() == Path("again/weights-60.safetensors").read_bytes()


def test_the_runtime_has_the_bits_of_the_forward_pass(text: Path, folder: Path):
    checkpoint = open_checkpoint(folder)
    content = text.read_bytes()[:200]
    tokens = torch.from_numpy(checkpoint.vocabulary.encode(np.frombuffer(content, np.uint8)))
    logits = checkpoint.load_model()(tokens[None])[0]
    stream = runtime.load(folder).stream()
    for position, byte in enumerate(content):
        stream.read(bytes([byte]))
        assert torch.equal(torch.as_tensor(np.asarray(stream.logits())), logits[position])


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "run"),
        ("inspect", "run"),
        ("quantize", "run", "--out", "small"),
        ("export", "run", "--to", "c", "--out", "model"),
        ("export", "run", "--to", "hf", "--out", "hub"),
        ("export", "run", "--to", "onnx", "--out", "model.onnx"),
        ("train", "--from", "run", "--add-tables", 2, "--steps", 3, "--out", "grown"),
    ],
    ids=lambda command: "-".join(map(str, command[:4])),
)
def test_every_command_takes_it(polychron: Command, text: Path, folder: Path, command: tuple):
    done = polychron(command[0], *((text,) if command[0] == "train" else ()), *command[1:])
    assert done.code == 0, done.err


def test_a_grown_model_keeps_the_type(polychron: Command, text: Path, folder: Path):
    grown = ("--add-tables", 1, "--add-comparisons", 1, "--steps", 3, "--out", "grown")
    assert polychron("train", text, "--from", folder, *grown).code == 0
    tensors = open_checkpoint("grown").load_tensors()
    assert {t.dtype for name, t in tensors.items() if name.endswith("synaptic_vectors")} == {torch.bfloat16}


def test_comparisons_are_replaced_in_it(polychron: Command, text: Path):
    done = polychron("train", text, *OPTIONS, "--steps", 20, "--rewire", 5, "--out", "rewired")
    assert done.code == 0, done.err


def test_what_cannot_have_it_is_refused(polychron: Command, text: Path):
    for options, message in (
        (("--model", "recurrent"), "tables of bfloat16 are for"),
        (("--hash", "bins"), "tables of bfloat16 are for"),
    ):
        done = polychron("train", text, "--tables", "bfloat16", *options)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert message in done.err
    assert list(Path().iterdir()) == []
