from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from polychron.errors import InputError
from polychron.twins.training import Settings
from polychron.twins.tuning import DROPOUT, Tuning, tune
from tests.twins.conftest import TINY


@pytest.fixture(autouse=True)
def short_timing(monkeypatch):
    monkeypatch.setattr("polychron.twins.tuning.TIMED_SECONDS", 0.03)


def test_the_best_rate_lies_between_two_that_were_tried(split):
    # From far too low a rate the search must climb.
    tuning = tune(dataclasses.replace(TINY["window-mlp"], rate=3e-4), split, seconds=0.5)
    tried = {trial.rate: trial.nats_per_byte for trial in tuning.trials if trial.dropout == 0}
    assert tuning.settings.rate == min(tried, key=tried.get)
    assert len(tried) > 3
    assert tuning.settings.rate > 3e-4
    (dropped,) = (trial for trial in tuning.trials if trial.dropout)
    assert dropped == dataclasses.replace(dropped, rate=tuning.settings.rate, dropout=DROPOUT)
    assert (tuning.settings.dropout == DROPOUT) == (dropped.nats_per_byte < tried[tuning.settings.rate])
    assert tuning.compiled_bytes_per_second is None
    assert tuning.eager_bytes_per_second > 0


def test_the_held_out_part_is_not_touched(split):
    without = dataclasses.replace(split, held_out=np.empty(0, dtype=np.uint8))
    assert tune(TINY["window-mlp"], without, seconds=0.05).trials


def test_rates_that_all_diverge_are_an_error(split):
    with pytest.raises(InputError, match="window-mlp diverged at every rate"):
        tune(dataclasses.replace(TINY["window-mlp"], rate=1e30), split, seconds=0.05)


def test_a_tuning_survives_its_file():
    tuning = Tuning(Settings(0.1, 0.2, compiled=True), [], 3.0, 10.0, None)
    assert Tuning.from_dict(json.loads(json.dumps(tuning.to_dict()))) == tuning
