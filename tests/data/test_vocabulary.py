from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychron.data import Vocabulary
from polychron.errors import InputError


def as_array(text: bytes) -> np.ndarray:
    return np.frombuffer(text, dtype=np.uint8)


def test_ids_follow_the_bytes_order_and_the_last_is_unseen():
    vocabulary = Vocabulary.of(as_array(b"banana"), as_array(b"\xff"))
    assert vocabulary.byte_values == b"abn\xff"
    assert vocabulary.size == 5
    assert vocabulary.unseen_id == 4
    assert vocabulary.encode(b"nab\xff?\0").tolist() == [2, 0, 1, 3, 4, 4]
    assert vocabulary.unseen_nats == math.log(252)


@given(st.binary(min_size=1))
def test_decoding_undoes_encoding(text: bytes):
    vocabulary = Vocabulary.of(as_array(text))
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert ids.max(initial=0) < vocabulary.unseen_id


def test_all_256_bytes_leave_nothing_unseen():
    everything = bytes(range(256))
    vocabulary = Vocabulary(everything)
    assert vocabulary.size == 257
    assert vocabulary.encode(everything).tolist() == list(range(256))
    assert vocabulary.unseen_nats == 0


@pytest.mark.parametrize(("known", "start"), [(b"\n ab", b"\n"), (b" ab", b" "), (b"ab", b"a")])
def test_an_empty_prompt_starts_like_a_line(known: bytes, start: bytes):
    vocabulary = Vocabulary(known)
    assert vocabulary.decode([vocabulary.start_id]) == start


def test_the_unseen_id_has_no_byte():
    with pytest.raises(InputError, match="2 stands for all unseen bytes"):
        Vocabulary(b"ab").decode([0, 2])
    with pytest.raises(InputError, match="token ids must be"):
        Vocabulary(b"ab").decode([-1])


@pytest.mark.parametrize("values", [b"", b"ba", b"aa"])
def test_byte_values_must_ascend(values: bytes):
    with pytest.raises(InputError, match="vocabulary"):
        Vocabulary(values)
