"""Dynamic evaluation: what is scored is never learnt from before."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from polychron.data import Vocabulary
from polychron.errors import InputError
from polychron.models import DelayConfig, RecurrentConfig, build
from polychron.training import score
from polychron.training.adapt import PIECE, score_while_learning

VOCABULARY = Vocabulary(b"abc")
CONFIG = DelayConfig(
    vocabulary_size=4, n_neurons=8, n_tables=5, n_comparisons=4, readout_n_tables=4, readout_n_comparisons=4
)


def text(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, n).astype(np.uint8)


def filled(seed: int = 3):
    model = build(CONFIG, seed)
    torch.manual_seed(seed)
    for layer in model.layers_in_order():
        layer.synaptic_vectors.data.copy_(torch.randn(layer.synaptic_vectors.shape))
    return model


def last(scores):
    *_, whole = scores
    return whole


def test_the_first_piece_is_scored_as_by_a_model_that_stands_still():
    tokens = text(PIECE + 1)
    still, learning = filled(), filled()
    assert last(score_while_learning(learning, tokens, VOCABULARY, rate=0.1)).nats == pytest.approx(
        score(still, tokens, VOCABULARY).nats, rel=1e-6
    )
    assert not torch.equal(still.readout.synaptic_vectors, learning.readout.synaptic_vectors)


@pytest.mark.parametrize("n_tokens", [PIECE + 2, 2 * PIECE + 1, 3 * PIECE + 17])
def test_a_rate_of_almost_nothing_scores_as_a_model_that_stands_still(n_tokens: int):
    tokens = text(n_tokens)
    tokens[40] = VOCABULARY.unseen_id
    learning = last(score_while_learning(filled(), tokens, VOCABULARY, rate=1e-12))
    assert learning.n_bytes == n_tokens - 1
    assert learning.nats == pytest.approx(score(filled(), tokens, VOCABULARY).nats, rel=1e-6)


def test_what_comes_later_changes_nothing_before():
    head = text(2 * PIECE + 1)
    tails = [text(PIECE, seed) for seed in (1, 2)]
    at_head = []
    for tail in tails:
        scores = score_while_learning(filled(), np.concatenate([head, tail]), VOCABULARY, rate=0.1)
        first = next(scores)
        assert first.n_bytes == PIECE
        at_head.append((first.nats, last(scores).nats))
    assert at_head[0][0] == at_head[1][0]
    assert at_head[0][1] != at_head[1][1]


def test_noise_that_repeats_is_learnt():
    tokens = np.tile(text(50), 200)
    still = score(filled(), tokens, VOCABULARY).nats_per_byte
    learning = last(score_while_learning(filled(), tokens, VOCABULARY, rate=0.05, visit_cap=8)).nats_per_byte
    assert learning < 0.5 * still


def test_wrong_input_is_refused():
    recurrent = build(RecurrentConfig(vocabulary_size=4, n_neurons=8, n_tables=2, n_comparisons=3))
    with pytest.raises(InputError, match="is the delay model's; this one is recurrent"):
        next(score_while_learning(recurrent, text(9), VOCABULARY, rate=0.1))
    with pytest.raises(InputError, match="at least 2 bytes"):
        next(score_while_learning(copy.deepcopy(filled()), text(1), VOCABULARY, rate=0.1))
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="rate must be positive and finite"):
            next(score_while_learning(filled(), text(9), VOCABULARY, rate=rate))
