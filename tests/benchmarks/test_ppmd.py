from __future__ import annotations

import math

import numpy as np
import pyppmd
import pytest

from polychron.errors import InputError
from references.ppmd import code_held_out, coded_bytes
from references.run import run_ppmd


def test_the_code_can_be_decoded(split):
    text = split.text.tobytes()
    encoder = pyppmd.Ppmd7Encoder(6, 1 << 24)
    code = encoder.encode(text) + encoder.flush()
    assert pyppmd.Ppmd7Decoder(6, 1 << 24).decode(code, len(text)) == text
    assert coded_bytes(text, 6) == len(code)


@pytest.mark.parametrize("order", [3, 5, 8])
def test_figures_are_near_those_of_the_other_variant(split, order: int):
    n = split.training.size
    both, alone = (
        len(pyppmd.compress(part.tobytes(), max_order=order, mem_size=1 << 24, variant="I"))
        for part in (split.text, split.text[:n])
    )
    expected = (both - alone) * 8 * math.log(2) / split.held_out.size
    result = run_ppmd(order, split)
    assert result.nats_per_byte == pytest.approx(expected, rel=0.1)
    assert result.scored_bytes == split.held_out.size


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("references.ppmd.pyppmd", None)
    with pytest.raises(InputError, match="PPMd needs pyppmd"):
        coded_bytes(b"text", 4)


def test_noise_costs_what_it_is_worth():
    noise = np.random.default_rng(0).integers(0, 16, 40_000, dtype=np.uint8)
    coded = code_held_out(noise[:30_000], noise[30_000:], order=2)
    assert coded.nats_per_byte == pytest.approx(math.log(16), rel=0.05)
