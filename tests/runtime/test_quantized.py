"""Quantised models: what the numbers become, and that the runtime's integers are those of the definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from polychron import runtime
from polychron.errors import InputError
from polychron.quantization import keep_order, quantize, quantize_tables
from polychron.runtime import SamplingOptions
from polychron.runtime.sampling import Random
from polychron.storage import TensorFile
from polychron.training import CheckpointWriter, open_checkpoint
from polychron.training.records import QuantizationRecord

from .conftest import COUNTED, MODELS, SavedModel, random_text
from .integer_model import IntegerModel
from .test_runtime import kernel, streamed_logits, tokens

__all__ = ["kernel"]

Saved = Callable[[str], SavedModel]


def quantized(folder: Path, to: str) -> Path:
    checkpoint = open_checkpoint(folder)
    small = quantize(checkpoint.load_tensors(), to)
    record = QuantizationRecord(precision=to, latency_bits=small.latency_bits, logit_bits=small.logit_bits)
    with CheckpointWriter(folder.with_name(to)) as writer:
        return writer.save(checkpoint.record.model_copy(update={"quantization": record}), small.tensors)


def streamed_units(model: runtime.Model, text: bytes) -> np.ndarray:
    stream = model.stream()
    units = []
    for byte in text:
        stream.read(bytes([byte]))
        units.append(stream.units())
    return np.stack(units)


@pytest.mark.parametrize("name", [*MODELS, *COUNTED])
def test_integers_are_those_of_the_definition(name: str, saved: Saved, kernel: str):
    folder = quantized(saved(name)[1], "int8")
    model = runtime.load(folder)
    text = random_text(getattr(MODELS.get(name), "context", 350))
    expected = IntegerModel(TensorFile(next(folder.glob("weights*")))).units(model.vocabulary.ids_of(text))
    units = streamed_units(model, text)
    assert np.unique(units).size > 50
    assert np.array_equal(units, expected)
    logits = streamed_logits(model, text[:20])
    assert np.array_equal(logits, units[:20].astype(np.float32) * np.float32(2.0**-model.settings.logit_bits))


def test_latencies_saturate_at_16_bits(saved: Saved, kernel: str):
    folder = quantized(saved("two delay layers")[1], "int8")
    path = next(folder.glob("weights*"))
    content = bytearray(path.read_bytes())
    for name, entry in TensorFile(path).entries.items():
        if name.startswith("model.layers") and name.endswith("shifts"):
            content[entry.begin : entry.end] = bytes([8]) * (entry.end - entry.begin)
    path.write_bytes(content)
    model = runtime.load(folder)
    reference = IntegerModel(TensorFile(path))
    text = random_text(100)
    ids = model.vocabulary.ids_of(text)
    z = reference.tensors["embedding.latencies"][list(ids)]
    assert (np.abs(z + reference.lookup("layers.0.", z)) > 32767).any()
    assert np.array_equal(streamed_units(model, text), reference.units(ids))


@pytest.mark.parametrize("name", ["two delay layers", "transformer", "contexts"])
def test_bfloat16_is_the_float_model_with_rounded_tables_bit_for_bit(name: str, saved: Saved, kernel: str):
    trained, folder = saved(name)
    model = runtime.load(quantized(folder, "bfloat16"))
    with torch.no_grad():
        for parameter_name, parameter in trained.named_parameters():
            if parameter_name.endswith("synaptic_vectors"):
                parameter.copy_(parameter.bfloat16().float())
    text = random_text(getattr(trained.config, "context", 200))
    expected = trained(tokens(model, text)[None])[0].detach().numpy()
    assert np.array_equal(streamed_logits(model, text), expected)


@pytest.mark.parametrize(
    "options",
    [SamplingOptions(seed=1), SamplingOptions(temperature=0.5, top_p=0.8, seed=2), SamplingOptions(temperature=0.0),
     SamplingOptions(temperature=5000.0)],
)  # fmt: skip
def test_int8_draws_take_their_weights_from_the_table(options: SamplingOptions, saved: Saved):
    from polychron import _native

    model = runtime.load(quantized(saved("delay")[1], "int8"))
    table, shift = _native.runtime_weight_table(2.0**-model.settings.logit_bits, options.temperature)
    assert table[0] == 2**22
    assert table == sorted(table, reverse=True)
    random = Random(options.seed)
    stream, reader = model.stream(), model.stream()
    stream.start(b"abc")
    reader.start(b"abc")
    for byte in stream.generate(200, options):
        units = reader.units()[:-1]
        if options.temperature == 0:
            token = int(units.argmax())
        else:
            weights = [table[d] if (d := (int(units.max()) - int(u)) >> shift) < len(table) else 0 for u in units]
            while True:
                cumulative = np.cumsum(weights)
                token = int(np.searchsorted(cumulative, random.below(sum(weights)), side="right"))
                behind = sum(w for k, w in enumerate(weights) if (-w, k) >= (-weights[token], token))
                if behind > sum(weights) * options.left_out // 65536:
                    break
        assert model.vocabulary.decode([token]) == bytes([byte])
        reader.read(bytes([byte]))


def test_int8_costs_little_and_is_scored_like_any_model(saved: Saved):
    _, folder = saved("delay")
    small = runtime.load(quantized(folder, "int8"))
    text = random_text(300)
    (*_, (nats, n_bytes)) = runtime.text_stream.score_progressively(small, text)
    logits = streamed_logits(small, text)[:-1].astype(np.float64)
    ids = small.vocabulary.encode(text)[1:]
    expected = (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(n_bytes), ids]).sum()
    expected += small.vocabulary.unseen_nats * np.count_nonzero(ids == small.vocabulary.unseen_id)
    assert nats == pytest.approx(expected, rel=1e-5)


def test_embeddings_keep_their_order():
    latencies = np.random.default_rng(0).uniform(-1, 1, (50, 64)).astype(np.float32)
    latencies[:, 5] = latencies[:, 6]
    whole = keep_order(latencies, 6)  # so coarse that most would tie
    assert np.array_equal(
        np.sign(latencies[:, :, None] - latencies[:, None, :]),
        np.sign(whole[:, :, None].astype(int) - whole[:, None, :]),
    )
    assert np.abs(whole / 64 - latencies).max() < 0.5
    assert np.abs(keep_order(latencies, 14) / 2**14 - latencies).max() < 2**-13
    with pytest.raises(InputError, match="which 16 bits do not hold"):
        keep_order(latencies * 10, 14)


def test_tables_are_rounded_to_a_power_of_two_each():
    tables = np.random.default_rng(0).normal(size=(4, 16, 8)).astype(np.float32)
    tables *= np.array([1e-3, 1, 100, 0], dtype=np.float32)[:, None, None]
    rows, exponents = quantize_tables(tables, None)
    steps = np.ldexp(1.0, exponents)[:, None, None]
    assert np.abs(rows * steps - tables)[:3].max() <= np.abs(tables).max() / 4
    errors = np.abs(rows * steps - tables)
    assert (errors <= steps / 2 + (np.abs(rows) == 127) * np.abs(tables)).all()
    assert (np.abs(rows[:3]).reshape(3, -1).max(axis=1) >= 64).all()
    assert not rows[3].any()


def test_training_refuses_a_quantised_model_and_says_why(saved: Saved):
    folder = quantized(saved("delay")[1], "int8")
    with pytest.raises(InputError, match="is quantised to int8: it can be run, scored and exported"):
        open_checkpoint(folder).load_model()


@pytest.mark.parametrize("to", ["int4", "float16"])
def test_other_precisions_are_refused(to: str):
    with pytest.raises(InputError, match="quantised to one of int8, bfloat16"):
        quantize({}, to)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        quantize({"model.readout.synaptic_vectors": torch.tensor([[[float("nan")]]])}, "int8")
