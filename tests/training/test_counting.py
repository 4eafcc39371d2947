import numpy as np
import pytest

from polychron.data.labelled import LabelledSet
from polychron.errors import InputError
from polychron.models.deep import DeepClassifier, DeepConfig
from polychron.training.classify import score_classifier
from polychron.training.counting import count_classifier


def labelled(n: int) -> LabelledSet:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (2 * n, 12), dtype=np.uint8)
    labels = (inputs[:, 0] > inputs[:, 1]).astype(np.int64) + (inputs[:, 2] > 200)
    return LabelledSet("set", "made up", None, inputs[:n], labels[:n], inputs[n:], labels[n:], ("a", "b", "c"))


def classifier(**fields) -> DeepClassifier:
    config = DeepConfig(n_pixels=12, n_classes=3, n_layers=0, readout_n_tables=64, readout_n_comparisons=5)
    return DeepClassifier(DeepConfig(**{**config.__dict__, **fields}))


def test_one_pass_learns_and_its_scale_suits_what_was_not_counted():
    data, model = labelled(1500), classifier()
    scale, nats = count_classifier(model, data, seed=0)
    score = score_classifier(model, data.test_inputs, data.test_labels, 3)
    assert score.accuracy > 0.8
    assert score.nats == pytest.approx(nats, rel=0.25)
    assert 0 < scale < 1


def test_what_counting_cannot_fill_is_refused():
    with pytest.raises(InputError, match="n_layers = 1"):
        count_classifier(classifier(n_layers=1, n_tables=2, n_comparisons=2), labelled(9), seed=0)
    with pytest.raises(InputError, match="at least 2 examples"):
        count_classifier(classifier(), labelled(1), seed=0)
