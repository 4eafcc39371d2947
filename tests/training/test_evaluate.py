from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polychron.data import Vocabulary
from polychron.errors import InputError
from polychron.training import evaluate, score
from polychron.training.evaluate import score_progressively, spread_sample

VOCABULARY = Vocabulary(b"abc")


class ContextSum(torch.nn.Module):
    """Costs of a token: the sum of the ids that came before it, as far as the context reaches.

    If it ``recalls``, that of all ids before is added, which it must be told.
    """

    def __init__(self, context_length: int, recalls: bool = False) -> None:
        super().__init__()
        self.context_length = context_length
        self.recalls = recalls

    def recall(self, tokens: torch.Tensor, state: int | None) -> tuple[torch.Tensor | None, int | None]:
        if not self.recalls:
            return None, None
        sums = (state or 0) + tokens.cumsum(0)
        return sums[:, None].float(), int(sums[-1])

    def score(self, tokens: torch.Tensor, recalled: torch.Tensor | None = None) -> torch.Tensor:
        assert not self.training
        sums = np.convolve(tokens.numpy(), np.ones(self.context_length))[: tokens.numel() - 1]
        nats = torch.from_numpy(sums.astype(np.float32))
        return nats if recalled is None else nats + recalled[:, 0]


@pytest.mark.parametrize("n_tokens", [2, 3, 99, 100, 101, 200, 201, 1000])
@pytest.mark.parametrize("context_length", [1, 7, 64, 150])
def test_pieces_cost_what_the_whole_costs(monkeypatch, n_tokens: int, context_length: int):
    monkeypatch.setattr(evaluate, "_PIECE", 100)
    tokens = np.random.default_rng(n_tokens).integers(0, 3, n_tokens, dtype=np.uint8)
    model = ContextSum(context_length)
    result = score(model, tokens, VOCABULARY)
    assert result.n_bytes == n_tokens - 1
    assert result.nats == model.score(torch.from_numpy(tokens)).sum().item()


@pytest.mark.parametrize("n_tokens", [2, 100, 101, 102, 201, 350])
def test_what_a_model_recalls_is_handed_on_from_piece_to_piece(monkeypatch, n_tokens: int):
    monkeypatch.setattr(evaluate, "_PIECE", 100)
    tokens = np.random.default_rng(n_tokens).integers(0, 3, n_tokens, dtype=np.uint8)
    expected = ContextSum(7).eval().score(torch.from_numpy(tokens)).sum().item()
    expected += int(tokens.astype(np.int64).cumsum()[:-1].sum())
    assert score(ContextSum(7, recalls=True), tokens, VOCABULARY).nats == expected


def test_progress_ends_with_the_whole(monkeypatch):
    monkeypatch.setattr(evaluate, "_PIECE", 100)
    counts = [part.n_bytes for part in score_progressively(ContextSum(3), np.ones(250, dtype=np.uint8), VOCABULARY)]
    assert counts == [99, 199, 249]


def test_an_unseen_byte_also_costs_its_name():
    text = b"a?c!"
    costs = ContextSum(1).eval().score(torch.from_numpy(VOCABULARY.encode(text))).sum().item()
    result = score(ContextSum(1), VOCABULARY.encode(text), VOCABULARY)
    assert result.nats == pytest.approx(costs + 2 * math.log(253))
    # of the first byte, which is not scored, not even the name is paid
    first = VOCABULARY.encode(b"?a")
    assert score(ContextSum(1), first, VOCABULARY).nats == 3.0


def test_bits_are_nats_by_ln_2():
    result = evaluate.Score(nats=math.log(2) * 30, n_bytes=10, seconds=2.0)
    assert result.bits_per_byte == pytest.approx(3.0)
    assert result.bytes_per_second == 5.0


@pytest.mark.parametrize("n_tokens", [0, 1])
def test_fewer_than_two_bytes_cannot_be_scored(n_tokens: int):
    with pytest.raises(InputError, match=f"at least 2 bytes.*got {n_tokens}"):
        score(ContextSum(1), np.zeros(n_tokens, dtype=np.uint8), VOCABULARY)


def test_a_sample_is_spread_over_the_text():
    tokens = np.arange(1003)
    sample = spread_sample(tokens, 80)
    assert sample.size == 80
    assert sample[:11].tolist() == [*range(10), 125]
    assert sample[-1] >= 875
    assert spread_sample(tokens, 2000) is tokens
