"""Training: schedules, the loop, checkpoints, and what a text costs under a model."""

from __future__ import annotations

from polychron.training.checkpoint import Checkpoint, open_checkpoint
from polychron.training.checkpoint_writer import CheckpointWriter
from polychron.training.evaluate import Score, score
from polychron.training.run import Run
from polychron.training.schedule import Budget, ReferenceSchedule, Schedule
from polychron.training.steps import train_steps

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
