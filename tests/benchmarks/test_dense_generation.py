"""The dense network of bytes in C for the processor at hand says what numpy does, in all ways that it is compiled."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from boards.dense_int8 import DenseInt8, DenseLayer
from boards.dense_pc import OPTIONS, CompiledWindow

CONTEXT, WIDTH, TOKENS, HIDDEN = 5, 4, 11, 38


def network() -> tuple[DenseInt8, np.ndarray]:
    random = np.random.default_rng(0)
    first = DenseLayer(
        random.integers(-127, 128, (HIDDEN, CONTEXT * WIDTH)).astype(np.int8),
        random.integers(-9999, 9999, HIDDEN).astype(np.int32), 6,
    )  # fmt: skip
    readout = DenseLayer(
        random.integers(-127, 128, (TOKENS + 1, HIDDEN)).astype(np.int8),
        random.integers(-9999, 9999, TOKENS + 1).astype(np.int32), None,
    )  # fmt: skip
    return DenseInt8((first, readout), 1e-5), random.integers(0, 256, (TOKENS, WIDTH)).astype(np.uint8)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_c_says_what_numpy_does(options: str, tmp_path: Path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    dense, embedding = network()
    try:
        compiled = CompiledWindow(dense, embedding, 1.0, tmp_path, options)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the compiler here has no such option: {error.stderr[-200:]!r}")
    tokens = np.random.default_rng(1).integers(0, TOKENS, 300).astype(np.uint8)
    side_by_side = embedding[np.lib.stride_tricks.sliding_window_view(tokens, CONTEXT)]
    expected = dense.logits(side_by_side.reshape(len(side_by_side), -1))
    assert np.array_equal(compiled.logits(tokens), expected)
    assert np.abs(expected).mean() > 10_000

    written = compiled.write(tokens, 4000, seed=3)
    assert written.max() == TOKENS - 2  # the last token stands for bytes never seen
    assert np.array_equal(written, compiled.write(tokens, 4000, seed=3))
    assert not np.array_equal(written, compiled.write(tokens, 4000, seed=4))
    # What it drew is as likely, on average, as the model says that its draws are.
    text = np.concatenate([tokens[-CONTEXT:], written])
    logits = compiled.logits(text[:-1])[:, : TOKENS - 1] * dense.logit_unit
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    drawn = np.bincount(written, minlength=TOKENS - 1) / len(written)
    assert np.abs(drawn - chances.mean(axis=0)).max() < 0.03
