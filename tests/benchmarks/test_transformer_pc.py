"""The dense int8 transformer in C says what its definition in PyTorch does, and that is near the trained one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from boards.transformer_pc import CompiledTransformer, Int8Transformer
from polychron.twins.transformer import Transformer, TransformerSize

TOKENS = 11


@pytest.fixture(scope="module")
def twin() -> Transformer:
    torch.manual_seed(0)
    twin = Transformer(TOKENS, TransformerSize(width=64, n_layers=2, n_heads=2, window=16)).eval()
    with torch.no_grad():
        twin.embedding.weight.mul_(3)
        for block in twin.blocks:
            block.attention_norm.weight.uniform_(0.5, 1.5)
            block.perceptron_norm.weight.uniform_(0.5, 1.5)
        twin.norm.weight.uniform_(0.5, 1.5)
    return twin


@pytest.fixture(scope="module")
def compiled(twin, tmp_path_factory) -> CompiledTransformer:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return CompiledTransformer(Int8Transformer(twin), tmp_path_factory.mktemp("c"))


def text(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, TOKENS - 1, n).astype(np.uint8)


@torch.no_grad()
def read(model: Transformer, tokens: np.ndarray) -> torch.Tensor:
    return model.read(torch.from_numpy(tokens.astype(np.int64))[None])[0]


def test_int8_is_near_the_trained_model(twin):
    expected, said = read(twin, text(60)), read(Int8Transformer(twin), text(60))
    error = (said - expected).square().mean().sqrt() / expected.std()
    assert 1e-4 < error < 0.03


@pytest.mark.parametrize("n", [2, 15, 16, 17, 100])
def test_the_c_says_what_the_definition_does(twin, compiled, n):
    expected, said = read(Int8Transformer(twin), text(n)), torch.from_numpy(compiled.logits(text(n)))
    # A rounding of float32 that falls on the other side moves an input by one of 127 steps.
    assert (said - expected).abs().max() < 0.05 * expected.std()
    assert (said - expected).abs().median() < 1e-3 * expected.std()


def test_it_draws_what_it_says(compiled):
    prompt = text(7)
    written = compiled.write(prompt, 4000, 3, temperature=4.0)
    assert written.max() == TOKENS - 2  # the last token stands for bytes never seen
    assert np.array_equal(written, compiled.write(prompt, 4000, 3, temperature=4.0))
    assert not np.array_equal(written, compiled.write(prompt, 4000, 4, temperature=4.0))
    logits = compiled.logits(np.concatenate([prompt, written])[:-1])[len(prompt) - 1 :, : TOKENS - 1]
    chances = torch.softmax(torch.from_numpy(logits) / 4.0, dim=1).mean(dim=0).numpy()
    drawn = np.bincount(written, minlength=TOKENS - 1) / len(written)
    assert np.abs(drawn - chances).max() < 0.03
