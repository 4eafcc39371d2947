from __future__ import annotations

import numpy as np
import pytest

from polychron.errors import InputError


def test_the_last_tenth_is_held_out_as_polychron_train_does(split, text_path):
    text = np.fromfile(text_path, dtype=np.uint8)
    seam = int(text.size * 0.9)
    assert split.vocabulary.decode(split.training) == text[:seam].tobytes()
    assert split.vocabulary.decode(split.held_out) == text[seam:].tobytes()
    np.testing.assert_array_equal(split.text, text)


def test_tuning_sees_nothing_of_what_is_scored(split):
    inner = split.for_tuning()
    joined = np.concatenate([inner.training, inner.held_out])
    np.testing.assert_array_equal(joined, split.training)
    assert inner.text.size == split.training.size


def test_a_text_that_is_not_there_is_refused(split, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        type(split).of(tmp_path / "nothing.txt")
