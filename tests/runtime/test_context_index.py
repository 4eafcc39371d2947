"""The runtime's copies of counted contexts: dense rows, the index, and files made so that it cannot hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from polychron import models, runtime
from polychron.nn import ContextTables
from polychron.ops.contexts import ContextRows, bytes_of_symbols
from polychron.storage import TensorFile

from .conftest import random_model, save_model
from .integer_model import IntegerModel
from .test_contexts import overwrite
from .test_quantized import quantized, streamed_units
from .test_runtime import kernel, streamed_logits, tokens

__all__ = ["kernel"]

SYMBOLS = bytes(range(40, 200))
DEPTH = 4


def saved_with(contexts: ContextTables, folder: Path) -> tuple[models.LanguageModel, Path]:
    model = random_model(
        models.DelayConfig(vocabulary_size=len(SYMBOLS) + 1, n_tables=3, n_comparisons=3, readout_n_comparisons=3)
    )
    model.set_contexts(contexts)
    return model, save_model(model, folder / "run", SYMBOLS)


def counted(n: int = 8_000) -> tuple[ContextTables, bytes]:
    """Of a text in which three bytes, which are often the same, are followed by many."""
    draw = np.random.default_rng(0)
    ids = np.zeros(n, dtype=np.uint8)
    ids[0::4], ids[1::4], ids[2::4] = 1, 2, draw.integers(3, 6, n // 4)
    ids[3::4] = draw.integers(0, 60, n // 4)
    return ContextTables.of_text(ids, [(0, n)], bytes_of_symbols(SYMBOLS), 7), bytes(SYMBOLS[i] for i in ids[:400])


def check_logits(trained: models.LanguageModel, folder: Path, text: bytes) -> None:
    """Bit for bit, of float32 those of training, of int8 those of the definition."""
    loaded = runtime.load(folder)
    if loaded.precision == "float32":
        expected = trained(tokens(loaded, text)[None])[0].detach().numpy()
        assert np.array_equal(streamed_logits(loaded, text).view(np.int32), expected.view(np.int32))
    else:
        expected = IntegerModel(TensorFile(next(folder.glob("weights*")))).units(loaded.vocabulary.ids_of(text))
        assert np.array_equal(streamed_units(loaded, text), expected)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_rows_of_many_entries_are_read_as_sums(precision: str, tmp_path: Path, kernel: str, monkeypatch):
    contexts, text = counted()
    trained, folder = saved_with(contexts, tmp_path)
    if precision != "float32":
        folder = quantized(folder, precision)
    check_logits(trained, folder, text)
    copied = runtime.count_text(runtime.load(folder), text)[-3]
    monkeypatch.setattr("polychron.runtime.model._MOST_COPIED_CONTEXTS", 1)
    check_logits(trained, folder, text)
    in_place = runtime.count_text(runtime.load(folder), text)[-3]
    assert copied.rows == in_place.rows
    assert in_place.additions - copied.additions > 10 * len(text)


def test_sums_that_leave_16_bits_are_kept_in_32_or_not_as_sums(tmp_path: Path, kernel: str):
    contexts, text = counted()
    trained, folder = saved_with(contexts, tmp_path)
    folder = quantized(folder, "int8")
    rows = contexts.words
    [long] = [c for c in range(len(rows.symbol)) if rows.first_entry[c + 1] - rows.first_entry[c] > 40][-1:]
    assert long >= int(rows.first_child[int(rows.first_child[1])])  # of three bytes or more
    for at in range(int(rows.first_entry[long]), int(rows.first_entry[long + 1])):
        overwrite(folder, "value", at, 32767)
    check_logits(trained, folder, text)  # that row is not dense, and too long for the index
    for at in range(int(rows.first_entry[3])):
        overwrite(folder, "value", at, 32767)
    check_logits(trained, folder, text)


@pytest.mark.parametrize("hostile", [True, False])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_contexts_chosen_to_collide_are_read_in_place(precision: str, hostile: bool, tmp_path: Path):
    """Their lines lie side by side: the index has no room there, and who built it would search for ever."""
    n_parents, n_children = 150, 1_500
    n_lines = 8 * (n_parents + n_children) * 5 // 96 + 1
    keys = [[50, 51, 40 + p, s] for p in range(n_parents) for s in SYMBOLS]
    lines = np.array([line_of(key, n_lines) for key in keys])
    near = np.flatnonzero((lines >= 100) & (lines < 164) if hostile else lines >= 0)
    assert len(near) >= n_children
    chosen = sorted(np.random.default_rng(0).choice(near, n_children, replace=False).tolist())
    rows = {kind: of_levels([]) for kind in ("words", "line")}
    rows["text"] = of_levels([
        [[50]], [[50, 51]], [[50, 51, 40 + p] for p in range(n_parents)], [keys[c] for c in chosen]
    ])  # fmt: skip
    contexts = ContextTables.of_rows(rows, bytes_of_symbols(SYMBOLS), DEPTH)
    trained, folder = saved_with(contexts, tmp_path)
    if precision != "float32":
        folder = quantized(folder, precision)
    text = bytes(byte for c in chosen[::50] for byte in reversed(keys[c]))
    check_logits(trained, folder, text)
    counts = runtime.count_text(runtime.load(folder), text)[-3]
    assert counts.rows >= 2 * len(text)  # of four tokens one has five contexts
    assert (counts.place_bytes < 20 * len(text)) == hostile  # a line of the index has 64


def line_of(key: list[int], n_lines: int) -> int:
    """Where the index looks for a context first, as native/runtime_context_index.hpp has it."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15
    number = int.from_bytes(bytes(key), "little") | len(key) << 56
    mixed = (number ^ number >> 29) * golden & mask
    mixed = (mixed ^ mixed >> 32) * golden & mask
    return (mixed >> 32) * n_lines >> 32


def of_levels(levels: list[list[list[int]]]) -> ContextRows:
    """Contexts of 1, 2, ... bytes, in order, below the empty one; a row has one number."""
    contexts: list[list[int]] = [[], *(context for level in levels for context in level)]
    n = len(contexts)
    first_child, at = [], 1
    for context in contexts:
        first_child.append(at)
        while at < n and contexts[at][:-1] == context:
            at += 1
    assert at == n
    symbol = torch.tensor([context[-1] if context else 0 for context in contexts], dtype=torch.uint8)
    return ContextRows(
        symbol,
        torch.tensor([*first_child, n], dtype=torch.int32),
        torch.arange(n + 1, dtype=torch.int32),
        torch.arange(n).remainder(len(SYMBOLS)).to(torch.uint8),
        torch.linspace(-2.0, 2.0, n),
    )
