"""Counted contexts in the runtime: what is added where a text begins, what is counted of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from polychron import analysis, models, runtime
from polychron.analysis.cost import ContextCost
from polychron.errors import InputError
from polychron.nn import ContextTables
from polychron.ops.contexts import advance_reference, context_of, letters, start_state
from polychron.quantization import dequantize, quantize
from polychron.runtime import SamplingOptions
from polychron.storage import TensorFile
from polychron.training import open_checkpoint

from .conftest import COUNTED, SavedModel, random_model, random_text, save_model
from .test_quantized import quantized
from .test_runtime import streamed_logits, tokens

Saved = Callable[[str], SavedModel]


def rows_of(trained: torch.nn.Module, ids: list[int]) -> list[int]:
    """Contexts that the ids end with, from the empty one on."""
    contexts, found = trained.contexts, [0]
    first, symbol = contexts.first_child.tolist(), contexts.symbol.tolist()
    [state], adds = start_state(1).tolist(), contexts.letter.tolist()
    for token in ids:
        state = advance_reference(state, token, adds[token])
    for byte in context_of(state)[: contexts.depth]:
        children = symbol[first[found[-1]] : first[found[-1] + 1]]
        if byte not in children:
            break
        found.append(first[found[-1]] + children.index(byte))
    return found


@pytest.mark.parametrize("name", COUNTED)
def test_contexts_change_the_logits_from_the_first_byte_on(name: str, saved: Saved):
    trained, folder = saved(name)
    model = runtime.load(folder)
    text = random_text(300)
    logits = streamed_logits(model, text)
    trained.set_contexts(None)
    without = trained(tokens(model, text)[None])[0].detach().numpy()
    assert (logits != without).any(axis=1).all()


def test_streams_side_by_side_each_have_their_own_context(saved: Saved):
    _, folder = saved("contexts")
    for path in (folder, quantized(folder, "int8")):
        model = runtime.load(path)
        texts = [random_text(40), random_text(60, seed=1), random_text(33, seed=2)]
        alone = [streamed_logits(model, text)[-1] for text in texts]
        streams = [model.stream() for _ in texts]
        for t in range(60):
            for stream, text in zip(streams, texts, strict=True):
                stream.read(text[t : t + 1])
        assert all(np.array_equal(s.logits(), one) for s, one in zip(streams, alone, strict=True))
        for stream in streams:  # and none when it begins anew
            stream.start(texts[0])
            assert np.array_equal(stream.logits(), alone[0])
        options = [SamplingOptions(seed=seed) for seed in range(3)]
        once = runtime.generate_many(streams, 200, options, threads=2)
        for stream, some, written in zip(streams, options, once, strict=True):
            stream.start(texts[0])
            assert stream.generate(200, some) == written


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_what_is_counted_are_the_rows_that_the_text_has(name: str, precision: str, saved: Saved):
    trained, folder = saved(name)
    if precision != "float32":
        folder = quantized(folder, precision)
    model = runtime.load(folder)
    text = random_text(350)
    ids = model.vocabulary.encode(text).tolist()
    paths = [rows_of(trained, ids[: t + 1]) for t in range(len(ids))]
    first, n_symbols = trained.contexts.first_entry.tolist(), trained.config.vocabulary_size
    counts = runtime.count_text(model, text)[-1]
    assert counts.rows == sum(map(len, paths))
    # The rows up to two bytes are read as one, their sum.
    n_entries = sum(first[c + 1] - first[c] for path in paths for c in path[3:])
    assert counts.additions == len(text) * n_symbols + n_entries
    entry_bytes = 3 if precision == "int8" else 5
    assert counts.row_bytes == 4 * len(text) * n_symbols + entry_bytes * n_entries
    assert counts.distinct_rows == len({c for path in paths for c in path[3:]} | {path[:3][-1] for path in paths})
    assert (counts.comparisons, counts.joined, counts.keys, counts.latency_bytes) == (0, 0, 0, 0)
    predicted = analysis.count_cost(trained.config).layers[-1]
    assert isinstance(predicted, ContextCost)
    assert counts.rows <= len(text) * predicted.rows
    assert counts.additions <= len(text) * predicted.additions
    assert counts.row_bytes <= len(text) * predicted.row_bytes(1 if precision == "int8" else 4)
    assert counts.place_bytes <= len(text) * predicted.latency_bytes(4)


def test_where_all_contexts_were_met_the_prediction_of_rows_is_exact(saved: Saved):
    trained, folder = saved("contexts")
    model = runtime.load(folder)
    counts = runtime.count_text(model, random_text(150), 7)[-1]
    assert counts.rows == 143 * analysis.count_cost(trained.config).layers[-1].rows == 143 * 8


def test_contexts_of_few_symbols_are_dense_and_of_many_are_not(tmp_path: Path):
    """Sums of the rows of up to two bytes would be larger than a cache: they are added one by one, to the same bits."""
    ids = np.random.default_rng(0).integers(0, 200, 20_000).astype(np.uint8)
    model = random_model(models.DelayConfig(vocabulary_size=201, n_tables=4, n_comparisons=4, readout_n_comparisons=4))
    model.set_contexts(ContextTables.of_text(ids, [(0, len(ids))], letters(bytes(range(200))), 4))
    folder = save_model(model, tmp_path / "run", bytes(range(200)))
    text = bytes(ids[:100].tolist())
    loaded = runtime.load(folder)
    expected = model(tokens(loaded, text)[None])[0].detach().numpy()
    assert np.array_equal(streamed_logits(loaded, text).view(np.int32), expected.view(np.int32))
    assert int(model.contexts.first_child[201]) * 201 * 4 > 1 << 20
    place_bytes = runtime.count_text(loaded, text)[-1].place_bytes
    assert place_bytes >= 64 * 3 * len(text)  # all are in the index, whose lines are read whole
    assert place_bytes % 64 == 0


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_contexts_that_are_too_large_for_copies_are_read_in_place(name, precision, saved: Saved, monkeypatch):
    _, folder = saved(name)
    if precision != "float32":
        folder = quantized(folder, precision)
    text = random_text(350)
    copied = runtime.load(folder)
    expected = streamed_logits(copied, text)
    counts = runtime.count_text(copied, text)[-1]
    monkeypatch.setattr("polychron.runtime.model._MOST_COPIED_CONTEXTS", 1)
    in_place = runtime.load(folder)
    assert np.array_equal(streamed_logits(in_place, text).view(np.int32), expected.view(np.int32))
    found = runtime.count_text(in_place, text)[-1]
    same = ("rows", "additions", "row_bytes", "distinct_rows")
    assert all(getattr(found, field) == getattr(counts, field) for field in same)
    if trained_depth(folder) > 2:  # lines of an index are 64 bytes, halving reads few
        assert 0 < found.place_bytes != counts.place_bytes > 0


def test_contexts_chosen_to_share_one_line_are_read_in_place(tmp_path: Path):
    """What only a file made for that brings about: they are found byte after byte, to the same bits."""
    n_contexts, n_tokens, golden = 600, 201, 0x9E3779B97F4A7C15
    n_lines = n_contexts * 5 // 12 + 1

    def line_of(symbols: list[int]) -> int:
        key = int.from_bytes(bytes(symbols), "little") | 3 << 56
        mixed = (key ^ key >> 29) * golden % 2**64
        return ((mixed ^ mixed >> 32) * golden % 2**64 >> 32) * n_lines >> 32

    generator, chosen = np.random.default_rng(0), set()
    while len(chosen) < n_contexts:
        symbols = generator.integers(0, n_tokens - 1, 3).tolist()
        if line_of(symbols) == 7:
            chosen.add(tuple(symbols))
    ids = np.array([[*reversed(symbols), symbols[0]] for symbols in sorted(chosen)], dtype=np.uint8).ravel()
    parts = [(begin, begin + 4) for begin in range(0, len(ids), 4)]
    values = bytes(range(n_tokens - 1))
    model = random_model(models.DelayConfig(vocabulary_size=n_tokens, n_tables=4, readout_n_comparisons=4))
    model.set_contexts(ContextTables.of_text(ids, parts, letters(values), 3))
    first_child = model.contexts.first_child.tolist()
    assert len(model.contexts.symbol) - first_child[first_child[1]] == n_contexts  # of three bytes
    loaded = runtime.load(save_model(model, tmp_path / "run", values))
    text = bytes(ids.tolist())
    expected = model(tokens(loaded, text)[None])[0].detach().numpy()
    assert np.array_equal(streamed_logits(loaded, text).view(np.int32), expected.view(np.int32))
    assert 0 < runtime.count_text(loaded, text)[-1].place_bytes < 64 * n_contexts


def trained_depth(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text())["model"]["context_depth"]


def test_int8_values_are_whole_units_of_the_logits(saved: Saved):
    trained, folder = saved("contexts")
    before = open_checkpoint(folder).load_tensors()
    before["model.contexts.value"] = before["model.contexts.value"].clone()
    before["model.contexts.value"][:2] = torch.tensor([1e9, -1e9])
    small = quantize(before, "int8")
    whole = small.tensors["model.contexts.value"]
    assert whole.dtype == torch.int16
    assert whole[:2].tolist() == [32767, -32768]
    again = dequantize(small.tensors, small.latency_bits, small.logit_bits)["model.contexts.value"]
    assert again.dtype == torch.float32
    assert (again - before["model.contexts.value"])[2:].abs().max() <= 2.0 ** -(small.logit_bits + 1)
    kept = quantize(before, "bfloat16").tensors["model.contexts.value"]
    assert torch.equal(kept, before["model.contexts.value"])
    for name in ("symbol", "first_child", "first_entry", "entry_symbol"):
        assert torch.equal(small.tensors[f"model.contexts.{name}"], getattr(trained.contexts, name))


def overwrite(folder: Path, name: str, at: int, number: int) -> None:
    path = next(folder.glob("weights*"))
    entry = TensorFile(path).entries[f"model.contexts.{name}"]
    size = {"U8": 1, "I16": 2, "I32": 4, "F32": 4}[entry.dtype]
    content = bytearray(path.read_bytes())
    begin = entry.begin + size * (at if at >= 0 else (entry.end - entry.begin) // size + at)
    content[begin : begin + size] = (number % 256**size).to_bytes(size, "little")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "at", "number", "message"),
    [
        ("first_child", 0, 0, "first_child must ascend from 1"),
        ("first_child", -1, 7, "first_child must ascend from 1"),
        ("first_child", 5, 2**31 - 1, "first_child must ascend"),
        ("first_child", 5, -1, "first_child must ascend"),
        ("first_child", 1, 1, "first_child must ascend from 1 to the number of contexts, children after"),
        ("first_entry", 0, 1, "first_entry must ascend from 0"),
        ("first_entry", -1, 2**31 - 1, "first_entry must ascend from 0"),
        ("first_entry", 3, -1, "first_entry must ascend"),
        ("entry_symbol", 9, 28, "entry_symbol must lie below"),
        ("entry_symbol", 1, 0, "entry_symbol must ascend in each row"),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_damaged_contexts_are_refused(name, at, number, message, precision: str, saved: Saved):
    _, folder = saved("contexts")
    if precision != "float32":
        folder = quantized(folder, precision)
    overwrite(folder, name, at, number)
    with pytest.raises(InputError, match=f"is damaged: contexts: {message}"):
        runtime.load(folder)
    if precision == "float32":
        with pytest.raises(InputError, match="is damaged"):
            open_checkpoint(folder).load_model()


@pytest.mark.parametrize("depth", [-1, 8, 2**64, "7", True, 2.0])
def test_an_impossible_length_of_contexts_is_refused(depth, saved: Saved):
    _, folder = saved("contexts")
    fields = json.loads((folder / "config.json").read_text())
    fields["model"]["context_depth"] = depth
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"model\.context_depth must"):
        runtime.load(folder)


def test_contexts_that_config_does_not_know_or_that_are_not_there_are_refused(saved: Saved):
    _, folder = saved("contexts")
    fields = json.loads((folder / "config.json").read_text())
    fields["model"]["context_depth"] = 0
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"does not know 'model\.contexts"):
        runtime.load(folder)


def test_tensors_without_contexts_where_config_has_some_are_refused(saved: Saved):
    _, folder = saved("delay")
    fields = json.loads((folder / "config.json").read_text())
    fields["model"] |= {"context_depth": 3, "n_contexts": 9, "n_context_entries": 9}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"model\.contexts\.letter must be U8 with 1 axes and is absent"):
        runtime.load(folder)
