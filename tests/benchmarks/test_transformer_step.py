"""The benchmark of the paper's transformer trains the model it times."""

from __future__ import annotations

import numpy as np
import pytest

import transformer_step
from polychron.models import TransformerConfig


@pytest.mark.parametrize("table_type", ["float32", "bfloat16"])
def test_steps_of_a_small_one_learn_and_are_timed(table_type):
    config = TransformerConfig(
        vocabulary_size=5, n_layers=1, n_heads=1, n_tables=4, n_comparisons=3, n_position_bits=2, table_type=table_type
    )
    tokens = (np.arange(20_000) % 5).astype(np.uint8)
    result = transformer_step.measure(config, tokens, steps=6)
    assert result["nats"][-1] < result["nats"][0]
    assert len(result["nats"]) == transformer_step.WARM_STEPS + 6
    assert result["wall"].rounds == 6
    assert 0 < result["wall"].lowest <= result["wall"].median
    bytes_of = {"float32": 4, "bfloat16": 2}[table_type]
    n_table_numbers = 4 * 2**8 * 32 + 4 * 2**3 * 32 + 4 * 2**3 * 5
    assert result["table_bytes"] >= n_table_numbers * bytes_of
    assert result["peak_bytes"] > result["table_bytes"]
    assert "times the tables'" in transformer_step.report(result)
