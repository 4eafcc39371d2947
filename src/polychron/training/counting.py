"""Classifiers that are counted in one pass instead of trained by gradients: see `polychron.models.ferns`."""

# B example

from __future__ import annotations

import numpy as np
import torch

from polychron.data.batches import brightness
from polychron.data.labelled import LabelledSet
from polychron.errors import InputError
from polychron.models.deep import DeepClassifier
from polychron.models.ferns import Ferns

# So much of the training part is not counted: it says how sure of themselves the tables may be.
CALIBRATION_SHARE = 0.1
MOST_CALIBRATION = 5000
SMOOTHING = 1.0
_COUNTED_AT_ONCE = 1000


def count_classifier(model: DeepClassifier, labelled: LabelledSet, seed: int) -> tuple[float, float]:
    """Fills the readout of a classifier without residual layers from one pass over its training part.

    Returns:
        The scale of the tables' evidence and the mean nats of the examples that chose it.

    Raises:
        InputError: the model has residual layers, which counting cannot fill, or the training part is a single example.
    """
    if model.config.n_layers:
        raise InputError(f"counting fills a readout alone; the model has n_layers = {model.config.n_layers}")
    n = len(labelled.train_labels)
    n_calibration = min(MOST_CALIBRATION, round(CALIBRATION_SHARE * n)) or 1
    if n < 2:
        raise InputError(f"counting needs at least 2 examples, one of them to calibrate; got {n}")
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, 3)))).permutation(n)
    ferns = Ferns(model.readout)
    for start in range(n_calibration, n, _COUNTED_AT_ONCE):
        ferns.count(*_examples(model, labelled, order[start : start + _COUNTED_AT_ONCE]))
    return ferns.calibrate(*_examples(model, labelled, order[:n_calibration]), smoothing=SMOOTHING)


def _examples(model: DeepClassifier, labelled: LabelledSet, chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = brightness(labelled.train_inputs[chosen])
    return model.latencies(inputs), torch.from_numpy(labelled.train_labels[chosen])
