"""The simulated microcontrollers: both networks answer there what numpy does, and instructions are counted right."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from boards.dense_int8 import DenseInt8, quantize_dense, write_classifier, write_language_model
from boards.simulator import BOARDS, digest, filled, measure, missing
from polychron.export import export_c

from ..export.test_c_classifier import integers, random_inputs


@pytest.fixture(params=["cortex-m0", "cortex-m3", "rv32imc", "atmega1284p"])
def board(request: pytest.FixtureRequest):
    found = BOARDS[request.param]
    lacking = missing(found)
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    return found


def program(source: Path, inputs: np.ndarray) -> str:
    examples = ",\n".join("{" + ",".join(map(str, example)) + "}" for example in inputs.tolist())
    return filled("measure_classifier.c.in", NAME=source.stem, N_EXAMPLES=len(inputs), EXAMPLES=examples)


def random_dense(*sizes: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], DenseInt8, np.ndarray]:
    random = np.random.default_rng(0)
    layers = [(random.normal(0, n**-0.5, (h, n)), random.normal(0, 0.1, h)) for n, h in pairwise(sizes)]
    examples = random.integers(0, 256, (50, sizes[0])).astype(np.uint8)
    return layers, quantize_dense(layers, 1 / 128, examples), examples


def test_tables_answer_on_a_board_as_defined(board, tmp_path: Path):
    model = integers("two layers")
    inputs = random_inputs(7, model.n_pixels)
    logits = model.logits(inputs)
    done = export_c(model, tmp_path / "tables")
    measured = measure(board, done.source, program(done.source, inputs), len(inputs))
    assert measured.answers == digest(logits.tolist(), logits.argmax(axis=1).tolist())
    assert done.flash_bytes < measured.flash_bytes < done.flash_bytes + 4000
    assert done.ram_bytes <= measured.ram_bytes < done.ram_bytes + 4
    n_comparisons = sum(layer.anchors.shape[0] * layer.anchors.shape[1] for layer in model.layers)
    assert 6 * n_comparisons < measured.instructions < 300 * n_comparisons
    assert 20 < measured.stack_bytes < 400


def test_a_dense_network_answers_on_a_board_as_defined(board, tmp_path: Path):
    _, dense, examples = random_dense(20, 10, 6)
    write_classifier(dense, 6, tmp_path / "dense")
    source = tmp_path / "dense.c"
    logits = dense.logits(examples[:9])
    measured = measure(board, source, program(source, examples[:9]), 9)
    assert measured.answers == digest(logits.tolist(), logits.argmax(axis=1).tolist())
    assert 2 * dense.n_weights < measured.instructions < 60 * dense.n_weights


def test_a_dense_language_model_reads_on_a_board_as_defined(tmp_path: Path):
    board = BOARDS["cortex-m0"]
    if missing(board):
        pytest.skip("no board")
    embedding = np.random.default_rng(1).integers(0, 256, (5, 4)).astype(np.uint8)
    _, dense, _ = random_dense(12, 8, 6)
    write_language_model(dense, bytes(k % 5 for k in range(256)), embedding, 3, tmp_path / "dense")
    text = bytes(range(40, 60))
    padded = np.full((2 + len(text), 4), 128, dtype=np.uint8)
    padded[2:] = embedding[[k % 5 for k in text]]
    windows = np.stack([padded[at : at + 3].ravel() for at in range(len(text))])
    main = filled("measure_language_model.c.in", NAME="dense", N_BYTES=len(text), N_PROMPT=0,
                  TEXT=",".join(map(str, text)))  # fmt: skip
    measured = measure(board, tmp_path / "dense.c", main, len(text))
    assert measured.answers == digest(dense.logits(windows)[:, :5].tolist())


def test_bytes_are_near_the_network_that_they_were_made_of():
    layers, dense, examples = random_dense(30, 16, 6)
    x = (torch.from_numpy(examples).double()) / 128
    for at, (weights, bias) in enumerate(layers):
        x = x @ torch.from_numpy(weights).T + torch.from_numpy(bias)
        x = x.relu() if at == 0 else x
    difference = np.abs(dense.logits(examples) * dense.logit_unit - x.numpy())
    assert difference.max() < 0.05 < x.std()
