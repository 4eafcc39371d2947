from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychron.data import hold_out
from polychron.data.holdout import spread
from polychron.errors import InputError


@given(st.integers(40, 10**8), st.sampled_from(["blocks", "tail"]), st.sampled_from([0.05, 0.1, 0.25, 0.5]))
def test_every_byte_is_on_exactly_one_side(n_bytes: int, kind: str, fraction: float):
    holdout = hold_out(n_bytes, kind, fraction)
    segments = sorted(holdout.training + holdout.held_out)
    assert [start for start, _ in segments] == [0] + [end for _, end in segments[:-1]]
    assert segments[-1][1] == n_bytes
    assert all(start < end for start, end in segments)
    held_out = sum(end - start for start, end in holdout.held_out)
    assert held_out == pytest.approx(fraction * n_bytes, rel=0.51 if n_bytes < 10**5 else 0.05)


def test_the_tail_is_the_fields_custom():
    # nanoGPT's split of tiny Shakespeare: n = len(data); train = data[:int(n * 0.9)]
    assert hold_out(1_115_394, "tail").training == ((0, 1_003_854),)


def test_blocks_are_spread_and_grow_with_the_text():
    holdout = hold_out(4_025_029)
    assert len(holdout.held_out) == 50
    assert {end - start for start, end in holdout.held_out} == {8050}
    assert len(hold_out(10**9).held_out) == 10**8 // 65_536
    assert {end - start for start, end in hold_out(20_000).held_out} == {256}


def test_a_short_text_still_has_a_block():
    assert hold_out(1024).held_out == ((921, 1024),)


def test_held_out_bytes_are_joined():
    data = np.arange(200, dtype=np.uint8)
    holdout = hold_out(200, "tail", 0.25)
    assert holdout.held_out_of(data).tolist() == list(range(150, 200))
    assert [part.tolist() for part in holdout.training_of(data)] == [list(range(150))]


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.6, float("nan"), float("inf")])
def test_fractions_out_of_range_are_refused(fraction: float):
    with pytest.raises(InputError, match=r"above 0 and at most 0\.5"):
        hold_out(10_000, "blocks", fraction)


def test_other_mistakes_are_refused():
    with pytest.raises(InputError, match="one of blocks, tail; got 'head'"):
        hold_out(10_000, "head")
    with pytest.raises(InputError, match="less than two bytes"):
        hold_out(10, "blocks", 0.1)


@given(
    st.integers(1_000, 10**8), st.sampled_from(["blocks", "tail"]), st.floats(0.001, 1.2), st.sampled_from([1, 7, 64])
)
def test_stretches_are_of_the_segments_and_as_long_as_asked(n_bytes: int, kind: str, part: float, n_stretches: int):
    training = hold_out(n_bytes, kind).training
    n_text = sum(end - start for start, end in training)
    found = spread(training, int(part * n_text), n_stretches)
    assert all(start < end for start, end in found)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(found))
    assert all(any(first <= start and end <= last for first, last in training) for start, end in found)
    wanted = min(int(part * n_text), n_text)
    assert wanted - n_stretches < sum(end - start for start, end in found) <= wanted
