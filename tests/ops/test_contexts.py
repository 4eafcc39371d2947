"""Tables of contexts: kernels against the definitions, and the definitions against Kneser-Ney by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polychron.ops.contexts import (
    ContextReader,
    ContextRows,
    advance_reference,
    context_of,
    count_contexts,
    count_contexts_reference,
    letters,
    read_contexts,
    read_contexts_reference,
    start_state,
)
from polychron.ops.dispatch import native, use_kernel

needs_kernel = pytest.mark.skipif(native is None, reason="the native extension is missing")

LETTER = torch.tensor([0, 5, 7, 200, 9, 0, 11, 0], dtype=torch.uint8)  # two symbols that end words, and one unseen


def text_of(n: int, n_symbols: int = 7, seed: int = 0) -> np.ndarray:
    """Each symbol leans on the one before, so that contexts differ and repeat."""
    rng = np.random.default_rng(seed)
    text = np.zeros(n, dtype=np.uint8)
    for t in range(1, n):
        text[t] = rng.integers(n_symbols) if rng.random() < 0.3 else (2 * text[t - 1] + 1) % n_symbols
    return text


def tokens_of(text: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(text.astype(np.int64))[None]


def test_what_a_context_is():
    """A transcription of the comment: three symbols, two bytes of this word's hash, two of the one before."""
    adds = letters(b" abc").tolist()
    [state] = start_state(1).tolist()
    assert context_of(state) == ()
    for n, symbol in enumerate([1, 2, 0, 0, 3]):  # "ab  c"
        state = advance_reference(state, symbol, adds[symbol])
        assert len(context_of(state)) == (n + 1 if n < 2 else 7)
    ab = ord("a") << 5 ^ ord("b")
    assert context_of(state) == (3, 0, 0, ord("c"), 0, ab & 255, ab >> 8)
    many = state
    for _ in range(40):
        many = advance_reference(many, 1, adds[1])
    assert 0 <= many[3] < 1 << 32
    folded = many[3] ^ many[3] >> 16
    assert context_of(many)[3:5] == (folded & 255, folded >> 8 & 255)


def test_letters():
    assert letters(b"\n -.Z_'z09\xc3").tolist() == [0, 0, 0, 0, 122, 95, 39, 122, 48, 57, 0xC3, 0]


@needs_kernel
@pytest.mark.parametrize("depth", [0, 1, 3, 4, 7])
@pytest.mark.parametrize("segments", [[(0, 600)], [(0, 200), (203, 204), (220, 600)]])
def test_counting_is_the_definition(depth: int, segments: list[tuple[int, int]]):
    text = text_of(600)
    counted = count_contexts(text, segments, LETTER, depth)
    defined = count_contexts_reference(text, segments, LETTER, depth)
    for name in ("symbol", "first_child", "first_entry", "entry_symbol"):
        assert torch.equal(getattr(counted, name), getattr(defined, name)), name
    torch.testing.assert_close(counted.value, defined.value, atol=2e-6, rtol=2e-6)
    ContextReader(counted, LETTER, depth)


@needs_kernel
@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("depth", [0, 1, 3, 5, 7])
def test_reading_is_the_definition_to_the_bit(depth: int, n_threads: int):
    rows = count_contexts(text_of(500), [(0, 500)], LETTER, depth)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 8, (3, 300)))
    tokens[0] = tokens_of(text_of(300, seed=2))
    state = start_state(3)
    state[1] = torch.tensor([4, 5, -1, 77, 2**32 - 1])
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for some in (tokens[:, :0], tokens[:, :1], tokens, tokens[:0]):
            found, after = read_contexts(rows, LETTER, depth, some, state[: len(some)])
            defined, ends = read_contexts_reference(rows, LETTER, depth, some, state[: len(some)])
            assert torch.equal(found, defined)
            assert torch.equal(after, ends)
    finally:
        torch.set_num_threads(before)


def test_any_split_of_a_text_gives_the_same_bits():
    rows = count_contexts(text_of(500), [(0, 500)], LETTER, 7)
    tokens = tokens_of(text_of(90, seed=3))
    whole, end = read_contexts(rows, LETTER, 7, tokens, start_state(1))
    for sizes in ([1] * 90, [2, 88], [50, 40]):
        state, parts = start_state(1), []
        for part in tokens.split(sizes, dim=1):
            y, state = read_contexts(rows, LETTER, 7, part, state)
            parts.append(y)
        assert torch.equal(torch.cat(parts, dim=1), whole)
        assert torch.equal(state, end)


def probabilities(rows: ContextRows, depth: int, text: list[int], letter: torch.Tensor) -> torch.Tensor:
    y, _ = read_contexts_reference(rows, letter, depth, torch.tensor([text]), start_state(1))
    return y[0, -1].softmax(0)


def test_a_row_by_hand():
    # Counted from the fourth symbol on: 0 1 0 1 0 2 after 2 2 0. After 0 came 1, 1, 2; after 1 came 0, 0.
    text = np.array([2, 2, 0, 1, 0, 1, 0, 2], dtype=np.uint8)
    letter = torch.zeros(3, dtype=torch.uint8)
    rows = count_contexts_reference(text, [(0, 8)], letter, 1)
    # Deepest contexts: counts 2, 1, 2, so n_1 = 1, n_2 = 2: y = 1/5; D1 = 1 - 2y * 2 = 0.2, D2 = 2 - 3y * 0 = 2.
    # The empty context counts what stood before: 0 after 1; 1 after 0; 2 after 0. n_1 = 3, n_2 = 0: D1 = 1/2.
    empty = [(1 - 0.5) / 3 + 0.5 * (1 / 3)] * 3
    gamma = (2 + 0.2) / 3
    after_0 = [gamma * empty[0], gamma * empty[1], (1 - 0.2) / 3 + gamma * empty[2]]
    torch.testing.assert_close(
        probabilities(rows, 1, [0], letter), torch.tensor(after_0) / sum(after_0), atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(probabilities(rows, 1, [2], letter), torch.tensor(empty), atol=1e-6, rtol=1e-6)
    assert rows.value[-1].item() == pytest.approx(math.log(1.0), abs=1e-6)  # 0 after 1: twice, and D2 takes all of it


def test_the_rows_obey_the_recursion_of_interpolated_smoothing():
    """What was never met in a context has gamma times its probability in the shallower one; what was met has more."""
    text, K = text_of(400), 8
    rows = count_contexts_reference(text, [(0, 400)], LETTER, 3)
    context = text[100:103].tolist()
    deep, shallow = (probabilities(rows, depth, context, LETTER) for depth in (3, 2))
    met = {int(text[t]) for t in range(3, 400) if text[t - 3 : t].tolist() == context}
    never = [w for w in range(K) if w not in met]
    ratios = deep[never] / shallow[never]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
    assert ratios[0] < 1
    assert all(deep[w] > ratios[0] * shallow[w] for w in met)


@needs_kernel
def test_borders_say_what_is_wrong():
    text = text_of(50)
    with pytest.raises(ValueError, match="depth must lie in"):
        count_contexts(text, [(0, 50)], LETTER, 8)
    with pytest.raises(ValueError, match="ids below the number of symbols, 3"):
        count_contexts(text, [(0, 50)], LETTER[:3], 2)
    with pytest.raises(ValueError, match="segments must lie within"):
        count_contexts(text, [(0, 51)], LETTER, 2)
    for count in (count_contexts, count_contexts_reference):
        with pytest.raises(ValueError, match="more than three symbols"):
            count(text, [(0, 2), (10, 13)], LETTER, 2)
    rows = count_contexts(text, [(0, 50)], LETTER, 2)
    for wrong in (8, -1):
        with pytest.raises(ValueError, match=r"tokens must lie in \[0, 8\)"):
            read_contexts(rows, LETTER, 2, torch.tensor([[0, wrong]]), start_state(1))
    with pytest.raises(ValueError, match="state must have shape"):
        read_contexts(rows, LETTER, 2, torch.tensor([[0, 1]]), start_state(2))


def test_damaged_rows_are_found_or_read_within_bounds():
    rows = count_contexts(text_of(300), [(0, 300)], LETTER, 5)
    rng = np.random.default_rng(3)
    tokens = torch.from_numpy(rng.integers(0, 8, (2, 40)))
    n_found = 0
    for _ in range(300):
        name = rng.choice(["symbol", "first_child", "first_entry", "entry_symbol"])
        damaged = rows._replace(**{name: getattr(rows, name).clone()})
        part = getattr(damaged, name).numpy()
        part.view(np.uint8)[rng.integers(part.nbytes)] ^= 1 << rng.integers(8)
        try:
            assert read_contexts(damaged, LETTER, 5, tokens, start_state(2))[0].isfinite().all()
        except ValueError as error:
            assert "must" in str(error)  # noqa: PT017 - many are read as they are
            n_found += 1
    assert n_found > 50


def test_the_reference_is_read_where_it_is_asked_for():
    rows = count_contexts(text_of(300), [(0, 300)], LETTER, 4)
    tokens = tokens_of(text_of(40, seed=4))
    found = read_contexts(rows, LETTER, 4, tokens, start_state(1))
    with use_kernel("reference"):
        again = read_contexts(rows, LETTER, 4, tokens, start_state(1))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
