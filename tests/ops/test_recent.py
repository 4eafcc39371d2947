"""Tables that are written while a text is read: the kernel against the definition, and that against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polychron.ops.contexts import STATE_SIZE, bytes_of_symbols
from polychron.ops.dispatch import native, use_kernel
from polychron.ops.recent import (
    CELLS_SHAPE,
    N_CELLS,
    N_PLACES,
    N_RECENT,
    PLACE_BITS,
    RECENT_CONTEXTS,
    RECENT_STATE_SIZE,
    add_recent,
    add_recent_reference,
    find_recent,
    find_recent_reference,
    key_of,
    run_class,
    start_recent_state,
    write_reference,
)

needs_kernel = pytest.mark.skipif(native is None, reason="the native extension is missing")

BYTE = bytes_of_symbols(b"\n B.a'\xc3")


def tokens_of(n: int, n_sequences: int = 1, n_symbols: int = 7, seed: int = 0) -> torch.Tensor:
    """Each symbol leans on the one before, so that contexts differ and repeat."""
    rng = np.random.default_rng(seed)
    text = np.zeros((n_sequences, n), dtype=np.int64)
    for t in range(1, n):
        leaning = (2 * text[:, t - 1] + 1) % n_symbols
        text[:, t] = np.where(rng.random(n_sequences) < 0.3, rng.integers(n_symbols, size=n_sequences), leaning)
    return torch.from_numpy(text)


def test_a_key_is_made_by_xorshift():
    """Marsaglia's generator from 1 on: a byte is added before each of its steps."""
    assert [key_of((1, *[0] * n)) for n in range(3)] == [270369, 67634689, 2647435461]
    assert key_of(()) == 0
    keys = {key_of((a, b, 0)) for a in range(256) for b in range(256)}
    assert len(keys) == 1 << 16


def test_classes_of_runs():
    assert [run_class(run) for run in (1, 2, 3, 4, 5, 6, 7, 9, 10, 14, 15, 255)] == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7]


def test_what_a_place_remembers():
    place = (0, 0, 0, 0, 0)
    for symbol, expected in (
        (5, (9, 0, 0, 5, 1)),
        (5, (9, 0, 0, 5, 2)),
        (6, (9, 5, 2, 6, 1)),
        (5, (9, 6, 1, 5, 1)),
    ):
        place = write_reference(place, 9, symbol)
        assert place == expected
    assert write_reference(place, 8, 1) == (8, 0, 0, 1, 1)  # another context takes the place
    assert write_reference((9, 0, 0, 5, 255), 9, 5) == (9, 0, 0, 5, 255)
    assert write_reference((0, 0, 0, 0, 0), 0, 3) == (0, 0, 0, 3, 1)  # a key of 0 is a key


def test_what_follows_a_context_is_found_when_it_comes_again():
    """By a dictionary from the last three bytes to what followed, without places that are shared."""
    byte = torch.tensor([*range(97, 105), 0], dtype=torch.uint8)  # letters: nothing is a space or a break
    in_run = lambda three: len(set(three)) == 1  # noqa: E731
    tokens = tokens_of(400, n_symbols=8)
    symbols, cells, _ = find_recent_reference(byte, tokens, start_recent_state(1))
    text = tokens[0].tolist()
    followed: dict[tuple[int, ...], list[int]] = {}
    for t in range(400):
        if t >= 3 and not in_run(text[t - 3 : t]):
            followed.setdefault(tuple(text[t - 3 : t]), []).append(text[t])
        before = followed.get(tuple(text[t - 2 : t + 1]), []) if t >= 2 else []
        latest = cells[0, t, 0].item()
        if t >= 2 and not before:
            assert latest == N_CELLS
        elif before:
            run = next((n for n, symbol in enumerate(reversed(before)) if symbol != before[-1]), len(before))
            assert (symbols[0, t, 0].item(), latest) == (before[-1], run_class(run))
            earlier = before[: len(before) - run]
            if earlier:
                run = next((n for n, symbol in enumerate(reversed(earlier)) if symbol != earlier[-1]), len(earlier))
                assert (symbols[0, t, 1].item(), cells[0, t, 1].item()) == (earlier[-1], 8 + run_class(run))
            else:
                assert cells[0, t, 1].item() == N_CELLS


@needs_kernel
@pytest.mark.parametrize("n_sequences", [0, 1, 3])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_the_kernel_finds_what_the_definition_finds(n_sequences: int, n_threads: int):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        tokens = tokens_of(300, n_sequences)
        whole = find_recent(BYTE, tokens, start_recent_state(n_sequences))
        assert all(map(torch.equal, whole, find_recent_reference(BYTE, tokens, start_recent_state(n_sequences))))
        for _ in range(2):  # nothing of the first is left
            symbols, cells, no_state = find_recent(BYTE, tokens, None)
            assert torch.equal(symbols, whole[0])
            assert torch.equal(cells, whole[1])
            assert no_state is None
        state, parts = start_recent_state(n_sequences), []
        for part in tokens.split([1, 0, 7, 292], dim=1):
            symbols, cells, state = find_recent(BYTE, part, state)
            parts.append((symbols, cells))
        for k in range(2):
            assert torch.equal(torch.cat([part[k] for part in parts], dim=1), whole[k])
        assert torch.equal(state, whole[2])
    finally:
        torch.set_num_threads(before)


@needs_kernel
def test_reference_when_it_is_asked_for():
    tokens = tokens_of(50)
    with use_kernel("reference"):
        found = find_recent(BYTE, tokens, start_recent_state(1))
        without_state = find_recent(BYTE, tokens, None)
    assert all(map(torch.equal, found, find_recent(BYTE, tokens, start_recent_state(1))))
    assert all(map(torch.equal, found[:2], without_state[:2]))


@pytest.mark.parametrize("run", [find_recent, find_recent_reference])
def test_a_state_from_anywhere_names_no_symbol_that_there_is_not(run):
    tokens, hostile = tokens_of(40), start_recent_state(1)
    hostile[:, STATE_SIZE + N_RECENT :] = torch.randint(-(2**62), 2**62, (1, N_RECENT * N_PLACES), dtype=torch.int64)
    symbols, cells, _ = run(BYTE, tokens, hostile)
    assert int(symbols.max()) < len(BYTE)
    assert int(cells.max()) <= N_CELLS


@needs_kernel
def test_what_is_refused():
    tokens, state = tokens_of(5), start_recent_state(1)
    for bad_tokens, bad_state, match in (
        (tokens + 8, state, r"tokens must lie in \[0, 8\); got 8"),
        (tokens - 1, state, r"tokens must lie in \[0, 8\); got -1"),
        (tokens, state[:, 1:], "state must have shape"),
    ):
        with pytest.raises(ValueError, match=match):
            find_recent(BYTE, bad_tokens, bad_state)


def test_cells_are_added_to_the_symbols_that_were_found():
    cells = torch.arange(N_CELLS, dtype=torch.float32).reshape(CELLS_SHAPE)
    symbols = torch.zeros(1, 2 * N_RECENT, dtype=torch.uint8)
    found = torch.full((1, 2 * N_RECENT), N_CELLS, dtype=torch.uint8)
    symbols[0, 0], found[0, 0] = 2, 3
    symbols[0, 3], found[0, 3] = 2, 30
    symbols[0, 9], found[0, 9] = 1, 79
    assert add_recent(torch.ones(1, 4), cells, symbols, found).tolist() == [[1, 80, 34, 1]]


@needs_kernel
@pytest.mark.parametrize("shape", [(0,), (1,), (2, 700)])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_cells_are_added_as_the_definition_says_to_the_bit(shape: tuple[int, ...], n_threads: int):
    rng = np.random.default_rng(0)
    symbols, found = (
        torch.from_numpy(rng.integers(0, end, (*shape, 2 * N_RECENT), dtype=np.uint8)) for end in (5, N_CELLS + 1)
    )
    y, cells = torch.randn(*shape, 5), torch.randn(CELLS_SHAPE)
    y[..., 0] = -0.0
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        added = y.clone()
        assert add_recent(added, cells, symbols, found) is added
    finally:
        torch.set_num_threads(before)
    defined = add_recent_reference(y.clone(), cells, symbols, found)
    assert torch.equal(added.view(torch.int32), defined.view(torch.int32))
    strided = y.repeat_interleave(2, dim=-1)[..., ::2]
    assert torch.equal(add_recent(strided, cells, symbols, found), defined)


@needs_kernel
def test_what_cannot_be_added_is_refused():
    y, cells = torch.zeros(1, 5), torch.zeros(CELLS_SHAPE)
    symbols, found = (torch.zeros(1, 2 * N_RECENT, dtype=torch.uint8) for _ in range(2))
    for wrong, match in (
        ((y, cells, symbols + 5, found), "symbols must lie below the width"),
        ((y, cells, symbols, found + N_CELLS + 1), "found must be numbers of cells"),
        ((y, cells[:, :1], symbols, found), "cells must have shape"),
        ((y, cells, symbols[:, 1:], found), "symbols must have shape"),
        ((y, cells, symbols, found[:0]), "found must have shape"),
    ):
        with pytest.raises(ValueError, match=match):
            add_recent(*wrong)
    assert not y.any()


def test_sizes():
    assert (N_PLACES, RECENT_STATE_SIZE) == (1 << PLACE_BITS, STATE_SIZE + N_RECENT * (1 + N_PLACES))
    assert all(depth >= 3 for _, depth in RECENT_CONTEXTS)
