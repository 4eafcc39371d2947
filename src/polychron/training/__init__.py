"""Training: schedules, the loop, checkpoints, and what a text costs under a model."""

from __future__ import annotations

from polychron.training.checkpoint import Checkpoint, CheckpointWriter, open_checkpoint
from polychron.training.evaluate import Score, score
from polychron.training.loop import Run, train_steps
from polychron.training.schedule import Budget, ReferenceSchedule, Schedule

__all__ = [
    "Budget",
    "Checkpoint",
    "CheckpointWriter",
    "ReferenceSchedule",
    "Run",
    "Schedule",
    "Score",
    "open_checkpoint",
    "score",
    "train_steps",
]
