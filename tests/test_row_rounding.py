"""Rows rounded together: nearer to the sums wanted than rows rounded one by one, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polychron import models
from polychron.quantization import dequantize, quantize
from polychron.row_rounding import add_rows, round_together, rows_read

from .runtime.conftest import random_model


def test_rows_read_are_those_of_the_layer():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 12, generator=generator)
    model = random_model(models.DelayConfig(vocabulary_size=20, n_neurons=12, n_tables=5, n_comparisons=4, max_delay=3))
    layer = model.layers[0]
    expected = layer(z[None])[0].detach()
    rows = rows_read(z, layer.anchors, layer.delays)
    assert rows.unique().numel() > 8
    torch.testing.assert_close(z + add_rows(layer.synaptic_vectors.detach(), rows), expected)


@pytest.mark.parametrize("seed", range(3))
def test_sums_come_nearer_than_with_rows_rounded_one_by_one(seed: int):
    generator = torch.Generator().manual_seed(seed)
    tables = torch.randn(16, 8, 6, generator=generator)
    rows = torch.randint(8, (16, 2000), generator=generator)
    exponents = torch.full((16,), -5)
    wanted = add_rows(tables, rows)

    def error(whole: torch.Tensor) -> float:
        return float((add_rows(torch.ldexp(whole.float(), exponents[:, None, None]), rows) - wanted).square().mean())

    alone = torch.ldexp(tables, -exponents[:, None, None]).round().clamp(-127, 127).to(torch.int8)
    together = round_together(tables, exponents, rows, wanted)
    assert error(together) < 0.8 * error(alone)
    assert (together.int() - alone.int()).abs().max() <= 4


def test_what_a_table_cannot_hold_another_adds():
    tables = torch.tensor([[[200.0]], [[20.0]]])  # 200 is clipped to 127
    together = round_together(tables, torch.zeros(2, dtype=torch.int64), torch.zeros(2, 5000, dtype=torch.int64),
                              torch.full((5000, 1), 220.0))  # fmt: skip
    assert together.flatten().tolist() == [127, 93]


def test_rows_that_a_text_does_not_read_are_rounded_for_themselves():
    tables = torch.tensor([[[1.4], [2.6]], [[0.4], [-3.7]]])
    rows = torch.zeros(2, 100, dtype=torch.int64)
    together = round_together(tables, torch.zeros(2, dtype=torch.int64), rows, add_rows(tables, rows))
    assert together[:, 1].flatten().tolist() == [3, -4]


def test_a_text_brings_an_int8_model_s_latencies_nearer():
    config = models.DelayConfig(vocabulary_size=20, n_neurons=12, n_layers=2, n_tables=12, n_comparisons=4, max_delay=2)
    tensors = {f"model.{name}": tensor.detach().clone() for name, tensor in random_model(config).state_dict().items()}
    tokens = torch.from_numpy(np.random.default_rng(0).integers(20, size=4000))
    z = tensors["model.embedding.latencies"][tokens]

    def latencies(of: dict[str, torch.Tensor]) -> torch.Tensor:
        x = of["model.embedding.latencies"][tokens]
        for layer in range(2):
            prefix = f"model.layers.{layer}."
            rows = rows_read(x, of[prefix + "anchors"], of[prefix + "delays"])
            x = x + add_rows(of[prefix + "synaptic_vectors"], rows)
        return x

    wanted = latencies(tensors)
    assert (wanted - z).abs().max() > 0.1
    errors = []
    for text in (None, tokens):
        small = quantize(tensors, "int8", text)
        near = dequantize(small.tensors, small.latency_bits, small.logit_bits)
        errors.append(float((latencies(near) - wanted).square().mean().sqrt()))
    assert errors[1] < 0.9 * errors[0]


def test_transformers_are_rounded_row_by_row_all_the_same():
    config = models.TransformerConfig(vocabulary_size=20, context=8, n_neurons=9, n_layers=1, n_heads=1, n_tables=2,
                                      n_comparisons=2, n_position_bits=2)  # fmt: skip
    tensors = {f"model.{name}": tensor.detach() for name, tensor in random_model(config).state_dict().items()}
    alone, given = quantize(tensors, "int8"), quantize(tensors, "int8", torch.zeros(100, dtype=torch.int64))
    assert all(torch.equal(given.tensors[name], tensor) for name, tensor in alone.tensors.items())
