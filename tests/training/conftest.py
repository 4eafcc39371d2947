"""A run on a real, small model and a text of a few kilobytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polychron import models, optim
from polychron.data import Vocabulary, Windows, hold_out
from polychron.training import CheckpointWriter, Run, open_checkpoint
from polychron.training.checkpoint import CorpusRecord, Record, TrainingRecord

TEXT = np.frombuffer(b"".join(b"The %d sheep of field %d eat grass. " % (n * n, n) for n in range(200)), dtype=np.uint8)


def make_record(**training: object) -> Record:
    vocabulary = Vocabulary.of(TEXT)
    settings = {
        "seed": 3,
        "batch": 4,
        "length": 16,
        "rate": 0.02,
        "warmup_steps": 5,
        "optimizer": "sgd",
        "update": "batch",
        "steps": 30,
        "seconds": None,
    }
    return Record(
        model=models.preset("delay", "tiny", vocabulary.size).to_dict(),
        preset="tiny",
        vocabulary=list(vocabulary.byte_values),
        corpus=CorpusRecord(
            name="sheep", path=None, sha256="0" * 64, bytes=TEXT.size, holdout="tail", holdout_fraction=0.1
        ),
        training=TrainingRecord(**{**settings, **training}),
    )


def assemble(writer: CheckpointWriter, record: Record, *, resume: bool = False, **intervals: float) -> Run:
    """The run of a record, or the one whose checkpoint is in the writer's folder."""
    if resume:
        checkpoint = open_checkpoint(writer.directory)
        writer.adopt(checkpoint)
        record, model = checkpoint.record, checkpoint.load_model()
    else:
        model = models.build(models.config_from_dict(record.model), seed=record.training.seed)
    optimizer = optim.attach(model, record.training.optimizer)
    if resume:
        checkpoint.load_optimizer(optimizer)
    vocabulary = Vocabulary(bytes(record.vocabulary))
    tokens = vocabulary.encode(TEXT)
    holdout = hold_out(TEXT.size, "tail")
    training = record.training
    return Run(
        model=model,
        windows=Windows(tokens, holdout.training, length=training.length, batch=training.batch, seed=training.seed),
        optimizer=optimizer,
        vocabulary=vocabulary,
        held_out=holdout.held_out_of(tokens),
        writer=writer,
        record=record,
        **{"checkpoint_seconds": 1e9, "validation_seconds": 1e9, **intervals},
    )


RunMaker = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path, request: pytest.FixtureRequest) -> RunMaker:
    """make_run(folder, resume=..., intervals=..., **training) -> a Run whose writer is closed in the end."""

    def make(
        folder: str = "run",
        *,
        resume: bool = False,
        intervals: dict[str, float] | None = None,
        **training: object,
    ) -> Run:
        writer = CheckpointWriter(tmp_path / folder, resume=resume)
        request.addfinalizer(writer.close)
        return assemble(writer, make_record(**training), resume=resume, **(intervals or {}))

    return make
