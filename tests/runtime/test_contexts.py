"""Counted contexts in the runtime: what is added where a text begins, what is counted of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from polychron import analysis, models, runtime
from polychron.analysis.cost import ContextCost, RecentCost
from polychron.errors import InputError
from polychron.nn import ContextTables
from polychron.ops.contexts import LISTS, advance_reference, bytes_of_symbols, context_of, start_state
from polychron.ops.recent import N_CELLS, find_recent, start_recent_state
from polychron.quantization import dequantize, quantize
from polychron.runtime import SamplingOptions
from polychron.storage import TensorFile
from polychron.training import open_checkpoint

from .conftest import COUNTED, SavedModel, random_model, random_text, save_model
from .test_quantized import quantized
from .test_runtime import streamed_logits, tokens

Saved = Callable[[str], SavedModel]


def paths_of(trained: torch.nn.Module, ids: list[int], kind: str) -> list[list[int]]:
    """After each token the contexts of one kind that the ids end with, from the empty one on."""
    contexts, paths = trained.contexts.get_submodule(kind), []
    first, symbol = contexts.first_child.tolist(), contexts.symbol.tolist()
    [state], byte_of = start_state(1).tolist(), trained.contexts.byte.tolist()
    for token in ids:
        state, found = advance_reference(state, byte_of[token]), [0]
        for byte in context_of(state, kind)[: trained.contexts.depth]:
            children = symbol[first[found[-1]] : first[found[-1] + 1]]
            if byte not in children:
                break
            found.append(first[found[-1]] + children.index(byte))
        paths.append(found)
    return paths


def n_dense(path: list[int], first_entry: list[int], least: int = 7) -> int:
    """Contexts of a path whose rows are read as one."""
    n = min(len(path), 3)
    while n >= 3 and n < len(path) and first_entry[path[n] + 1] - first_entry[path[n]] >= least:
        n += 1
    return n


@pytest.mark.parametrize("name", COUNTED)
def test_contexts_change_the_logits_from_the_first_byte_on(name: str, saved: Saved):
    trained, folder = saved(name)
    model = runtime.load(folder)
    text = random_text(300)
    logits = streamed_logits(model, text)
    trained.set_contexts(None)
    without = trained(tokens(model, text)[None])[0].detach().numpy()
    assert (logits != without).any(axis=1).all()


@pytest.mark.parametrize("name", ["contexts", "recent contexts"])
def test_streams_side_by_side_each_have_their_own_context(name: str, saved: Saved):
    _, folder = saved(name)
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


def check_recent(trained: torch.nn.Module, ids: list[int], counts: runtime.StageCounts, predicted: RecentCost) -> None:
    """A line of each table is read, and a cell for each symbol that is found."""
    _, cells, _ = find_recent(trained.contexts.byte, torch.tensor([ids]), start_recent_state(1))
    n_found = int((cells < N_CELLS).sum())
    assert counts.rows == counts.additions == n_found > 20
    assert counts.row_bytes == 4 * n_found
    assert counts.distinct_rows == len(set(cells[cells < N_CELLS].tolist()))
    assert n_found <= len(ids) * predicted.rows
    n_in_runs = sum(len(set(ids[t - 2 : t + 1])) == 1 for t in range(2, len(ids)))
    assert counts.place_bytes == 5 * 64 * (len(ids) - n_in_runs)
    assert predicted.place_bytes == 5 * 64
    assert predicted.n_rows == N_CELLS


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_what_is_counted_are_the_rows_that_the_text_has(name: str, precision: str, saved: Saved):
    trained, folder = saved(name)
    if precision != "float32":
        folder = quantized(folder, precision)
    model = runtime.load(folder)
    text = random_text(350)
    ids = model.vocabulary.encode(text).tolist()
    n_symbols = trained.config.vocabulary_size
    counted, predictions = runtime.count_text(model, text), list(analysis.count_cost(trained.config).layers)
    if trained.config.recent:
        check_recent(trained, ids, counted.pop(), predictions.pop())
    of_kinds = zip(LISTS, counted[-3:], predictions[-3:], strict=True)
    for kind, counts, predicted in of_kinds:
        paths = paths_of(trained, ids, kind)
        first = trained.contexts.get_submodule(kind).first_entry.tolist()
        assert counts.rows == sum(map(len, paths))
        # The rows up to two bytes are read as one, their sum, and longer ones of many entries with them.
        dense = [n_dense(path, first) for path in paths]
        n_entries = sum(first[c + 1] - first[c] for path, n in zip(paths, dense, strict=True) for c in path[n:])
        assert counts.additions == len(text) * n_symbols + n_entries
        entry_bytes = 3 if precision == "int8" else 5
        dense_bytes = 2 if precision == "int8" else 4
        assert counts.row_bytes == dense_bytes * len(text) * n_symbols + entry_bytes * n_entries
        following = {c for path, n in zip(paths, dense, strict=True) for c in path[n:]}
        assert counts.distinct_rows == len(following | {path[n - 1] for path, n in zip(paths, dense, strict=True)})
        assert (counts.comparisons, counts.joined, counts.keys, counts.latency_bytes) == (0, 0, 0, 0)
        assert isinstance(predicted, ContextCost)
        assert counts.rows <= len(text) * predicted.rows
        assert counts.additions <= len(text) * predicted.additions
        assert counts.row_bytes <= len(text) * predicted.row_bytes(1 if precision == "int8" else 4)


def test_where_all_contexts_were_met_the_prediction_of_rows_is_exact(saved: Saved):
    trained, folder = saved("contexts")
    model = runtime.load(folder)
    counts = runtime.count_text(model, random_text(100, seed=1)[:99], 14)[-3]  # that was counted twice
    assert counts.rows == 85 * analysis.count_cost(trained.config).layers[-3].rows == 85 * 8


def test_contexts_of_few_symbols_are_dense_and_of_many_are_not(tmp_path: Path):
    """Sums of the rows of up to two bytes would be larger than a cache: they are added one by one, to the same bits."""
    ids = np.random.default_rng(0).integers(0, 200, 20_000).astype(np.uint8)
    model = random_model(models.DelayConfig(vocabulary_size=201, n_tables=4, n_comparisons=4, readout_n_comparisons=4))
    model.set_contexts(ContextTables.of_text(ids, [(0, len(ids))], bytes_of_symbols(bytes(range(200))), 4))
    folder = save_model(model, tmp_path / "run", bytes(range(200)))
    text = bytes(ids[:100].tolist())
    loaded = runtime.load(folder)
    expected = model(tokens(loaded, text)[None])[0].detach().numpy()
    assert np.array_equal(streamed_logits(loaded, text).view(np.int32), expected.view(np.int32))
    text_contexts = model.contexts.text
    assert int(text_contexts.first_child[int(text_contexts.first_child[1])]) * 201 * 4 > 1 << 20
    place_bytes = runtime.count_text(loaded, text)[-3].place_bytes
    assert place_bytes >= 64 * len(text)  # the index is asked, whose lines are read whole
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
    last = -2 if copied.settings.recent else -1
    counts = runtime.count_text(copied, text)[last]
    monkeypatch.setattr("polychron.runtime.model._MOST_COPIED_CONTEXTS", 1)
    in_place = runtime.load(folder)
    assert np.array_equal(streamed_logits(in_place, text).view(np.int32), expected.view(np.int32))
    found = runtime.count_text(in_place, text)[last]
    same = ("rows", "additions", "row_bytes", "distinct_rows")
    assert all(getattr(found, field) == getattr(counts, field) for field in same)
    if trained_depth(folder) > 2:  # lines of an index are 64 bytes, halving reads few
        assert 0 < found.place_bytes != counts.place_bytes > 0


def trained_depth(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text())["model"]["context_depth"]


def test_int8_values_are_whole_units_of_the_logits(saved: Saved):
    trained, folder = saved("contexts")
    before = open_checkpoint(folder).load_tensors()
    before["model.contexts.words.value"] = before["model.contexts.words.value"].clone()
    before["model.contexts.words.value"][:2] = torch.tensor([1e9, -1e9])
    small = quantize(before, "int8")
    whole = small.tensors["model.contexts.words.value"]
    assert whole.dtype == torch.int16
    assert whole[:2].tolist() == [32767, -32768]
    again = dequantize(small.tensors, small.latency_bits, small.logit_bits)["model.contexts.words.value"]
    assert again.dtype == torch.float32
    assert (again - before["model.contexts.words.value"])[2:].abs().max() <= 2.0 ** -(small.logit_bits + 1)
    kept = quantize(before, "bfloat16").tensors["model.contexts.words.value"]
    assert torch.equal(kept, before["model.contexts.words.value"])
    for name in ("symbol", "first_child", "first_entry", "entry_symbol"):
        assert torch.equal(small.tensors[f"model.contexts.words.{name}"], getattr(trained.contexts.words, name))


def overwrite(folder: Path, name: str, at: int, number: int) -> None:
    path = next(folder.glob("weights*"))
    entry = TensorFile(path).entries[f"model.contexts.words.{name}"]
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
        ("symbol", 2, 0, "symbol must ascend among the children of each context"),
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
    fields["model"] |= {"context_depth": 3, "n_contexts": [9] * 3, "n_context_entries": [9] * 3}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"model\.contexts\.byte must be U8 with 1 axes and is absent"):
        runtime.load(folder)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_recent_tables_of_another_shape_or_type_are_refused(precision: str, tmp_path: Path):
    folder = save_model(random_model(COUNTED["recent contexts"]), tmp_path / "run")
    if precision == "int8":
        folder = quantized(folder, precision)
    right = torch.int16 if precision == "int8" else torch.float32
    for cells, message in (
        (torch.zeros(4, 2, 8, dtype=right), r"must have shape \(5, 2, 8\)"),
        (torch.zeros(5, 2, 8, dtype=torch.float64), r"contexts\.recent must be"),
        (torch.zeros(5, 16, dtype=right), r"contexts\.recent must be"),
    ):
        weights = next(folder.glob("weights*"))
        tensors = safetensors.torch.load_file(weights)
        tensors["model.contexts.recent"] = cells
        safetensors.torch.save_file(tensors, weights)
        fields = json.loads((folder / "config.json").read_text())
        fields["weights"]["bytes"] = weights.stat().st_size
        (folder / "config.json").write_text(json.dumps(fields))
        with pytest.raises(InputError, match=message):
            runtime.load(folder)


def test_a_config_that_names_recent_tables_without_contexts_is_refused(saved: Saved):
    _, folder = saved("delay")
    fields = json.loads((folder / "config.json").read_text())
    fields["model"]["recent"] = True
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"model\.recent goes with counted contexts"):
        runtime.load(folder)
