"""Every byte once, with the context it should have: against transcriptions that take one byte at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from polychron.twins.scoring import mean_context, score_by_windows
from tests.twins.conftest import TINY


@given(n=st.integers(1, 70), window=st.integers(1, 20))
@settings(deadline=None)
def test_windows_score_each_byte_once_from_three_quarters_of_a_window(n: int, window: int):
    tokens = torch.arange(n + 1)

    def where_and_how_much(tokens, targets):
        assert torch.equal(targets, tokens + 1)  # the text is 0, 1, 2, ...: a target is its own position
        return targets + torch.arange(1, tokens.shape[1] + 1) / 1000

    scored = score_by_windows(where_and_how_much, tokens, window)
    positions = scored.floor().long()
    contexts = ((scored - positions) * 1000).round().long()
    assert positions.tolist() == list(range(1, n + 1))
    available = positions.clamp(max=window)
    least = window - max(1, window // 4) + 1
    assert bool((contexts >= available.clamp(max=least)).all())
    assert bool((contexts <= available).all())


def test_mean_context_is_what_long_texts_have():
    for window in (1, 4, 12, 64):
        tokens = torch.arange(5001)
        contexts = score_by_windows(
            lambda tokens, _: torch.arange(1.0, tokens.shape[1] + 1).expand(tokens.shape), tokens, window
        )
        assert contexts.mean().item() == pytest.approx(mean_context(window), rel=0.01)


def slow_nats(name: str, twin, tokens: torch.Tensor) -> list[float]:
    """Byte after byte, each from scratch."""
    nats = []
    n = len(tokens) - 1
    for target in range(1, n + 1):
        if name == "transformer":
            window, move = twin.size.window, twin.size.window // 4
            # The first window that holds the target, of those that begin at 0, move, 2 move, ..., and the last one.
            starts = [*range(0, n - window + 1, move), max(0, n - window)]
            begin = next(start for start in starts if target <= start + window)
            logits = twin(tokens[None, begin:target])[0, -1]
        elif name == "gru":
            logits = twin(tokens[None, :target])[0][0, -1]
        else:
            context = torch.cat([tokens[:1].expand(twin.context - 1), tokens])[target - 1 : target - 1 + twin.context]
            logits = twin(context[None])[0, -1]
        nats.append(F.cross_entropy(logits[None], tokens[target : target + 1]).item())
    return nats


@pytest.mark.parametrize("n_tokens", [2, 9, 13, 14, 40, 51])
@pytest.mark.parametrize("name", TINY)
def test_scores_are_those_of_one_byte_at_a_time(monkeypatch, name: str, n_tokens: int):
    monkeypatch.setattr("polychron.twins.gru.SCORED_AT_ONCE", 17)
    monkeypatch.setattr("polychron.twins.window_mlp.SCORED_AT_ONCE", 17)
    monkeypatch.setattr("polychron.twins.scoring.POSITIONS_AT_ONCE", 30)
    torch.manual_seed(1)
    twin = TINY[name].build(11, 0.5).eval()
    tokens = torch.randint(11, (n_tokens,))
    scored = twin.score(tokens)
    with torch.no_grad():
        torch.testing.assert_close(scored, torch.tensor(slow_nats(name, twin, tokens)), rtol=1e-4, atol=1e-5)
