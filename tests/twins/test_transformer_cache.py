"""A transformer with remembered keys and values says what it says when it sees all of the text at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from polychron.twins.transformer import MIXED_BYTES, Transformer, TransformerSize
from polychron.twins.transformer_cache import CachedTransformer, stream_nats

SIZE = TransformerSize(width=16, n_layers=2, n_heads=2, window=12)
CLASSES = 11


@pytest.fixture(scope="module")
def twin() -> Transformer:
    torch.manual_seed(0)
    twin = Transformer(CLASSES, SIZE).eval()
    with torch.no_grad():  # so large that what is far away matters, and no draw is certain
        for parameter in twin.parameters():
            parameter.mul_(1.7)
    return twin


def text(n: int) -> torch.Tensor:
    return torch.randint(CLASSES - 1, (n,), generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("n", [1, 3, 12])
def test_within_a_window_it_is_the_forward_pass_of_training(twin, n):
    tokens = text(n)
    said = CachedTransformer(twin).read(tokens)
    with torch.no_grad():
        torch.testing.assert_close(said, twin(tokens[None])[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(said, twin.read(tokens[None])[0], rtol=1e-4, atol=1e-4)


def test_beyond_a_window_every_block_looks_at_the_last_positions(twin):
    tokens = text(75)
    cached = CachedTransformer(twin)
    for _ in range(2):  # forgetting leaves nothing behind
        said = cached.read(tokens)
        with torch.no_grad():
            torch.testing.assert_close(said, twin.read(tokens[None])[0], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        early = tokens.clone()
        early[: -(SIZE.n_layers * (SIZE.window - 1) + MIXED_BYTES + 1)] = 0
        torch.testing.assert_close(said[-1], twin.read(early[None])[0, -1], rtol=1e-4, atol=1e-4)
        early[-SIZE.window - 3] = (early[-SIZE.window - 3] + 1) % (CLASSES - 1)
        assert (said[-1] - twin.read(early[None])[0, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("n", [2, 20, 27, 28, 63, 200])
def test_a_text_scored_in_pieces_costs_what_it_costs_at_once(twin, n):
    tokens = text(n)
    with torch.no_grad():
        whole = F.cross_entropy(twin.read(tokens[None, :-1])[0], tokens[1:], reduction="none")
    torch.testing.assert_close(stream_nats(twin, tokens, piece=35, batch=2), whole, rtol=1e-4, atol=1e-4)


def test_it_draws_what_it_says(twin):
    prompt = text(5)
    written = CachedTransformer(twin, temperature=0.8).write(prompt, 600, seed=1)
    assert written == CachedTransformer(twin, temperature=0.8).write(prompt, 600, seed=1)
    assert written != CachedTransformer(twin, temperature=0.8).write(prompt, 600, seed=2)
    assert max(written) < CLASSES - 1  # the last one stands for bytes never seen
    tokens = torch.cat([prompt, torch.tensor(written)])
    with torch.no_grad():
        chances = torch.softmax(twin.read(tokens[None, :-1])[0, len(prompt) - 1 :, :-1] / 0.8, dim=1)
    drawn = torch.bincount(torch.tensor(written), minlength=CLASSES - 1) / len(written)
    assert (drawn - chances.mean(dim=0)).abs().max() < 0.06
