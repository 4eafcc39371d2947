"""What the counting kernels count, beside the prediction from the configuration and beside rows seen in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from polychron import analysis, runtime
from polychron.analysis.inspection import inspect_model
from polychron.errors import InputError

from .conftest import MODELS, SavedModel, random_text
from .test_quantized import quantized

Saved = Callable[[str], SavedModel]
N_BYTES = 400


def filled(n: int, to: int) -> int:
    return -(-n // to) * to


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_what_is_counted_is_what_was_predicted(name: str, precision: str, saved: Saved):
    trained, folder = saved(name)
    if precision != "float32":
        folder = quantized(folder, precision)
    layers = analysis.count_cost(trained.config).layers
    n_before = max(layer.n_readings for layer in layers)
    counted = runtime.count_text(runtime.load(folder), random_text(n_before + N_BYTES), n_before)
    assert len(counted) == len(layers)
    element_bytes, fill = (4, 16) if precision == "float32" else (1, 32)
    for k, (layer, counts) in enumerate(zip(layers, counted, strict=True)):
        assert counts.rows == N_BYTES * layer.rows
        assert counts.additions == N_BYTES * layer.rows * filled(layer.n_outputs, fill)
        assert counts.row_bytes == counts.additions * element_bytes
        assert counts.row_bytes / 64 <= counts.row_lines <= counts.row_bytes / 64 + 2 * counts.rows
        assert 0 < counts.distinct_rows <= min(counts.rows, layer.synapses // layer.n_outputs)
        assert counts.keys == (N_BYTES * layer.rows if layer.from_cache else 0)
        if counts.joined:  # bits that follow from tokens, or those of earlier comparisons
            of_layer = trained.readout if layer.name == "readout" else trained.layers[k]
            assert counts.joined == N_BYTES * (int(of_layer.delays.max()) + 1) * filled(layer.n_tables, 16)
        if counts.comparisons == 0:  # only where latencies are the embedding's
            assert k == 0
            assert counts.joined
        else:
            assert counts.comparisons == N_BYTES * layer.comparisons
            assert counts.latency_bytes == 8 * counts.comparisons
            bits = layer.n_hashed // (1 if not layer.from_cache or trained.config.share_anchors else 2)
            n_hashes = layer.n_hashed // bits
            assert counts.filler == N_BYTES * n_hashes * bits * (filled(layer.n_tables, 16) - layer.n_tables)


@pytest.mark.parametrize("name", [name for name, config in MODELS.items() if config.kind != "transformer"])
def test_rows_read_are_those_that_the_training_model_reads(name: str, saved: Saved):
    trained, folder = saved(name)
    text = random_text(N_BYTES)
    model = runtime.load(folder)
    tokens = torch.from_numpy(model.vocabulary.encode(text).astype(np.int64))[None]
    for usage, counts in zip(inspect_model(trained, tokens), runtime.count_text(model, text), strict=True):
        assert counts.rows == usage.visits.sum()
        assert counts.distinct_rows == (usage.visits > 0).sum()


def test_counting_changes_no_bit_and_begins_anew_when_told(saved: Saved):
    _, folder = saved("two delay layers")
    model = runtime.load(folder)
    native = runtime.extension.require_native()
    ids = model.vocabulary.ids_of(random_text(50))
    counting, usual = native.RuntimeStream(model.native, counting=True), native.RuntimeStream(model.native)
    assert counting.score(ids) == usual.score(ids)
    once = counting.counts()
    counting.reset()
    counting.forget_counts()
    counting.score(ids)
    assert counting.counts() == once
    counting.score(ids)
    assert counting.counts()[-1]["rows"] == 2 * once[-1]["rows"]
    with pytest.raises(ValueError, match="does not count"):
        usual.counts()


def test_a_text_that_does_not_fill_the_context_is_refused(saved: Saved):
    _, folder = saved("transformer")
    with pytest.raises(InputError, match="more than the 11 bytes"):
        runtime.count_text(runtime.load(folder), b"a" * 11, 11)
