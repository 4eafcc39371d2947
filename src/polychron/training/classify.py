"""Training classifiers: the record of a run, its checkpoints, and what it ends with. Nothing here prints."""

# B example, K class

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
import pydantic
import torch
from pydantic import Field

from polychron import optim
from polychron.data.batches import Batches, brightness
from polychron.data.labelled import LabelledSet
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.models.deep import DeepClassifier, DeepConfig, deep_config_from_dict
from polychron.storage import CONFIG_NAME
from polychron.training.checkpoint import Checkpoint, checkpoint_tensors, open_weights
from polychron.training.checkpoint_writer import CheckpointWriter
from polychron.training.counting import count_classifier
from polychron.training.records import BudgetedSection, PositionRecord, Section, WeightsRecord
from polychron.training.run import CheckpointReport, Interrupted
from polychron.training.steps import StepReport, train_steps

_SCORED_AT_ONCE = 1000
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Name = Annotated[str, Field(max_length=256)]
_Text = Annotated[str, Field(max_length=8192)]


class DataRecord(Section):
    """What was learnt from, enough to find it again and to know it again."""

    name: _Name
    data: _Text
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    n_train: _Count
    n_test: _Count
    class_names: Annotated[list[_Name], Field(min_length=2, max_length=65_536)]


class ClassifierTrainingRecord(BudgetedSection):
    """What decides what a run computes. Of ``steps`` and ``seconds`` one is its budget, the other None.

    ``counts``: the readout is counted in one pass, the run's only step, and nothing is learnt by gradients.
    """

    seed: _Count
    batch: Annotated[int, Field(ge=1, lt=2**31)]
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    warmup_steps: _Count
    optimizer: Literal["sgd", "adagrad", "adam"]
    augment: Literal["none", "shift", "shift+mirror"]
    counts: bool = False
    steps: Annotated[int, Field(ge=1, lt=2**63)] | None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


class ClassifierMetrics(Section):
    """What was measured last, None where nothing was."""

    train_nats: Annotated[float, Field(allow_inf_nan=False)] | None = None
    test_nats: Annotated[float, Field(allow_inf_nan=False)] | None = None
    test_correct: _Count | None = None


class ClassifierRecord(Section):
    """All of a classifier's ``config.json``."""

    TASK: ClassVar[str] = "classifier"
    quantization: ClassVar[None] = None  # language models only
    format: Literal["polychron"] = "polychron"
    version: Literal[1] = 1
    task: Literal["classifier"] = "classifier"
    model: dict[str, pydantic.JsonValue]
    preset: Annotated[str, Field(max_length=64)]
    data: DataRecord
    training: ClassifierTrainingRecord
    position: PositionRecord = PositionRecord()
    metrics: ClassifierMetrics = ClassifierMetrics()
    weights: WeightsRecord | None = None

    @property
    def weights_state(self) -> int:
        """Differs where weights do."""
        return self.position.step


@dataclass(frozen=True)
class ClassifierScore:
    """What a classifier does with labelled examples.

    Attributes:
        confusion: (K, K) int64: examples of the row's class that were taken for the column's.
        nats: mean cross-entropy of an example.

    Example:
        >>> score = ClassifierScore(np.array([[3, 1], [0, 4]]), nats=0.2)
        >>> score.accuracy, score.precision.tolist(), score.recall.tolist()
        (0.875, [1.0, 0.8], [0.75, 1.0])
    """

    confusion: np.ndarray
    nats: float

    @property
    def n_examples(self) -> int:
        """Examples scored."""
        return int(self.confusion.sum())

    @property
    def n_correct(self) -> int:
        """Those whose class was named."""
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """Part of them."""
        return self.n_correct / self.n_examples

    @property
    def recall(self) -> np.ndarray:
        """Of each class' examples the part that was recognised: (K,); 0 where there are none."""
        return _share(self.confusion.diagonal(), self.confusion.sum(axis=1))

    @property
    def precision(self) -> np.ndarray:
        """Of the examples taken for each class the part that was one: (K,); 0 where there are none."""
        return _share(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall: (K,)."""
        return _share(2 * self.confusion.diagonal(), self.confusion.sum(axis=0) + self.confusion.sum(axis=1))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def score_classifier(model: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray, n_classes: int) -> ClassifierScore:
    """Classify examples (N, n_inputs) uint8, hard reading, the highest logit."""
    confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
    nats = 0.0
    model.eval()
    for start in range(0, len(labels), _SCORED_AT_ONCE):
        piece = slice(start, start + _SCORED_AT_ONCE)
        with torch.no_grad():
            log_p = model(brightness(inputs[piece])).log_softmax(dim=1).numpy()
        nats -= float(log_p[np.arange(len(log_p)), labels[piece]].sum(dtype=np.float64))
        np.add.at(confusion, (labels[piece], log_p.argmax(axis=1)), 1)
    return ClassifierScore(confusion, nats / len(labels))


@dataclass(frozen=True)
class ClassifierFinished:
    """The budget is used up; the test part was scored once, after the training."""

    step: int
    seconds: float
    n_examples: int
    score: ClassifierScore


ClassifierEvent: TypeAlias = StepReport | CheckpointReport | Interrupted | ClassifierFinished


@dataclass(frozen=True)
class ClassifierCheckpoint(Checkpoint):
    """A classifier's checkpoint whose ``config.json`` and weights' header were found right."""

    def _build(self) -> DeepClassifier:
        return DeepClassifier(self.config, seed=self.record.training.seed)


def open_classifier(directory: str | Path) -> ClassifierCheckpoint:
    """Read what a classifier's checkpoint says about itself and check it; no memory for the weights is taken yet.

    A run may be writing to the folder meanwhile, as with `polychron.training.open_checkpoint`.

    Raises:
        InputError: no such folder, no classifier in it, damaged, or of sizes that cannot be.
    """
    folder = Path(directory)

    def config_of(record: ClassifierRecord) -> DeepConfig:
        config = deep_config_from_dict(record.model)
        if config.n_classes != len(record.data.class_names):
            raise InputError(
                f"{folder / CONFIG_NAME} is damaged: the model has {config.n_classes} classes and "
                f"{len(record.data.class_names)} have names"
            )
        return config

    record, config, weights = open_weights(folder, ClassifierRecord, config_of)
    return ClassifierCheckpoint(folder, record, config, None, weights)


@dataclass
class ClassifierRun:
    """A classifier's training with checkpoints.

    Attributes:
        model: the network.
        labelled: examples.
        batches: of its training part.
        optimizer: attached to the model.
        writer: of the folder for checkpoints.
        record: settings and position, kept up to date.
        checkpoint_seconds: training time between two checkpoints.
    """

    model: DeepClassifier
    labelled: LabelledSet
    batches: Batches
    optimizer: Any
    writer: CheckpointWriter
    record: ClassifierRecord
    checkpoint_seconds: float = 30.0

    @classmethod
    def begin(
        cls, record: ClassifierRecord, labelled: LabelledSet, writer: CheckpointWriter, **intervals: float
    ) -> ClassifierRun:
        """A new run.

        Raises:
            InputError: the model does not fit into memory.
        """
        config = deep_config_from_dict(record.model)
        n_bytes = config.n_bytes()
        require_memory(n_bytes, "the tables of the classifier", "take a smaller --preset")
        model = DeepClassifier(config, seed=record.training.seed)
        return cls._of(record, model, labelled, writer, intervals)

    @classmethod
    def resume(cls, labelled: LabelledSet, writer: CheckpointWriter, **intervals: float) -> ClassifierRun:
        """The run whose checkpoint is in the folder of a writer that was opened to resume."""
        checkpoint = open_classifier(writer.directory)
        run = cls._of(checkpoint.record, checkpoint.load_model(), labelled, writer, intervals)
        checkpoint.load_optimizer(run.optimizer)
        return run

    @classmethod
    def _of(cls, record, model, labelled, writer, intervals) -> ClassifierRun:
        training = record.training
        return cls(
            model=model,
            labelled=labelled,
            batches=Batches(labelled, batch=training.batch, augment=training.augment, seed=training.seed),
            optimizer=optim.attach(model, training.optimizer),
            writer=writer,
            record=record,
            **intervals,
        )

    def events(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[ClassifierEvent]:
        """Train to the end of the budget, save, then score the test part.

        ``should_stop()`` saves and ends. Closing the generator saves as well.

        Raises:
            InputError: the training diverged, or the first or the last checkpoint cannot be written. One in
                between that cannot be written is reported and tried again later.
        """
        if self.record.position.step == 0:
            yield self._save()
        training, position = self.record.training, self.record.position
        if training.counts:
            if position.step == 0:
                self._count()
        else:
            try:
                yield from self._train(should_stop)
            except GeneratorExit:
                self._save()
                raise
        yield self._save()
        position = self.record.position
        if training.budget.progress(position.step, position.seconds) < 1 or should_stop():
            yield Interrupted(position.step)
            return
        labelled = self.labelled
        score = score_classifier(self.model, labelled.test_inputs, labelled.test_labels, len(labelled.class_names))
        measured = {"test_nats": score.nats, "test_correct": score.n_correct}
        self._note(metrics=self.record.metrics.model_copy(update=measured))
        yield self._save()
        yield ClassifierFinished(position.step, position.seconds, position.step * training.batch, score)

    def _count(self) -> None:
        """The pass of a run that counts."""
        began = time.perf_counter()
        _, nats = count_classifier(self.model, self.labelled, self.record.training.seed)
        seconds = time.perf_counter() - began
        self._note(position=PositionRecord(step=1, seconds=seconds), metrics=ClassifierMetrics(train_nats=nats))

    def _train(self, should_stop: Callable[[], bool]) -> Iterator[ClassifierEvent]:
        """The steps of a run, with checkpoints."""
        training, position = self.record.training, self.record.position
        saved = position.seconds
        for report in train_steps(
            self.model, self.batches, self.optimizer, training.schedule, training.budget,
            step=position.step, seconds=position.seconds, should_stop=should_stop,
        ):  # fmt: skip
            self._note(
                position=PositionRecord(step=report.step, seconds=report.seconds),
                metrics=ClassifierMetrics(train_nats=report.nats_per_byte),
            )
            yield report
            if report.seconds - saved >= self.checkpoint_seconds and report.progress < 1:
                saved = report.seconds
                try:
                    outcome = self._save()
                except InputError as error:
                    outcome = CheckpointReport(report.step, self.writer.directory, problem=str(error))
                yield outcome

    def _note(self, **fields: Any) -> None:
        self.record = self.record.model_copy(update=fields)

    def _save(self) -> CheckpointReport:
        self.writer.save(self.record, checkpoint_tensors(self.model, self.optimizer))
        return CheckpointReport(self.record.position.step, self.writer.directory)
