from __future__ import annotations

import numpy as np
import pytest
import torch

from polychron.data import Vocabulary
from polychron.errors import InputError
from polychron.runtime.sampling import Sampler, generate

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))


def frequencies(sampler: Sampler, logits: torch.Tensor, n: int = 4000) -> np.ndarray:
    return np.bincount([sampler(logits) for _ in range(n)], minlength=logits.numel()) / n


def test_draws_follow_the_softmax():
    expected = [0.5, 0.25, 0.15, 0.1]
    assert frequencies(Sampler(), LOGITS) == pytest.approx(expected, abs=0.03)
    assert frequencies(Sampler(), LOGITS + 1000) == pytest.approx(expected, abs=0.03)


def test_temperature_divides_the_logits():
    squared = np.array([0.5, 0.25, 0.15, 0.1]) ** 2
    assert frequencies(Sampler(temperature=0.5), LOGITS) == pytest.approx(squared / squared.sum(), abs=0.03)


def test_temperature_zero_takes_the_first_of_the_largest():
    sampler = Sampler(temperature=0)
    assert {sampler(torch.tensor([1.0, 3.0, 3.0, 2.0])) for _ in range(5)} == {1}


@pytest.mark.parametrize("temperature", [1e-300, 1e-5])
def test_a_tiny_temperature_is_almost_zero(temperature: float):
    assert {Sampler(temperature=temperature)(LOGITS) for _ in range(5)} == {0}


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    for top_p, size in [(1e-9, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.89, 3), (0.95, 4), (1.0, 4)]:
        sampler = Sampler(top_p=top_p, seed=3)
        assert set(np.flatnonzero(frequencies(sampler, LOGITS, 500))) == set(range(size)), top_p


def test_the_nucleus_keeps_its_proportions():
    assert frequencies(Sampler(top_p=0.75), LOGITS) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=0.03)


def test_excluded_ids_are_never_drawn_however_likely():
    logits = torch.tensor([0.0, 50.0, 0.0])
    for settings in ({"temperature": 0}, {}, {"temperature": 100.0}, {"top_p": 0.5}):
        sampler = Sampler(**settings, excluded=[1])
        assert 1 not in {sampler(logits) for _ in range(200)}
    assert logits[1] == 50.0  # and the logits are left alone


def test_one_seed_one_sequence():
    def draws(seed: int) -> list[int]:
        sampler = Sampler(seed=seed)
        return [sampler(LOGITS) for _ in range(50)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)


@pytest.mark.parametrize("logits", [[float("nan"), 0.0], [float("inf"), 0.0], [float("-inf")] * 2])
def test_logits_that_are_not_finite_are_refused(logits: list[float]):
    for temperature in (0.0, 1.0):
        with pytest.raises(InputError, match="not finite"):
            Sampler(temperature=temperature)(torch.tensor(logits))


def test_a_token_of_probability_zero_may_occur_among_the_logits():
    assert {Sampler()(torch.tensor([float("-inf"), 0.0])) for _ in range(5)} == {1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 or above"),
        ({"temperature": float("nan")}, "temperature must be 0 or above"),
        ({"temperature": float("inf")}, "temperature must be 0 or above"),
        ({"top_p": 0.0}, "top-p must be above 0 and at most 1; got 0.0"),
        ({"top_p": 1.5}, "top-p must be above 0"),
        ({"top_p": float("nan")}, "top-p must be above 0"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        Sampler(**settings)


class Successor:
    """A stream whose likeliest next token is the last one's successor; it notes what it was fed."""

    def __init__(self, n_tokens: int) -> None:
        self.n_tokens = n_tokens
        self.fed: list[list[int]] = []

    def feed(self, token_ids: torch.Tensor) -> torch.Tensor:
        self.fed.append(token_ids.tolist())
        return torch.eye(self.n_tokens)[(token_ids[-1] + 1) % self.n_tokens]


def test_generation_feeds_the_prompt_once_and_then_its_own_bytes():
    vocabulary = Vocabulary(b"\nabcd")
    stream = Successor(vocabulary.size)
    sampler = Sampler(temperature=0, excluded=[vocabulary.unseen_id])
    assert b"".join(generate(stream, vocabulary, b"x\xffab", 3, sampler)) == b"cd\n"
    assert stream.fed == [[5, 5, 1, 2], [3], [4]]


def test_an_empty_prompt_starts_with_the_start_token_and_zero_bytes_ask_nothing():
    vocabulary = Vocabulary(b"\nab")
    stream = Successor(vocabulary.size)
    assert b"".join(generate(stream, vocabulary, b"", 2, Sampler(temperature=0, excluded=[3]))) == b"ab"
    assert stream.fed[0] == [0]
    assert list(generate(Successor(4), vocabulary, b"a", 0, Sampler())) == []
