"""A run on a real, small model and a text of a few kilobytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polychron import models
from polychron.data import Vocabulary
from polychron.training import CheckpointWriter, Run
from polychron.training.records import CorpusRecord, Record, TrainingRecord

TEXT = np.frombuffer(b"".join(b"The %d sheep of field %d eat grass. " % (n * n, n) for n in range(200)), dtype=np.uint8)


def make_record(**training: object) -> Record:
    vocabulary = Vocabulary.of(TEXT)
    settings = {
        "seed": 3,
        "batch": 4,
        "length": 16,
        "rate": 0.02,
        "warmup_steps": 5,
        "visit_cap": None,
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
        intervals = {"checkpoint_seconds": 1e9, "validation_seconds": 1e9, **(intervals or {})}
        if resume:
            return Run.resume(TEXT, writer, **intervals)
        return Run.begin(make_record(**training), TEXT, writer, **intervals)

    return make
