"""A deep network that learns labelled examples on the terms of `polychron.twins.learning`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from polychron import optim
from polychron.data.batches import Batches
from polychron.data.labelled import LabelledSet
from polychron.models.deep import DeepClassifier, DeepConfig
from polychron.training.classify import score_classifier
from polychron.training.schedule import Schedule
from polychron.twins.learning import Learner

WARMUP_STEPS = 20


def batches_of(labelled: LabelledSet, batch: int, seed: int) -> Batches:
    """The training part, images shifted by a pixel and, where the set allows it, mirrored."""
    augment = ("shift+mirror" if labelled.mirrors else "shift") if labelled.height else "none"
    return Batches(labelled, batch=batch, augment=augment, seed=seed)


def wrong_answers(model: nn.Module, labelled: LabelledSet) -> Callable[[np.ndarray], float]:
    """The part of wrong answers among chosen examples of the test part."""

    def wrong(which: np.ndarray) -> float:
        which = which[which < len(labelled.test_labels)]
        inputs, labels = labelled.test_inputs[which], labelled.test_labels[which]
        return 1 - score_classifier(model, inputs, labels, len(labelled.class_names)).accuracy

    return wrong


def of_classifier(config: DeepConfig, labelled: LabelledSet, rate: float, seed: int, batch: int) -> Learner:
    """A deep network as ``polychron train-classifier`` trains it; it is scored by `wrong_answers`."""
    model = DeepClassifier(config, seed)
    optimizer = optim.attach(model, "sgd")
    batches, rates = batches_of(labelled, batch, seed), Schedule(rate, WARMUP_STEPS)

    def step(k: int, progress: float) -> float:
        model.train()
        optimizer.rate = rates.rate(k, progress)
        optimizer.zero_grad()
        loss = model.train_step(*batches.batch(k))
        optimizer.step()
        return loss / batch

    return Learner(step, wrong_answers(model, labelled), batch, model.n_parameters())
