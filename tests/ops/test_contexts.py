"""Tables of contexts: kernels against the definitions, and the definitions against Kneser-Ney by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from polychron.ops.contexts import (
    CONTEXT_LENGTH,
    HISTORY,
    LISTS,
    ContextReader,
    ContextRows,
    advance_reference,
    bytes_of_symbols,
    context_of,
    count_contexts,
    count_contexts_reference,
    letter,
    read_contexts,
    read_contexts_reference,
    start_state,
)
from polychron.ops.dispatch import native, use_kernel

needs_kernel = pytest.mark.skipif(native is None, reason="the native extension is missing")

BYTE = bytes_of_symbols(b"\n B.a'\xc3")  # breaks, blanks, letters, and one unseen


def text_of(n: int, n_symbols: int = 7, seed: int = 0) -> np.ndarray:
    """Each symbol leans on the one before, so that contexts differ and repeat."""
    rng = np.random.default_rng(seed)
    text = np.zeros(n, dtype=np.uint8)
    for t in range(1, n):
        text[t] = rng.integers(n_symbols) if rng.random() < 0.3 else (2 * text[t - 1] + 1) % n_symbols
    return text


def tokens_of(text: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(text.astype(np.int64))[None]


def state_after(text: bytes) -> list[int]:
    [state] = start_state(1).tolist()
    for byte in text:
        state = advance_reference(state, byte)
    return state


def test_a_list_of_the_last_bytes():
    """Four bytes, then hashes of two, three and four: turned by three bits and added, in a byte."""
    assert context_of(state_after(b""), "text")[:4] == (255, 255, 255, 255)
    near, two, three, four = b"wxyz"[::-1], b"uv"[::-1], b"rst"[::-1], b"nopq"[::-1]

    def hash_of(some: bytes) -> int:
        h = 0
        for byte in some:
            h = (h * 8 + h // 32 + byte) % 256
        return h

    expected = (*near, hash_of(two), hash_of(three), hash_of(four))
    assert context_of(state_after(b"abcdefghijklmnopqrstuvwxyz"), "text") == expected
    assert context_of(state_after(b"nopqrstuvwxyz"), "text") == expected


def test_a_break_between_two_words_is_a_space_once_it_is_known_to_be():
    assert context_of(state_after(b"a\n"), "text")[:3] == (10, 97, 255)
    for breaks, seen in ((b"a\nb", b"b a"), (b"a\n\nb", b"b\n\na"), (b"a\n b", b"b \na"), (b"a \nb", b"b\n a")):
        assert context_of(state_after(breaks), "text")[: len(seen)] == tuple(seen)
    assert context_of(state_after(b"\nb"), "text")[:2] == (98, 10)  # nothing stood before it


def test_a_list_of_words():
    """Two bytes; two of this word's hash, two of the one before, one of that before."""
    ab = ord("a") << 5 ^ ord("b")
    assert context_of(state_after(b"Q aB  c"), "words") == (ord("c"), 32, ord("c"), 0, ab & 255, ab >> 8, ord("q"))
    assert context_of(state_after(b"x" * 90 + b"morning"), "words") == context_of(state_after(b"morning"), "words")
    state = state_after(b"a" * 40)
    assert 0 <= state[HISTORY] < 1 << 32
    folded = state[HISTORY] ^ state[HISTORY] >> 16
    assert context_of(state, "words")[2:4] == (folded & 255, folded >> 8 & 255)


def test_a_list_of_a_place_in_a_line():
    """The column, the last byte, and the byte above the next one."""
    assert context_of(state_after(b"ab"), "line") == (2, ord("b"), 255)
    assert context_of(state_after(b"head\n"), "line") == (0, 10, ord("h"))
    assert context_of(state_after(b"head\nab"), "line") == (2, ord("b"), ord("a"))
    assert context_of(state_after(b"head\nabcd"), "line") == (4, ord("d"), 32)  # the break, between two words
    assert context_of(state_after(b"head\nabcde"), "line") == (5, ord("e"), 255)
    assert context_of(state_after(b"x" * 127 + b"\nab"), "line") == (2, ord("b"), ord("x"))
    assert context_of(state_after(b"x" * 128 + b"\nab"), "line") == (2, ord("b"), 255)  # too long to remember
    assert context_of(state_after(b"x" * 300), "line") == (255, ord("x"), 255)


@pytest.mark.parametrize("kind", LISTS)
def test_what_went_before_the_context_length_does_not_matter(kind: str):
    rng = np.random.default_rng(0)
    for n_words in (30, 60, 200):
        words = [bytes(rng.choice(list(b"abc"), rng.integers(1, 6))) for _ in range(n_words)]
        text = b"".join(word + rng.choice([b" ", b"\n", b", ", b"\n\n"]) for word in words)
        assert len(text[-CONTEXT_LENGTH:]) <= CONTEXT_LENGTH
        assert context_of(state_after(text), kind) == context_of(state_after(text[-CONTEXT_LENGTH:]), kind)


def test_letters():
    assert [letter(byte) for byte in b"\n -.Z_'z09\xc3"] == [0, 0, 0, 0, 122, 95, 39, 122, 48, 57, 0xC3]


@needs_kernel
@pytest.mark.parametrize("depth", [0, 1, 3, 4, 7])
@pytest.mark.parametrize("segments", [[(0, 600)], [(0, 200), (203, 204), (220, 600)]])
@pytest.mark.parametrize("kind", LISTS)
def test_counting_is_the_definition(kind: str, depth: int, segments: list[tuple[int, int]]):
    text = text_of(600)
    counted = count_contexts(text, segments, BYTE, kind, depth)
    defined = count_contexts_reference(text, segments, BYTE, kind, depth)
    for name in ("symbol", "first_child", "first_entry", "entry_symbol"):
        assert torch.equal(getattr(counted, name), getattr(defined, name)), name
    torch.testing.assert_close(counted.value, defined.value, atol=2e-6, rtol=2e-6)
    ContextReader(counted, BYTE, kind, depth)


@needs_kernel
@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("depth", [0, 1, 3, 5, 7])
@pytest.mark.parametrize("kind", LISTS)
def test_reading_is_the_definition_to_the_bit(kind: str, depth: int, n_threads: int):
    rows = count_contexts(text_of(500), [(0, 500)], BYTE, kind, depth)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 8, (3, 300)))
    tokens[0] = tokens_of(text_of(300, seed=2))
    state = start_state(3)
    state[1, :5] = torch.tensor([10, 97, 32, 10, 10])
    state[1, HISTORY:] = torch.tensor([77, 2**32 - 1, 5, 254, 3])
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for some in (tokens[:, :0], tokens[:, :1], tokens, tokens[:0]):
            found, after = read_contexts(rows, BYTE, kind, depth, some, state[: len(some)])
            defined, ends = read_contexts_reference(rows, BYTE, kind, depth, some, state[: len(some)])
            assert torch.equal(found, defined)
            assert torch.equal(after, ends)
            reader = ContextReader(rows, BYTE, kind, depth)
            apart = reader.each(some, state[: len(some)])
            assert apart.shape == (min(depth, LISTS[kind]) + 1, *found.shape)
            with use_kernel("reference"):
                assert torch.equal(apart, reader.each(some, state[: len(some)]))
    finally:
        torch.set_num_threads(before)


@needs_kernel
@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("kinds", [("line",), tuple(LISTS)])
def test_reading_all_kinds_together_is_their_sum_to_the_bit(kinds: tuple[str, ...], n_threads: int):
    text = text_of(900)
    readers = [ContextReader(count_contexts(text, [(0, 900)], BYTE, kind, 6), BYTE, kind, 6) for kind in kinds]
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 8, (3, 300)))
    tokens[0] = tokens_of(text_of(300, seed=2))
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for some in (tokens[:, :0], tokens[:, :1], tokens, tokens[:0]):
            state = start_state(len(some))
            together, after = ContextReader.read_all(readers, some, state)
            each = [reader.read(some, state) for reader in readers]
            assert torch.equal(together, sum((y for y, _ in each[1:]), each[0][0]))
            assert torch.equal(after, each[0][1])
            with use_kernel("reference"):
                assert all(map(torch.equal, ContextReader.read_all(readers, some, state), (together, after)))
    finally:
        torch.set_num_threads(before)


@needs_kernel
def test_what_reading_all_kinds_refuses():
    text = text_of(50)
    reader, other = (
        ContextReader(count_contexts(text, [(0, 50)], byte, "text", 2), byte, "text", 2)
        for byte in (BYTE, torch.cat([BYTE, BYTE]))
    )
    tokens, state = torch.tensor([[0, 1]]), start_state(1)
    with pytest.raises(ValueError, match="a reader at least"):
        native.ContextReader.sum([], tokens.numpy(), state.numpy(), np.empty((1, 2, 8), dtype=np.float32), 1)
    with pytest.raises(ValueError, match=r"y must have shape \(1, 2, 16\)"):
        ContextReader.read_all([reader, other], tokens, state)
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 8\); got 8"):
        ContextReader.read_all([reader, reader], tokens + 7, state)
    with pytest.raises(ValueError, match="state must have shape"):
        ContextReader.read_all([reader], tokens, start_state(2))
    with pytest.raises(ValueError, match="state must have shape"):
        reader.each(tokens, start_state(2))
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 8\); got -1"):
        reader.each(tokens - 1, state)


@pytest.mark.parametrize("kind", LISTS)
def test_any_split_of_a_text_gives_the_same_bits(kind: str):
    rows = count_contexts(text_of(500), [(0, 500)], BYTE, kind, 7)
    tokens = tokens_of(text_of(90, seed=3))
    whole, end = read_contexts(rows, BYTE, kind, 7, tokens, start_state(1))
    for sizes in ([1] * 90, [2, 88], [50, 40]):
        state, parts = start_state(1), []
        for part in tokens.split(sizes, dim=1):
            y, state = read_contexts(rows, BYTE, kind, 7, part, state)
            parts.append(y)
        assert torch.equal(torch.cat(parts, dim=1), whole)
        assert torch.equal(state, end)


def probabilities(rows: ContextRows, depth: int, text: list[int], byte: torch.Tensor) -> torch.Tensor:
    y, _ = read_contexts_reference(rows, byte, "text", depth, torch.tensor([text]), start_state(1))
    return y[0, -1].softmax(0)


def test_a_row_by_hand():
    # After 0 came 1, 1, 2; after 1 came 0, 0.
    text = np.array([0, 1, 0, 1, 0, 2], dtype=np.uint8)
    byte = torch.tensor([48, 49, 50], dtype=torch.uint8)
    rows = count_contexts_reference(text, [(0, 6)], byte, "text", 1)
    # Deepest contexts: counts 2, 1, 2, so n_1 = 1, n_2 = 2: y = 1/5; D1 = 1 - 2y * 2 = 0.2, D2 = 2 - 3y * 0 = 2.
    # The empty context counts what stood before: 0 after 1; 1 after 0; 2 after 0. n_1 = 3, n_2 = 0: D1 = 1/2.
    empty = [(1 - 0.5) / 3 + 0.5 * (1 / 3)] * 3
    gamma = (2 + 0.2) / 3
    after_0 = [gamma * empty[0], gamma * empty[1], (1 - 0.2) / 3 + gamma * empty[2]]
    torch.testing.assert_close(
        probabilities(rows, 1, [0], byte), torch.tensor(after_0) / sum(after_0), atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(probabilities(rows, 1, [2], byte), torch.tensor(empty), atol=1e-6, rtol=1e-6)
    assert rows.value[-1].item() == pytest.approx(math.log(1.0), abs=1e-6)  # 0 after 1: twice, and D2 takes all of it


def test_the_rows_obey_the_recursion_of_interpolated_smoothing():
    """What was never met in a context has gamma times its probability in the shallower one; what was met has more."""
    text, K, byte = text_of(400), 8, bytes_of_symbols(b"tuvwxyz")
    rows = count_contexts_reference(text, [(0, 400)], byte, "text", 3)
    context = text[100:103].tolist()
    deep, shallow = (probabilities(rows, depth, context, byte) for depth in (3, 2))
    met = {int(text[t]) for t in range(3, 400) if text[t - 3 : t].tolist() == context}
    never = [w for w in range(K) if w not in met]
    ratios = deep[never] / shallow[never]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
    assert ratios[0] < 1
    assert all(deep[w] > ratios[0] * shallow[w] for w in met)


def test_a_context_that_was_met_once_has_no_longer_ones():
    """The rows of the others are as if it had."""
    text, byte = text_of(400), bytes_of_symbols(b"tuvwxyz")
    rows = count_contexts_reference(text, [(0, 400)], byte, "text", 3)
    n_met = Counter(tuple(text[t - 2 : t].tolist()) for t in range(2, 400))
    once = [pair for pair, n in n_met.items() if n == 1]
    assert 3 < len(once) < len(n_met)
    for latest, state in ((pair, [*pair]) for pair in n_met):
        deep, shallow = (probabilities(rows, depth, state, byte) for depth in (3, 2))
        assert latest not in once or torch.equal(deep, shallow)


@needs_kernel
def test_borders_say_what_is_wrong():
    text = text_of(50)
    with pytest.raises(ValueError, match="depth must lie in"):
        count_contexts(text, [(0, 50)], BYTE, "text", 8)
    with pytest.raises(ValueError, match="ids below the number of symbols, 3"):
        count_contexts(text, [(0, 50)], BYTE[:3], "text", 2)
    with pytest.raises(ValueError, match="segments must lie within"):
        count_contexts(text, [(0, 51)], BYTE, "text", 2)
    for count in (count_contexts, count_contexts_reference):
        with pytest.raises(ValueError, match="more than one symbol"):
            count(text, [(0, 0), (10, 11)], BYTE, "text", 2)
    rows = count_contexts(text, [(0, 50)], BYTE, "text", 2)
    for wrong in (8, -1):
        with pytest.raises(ValueError, match=r"tokens must lie in \[0, 8\)"):
            read_contexts(rows, BYTE, "text", 2, torch.tensor([[0, wrong]]), start_state(1))
    with pytest.raises(ValueError, match="state must have shape"):
        read_contexts(rows, BYTE, "text", 2, torch.tensor([[0, 1]]), start_state(2))


@pytest.mark.parametrize("kind", LISTS)
def test_damaged_rows_are_found_or_read_within_bounds(kind: str):
    rows = count_contexts(text_of(300), [(0, 300)], BYTE, kind, 5)
    rng = np.random.default_rng(3)
    tokens = torch.from_numpy(rng.integers(0, 8, (2, 40)))
    n_found = 0
    for _ in range(300):
        name = rng.choice(["symbol", "first_child", "first_entry", "entry_symbol"])
        damaged = rows._replace(**{name: getattr(rows, name).clone()})
        part = getattr(damaged, name).numpy()
        part.view(np.uint8)[rng.integers(part.nbytes)] ^= 1 << rng.integers(8)
        try:
            assert read_contexts(damaged, BYTE, kind, 5, tokens, start_state(2))[0].isfinite().all()
        except ValueError as error:
            assert "must" in str(error)  # noqa: PT017 - many are read as they are
            n_found += 1
    assert n_found > 50


def test_the_reference_is_read_where_it_is_asked_for():
    rows = count_contexts(text_of(300), [(0, 300)], BYTE, "text", 4)
    tokens = tokens_of(text_of(40, seed=4))
    found = read_contexts(rows, BYTE, "text", 4, tokens, start_state(1))
    with use_kernel("reference"):
        again = read_contexts(rows, BYTE, "text", 4, tokens, start_state(1))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
