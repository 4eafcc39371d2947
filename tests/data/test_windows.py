from __future__ import annotations

import numpy as np
import pytest
import torch

from polychron.data import Windows
from polychron.errors import InputError

# Tokens that say where they stand, so that a batch shows where its windows began.
POSITIONS = np.arange(250, dtype=np.uint8)


def starts_of(windows: Windows, steps: range) -> list[int]:
    return [int(row[0]) for step in steps for row in windows.batch(step)[0]]


def test_targets_are_the_successors_and_both_are_contiguous_int64():
    for length, batch in [(1, 1), (1, 3), (7, 1), (16, 5)]:
        windows = Windows(POSITIONS, [(0, 250)], length=length, batch=batch, seed=0)
        tokens, targets = windows.batch(3)
        assert tokens.shape == targets.shape == (batch, length)
        assert tokens.dtype == targets.dtype == torch.int64
        assert tokens.is_contiguous()
        assert targets.is_contiguous()
        assert torch.equal(targets, tokens + 1)


def test_starts_say_where_a_batch_begins():
    windows = Windows(POSITIONS, [(0, 101), (120, 250)], length=7, batch=5, seed=3)
    for step in (0, 5, 6, 20):  # of a pass, across its end, and of a later one
        assert windows.starts(step).tolist() == windows.batch(step)[0][:, 0].tolist()


def test_a_pass_meets_every_stretch_once_and_no_window_leaves_its_segment():
    segments = [(0, 101), (110, 118), (120, 250)]
    windows = Windows(POSITIONS, segments, length=8, batch=4, seed=1)
    assert windows.n_windows % 4 != 0  # passes end inside batches
    starts = starts_of(windows, range(400 * windows.n_windows // 4))
    for begin in range(0, len(starts) - windows.n_windows, windows.n_windows):
        of_pass = sorted(starts[begin : begin + windows.n_windows])
        assert min(np.diff(of_pass)) >= 8
    assert all(any(low <= start and start + 8 < high for low, high in segments) for start in starts)
    # (110, 118) holds 8 tokens, a window takes 9; every place of the others is a start in some pass
    assert set(starts) == {*range(0, 93), *range(120, 242)}


def test_the_shortest_possible_segment_gives_its_one_window():
    windows = Windows(POSITIONS, [(40, 49)], length=8, batch=2, seed=0)
    assert windows.n_windows == 1
    assert starts_of(windows, range(3)) == [40] * 6


def test_a_batch_depends_on_seed_and_step_alone():
    def make(seed: int) -> Windows:
        return Windows(POSITIONS, [(0, 250)], length=8, batch=4, seed=seed)

    one, other = make(5), make(5)
    expected = [one.batch(step)[0] for step in range(30)]
    for step in (29, 3, 17, 3, 0):
        assert torch.equal(other.batch(step)[0], expected[step])
    assert starts_of(make(6), range(30)) != starts_of(make(5), range(30))


def test_the_first_batches_are_what_they_always_were():
    # Another order would break the resuming of every checkpoint written so far.
    assert starts_of(Windows(POSITIONS, [(0, 250)], length=16, batch=4, seed=0), range(2)) == EXPECTED


EXPECTED = [115, 131, 211, 163, 51, 195, 3, 99]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 250}, "takes 251 bytes in a row and the longest stretch of training text has 250"),
        ({"length": 0}, "length must be at least 1; got 0"),
        ({"batch": 0}, "batch must be at least 1; got 0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
    ],
)
def test_impossible_windows_are_refused(change: dict[str, int], message: str):
    with pytest.raises(InputError, match=message):
        Windows(POSITIONS, [(0, 250)], **{"length": 8, "batch": 4, "seed": 0, **change})
