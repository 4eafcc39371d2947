"""A classifier's folder as a run leaves it."""

from __future__ import annotations

from pathlib import Path

from polychron.models.deep import DeepClassifier
from polychron.training import CheckpointWriter
from polychron.training.checkpoint import checkpoint_tensors
from polychron.training.classify import ClassifierRecord, ClassifierTrainingRecord, DataRecord

from ..runtime.conftest import NoOptimizer


def save_classifier(model: DeepClassifier, folder: Path) -> list[str]:
    """Writes it; the names of its classes."""
    names = [f"class {k}" for k in range(model.config.n_classes)]
    record = ClassifierRecord(
        model=model.config.to_dict(),
        preset="none",
        data=DataRecord(name="n", data="d", sha256="0" * 64, n_train=1, n_test=1, class_names=names),
        training=ClassifierTrainingRecord(
            seed=2, batch=1, rate=0.1, warmup_steps=0, optimizer="sgd", augment="none", steps=1, seconds=None
        ),
    )
    with CheckpointWriter(folder, kind=ClassifierRecord) as writer:
        writer.save(record, checkpoint_tensors(model, NoOptimizer()))
    return names
