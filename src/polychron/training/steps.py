"""The training loop: steps until a budget is used up, with a report now and then. It prints nothing and writes nothing.

It is a generator: what the caller does between two reports (draw, validate, write to a disk) is not counted as training
time, and a caller who stops asking has stopped the training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from polychron.data import Windows
from polychron.errors import InputError
from polychron.training.schedule import Budget, ReferenceSchedule, Schedule

# The training loss that is shown is a mean over about so many steps: one batch alone says little.
_SMOOTHING_STEPS = 50

_MASK = 2**64 - 1


@dataclass(frozen=True)
class StepReport:
    """Where the training stands after a step.

    Attributes:
        step: steps done, since the run's first start.
        seconds: spent training, since the run's first start.
        n_bytes: bytes trained on, since the run's first start.
        nats_per_byte: training loss, a mean over the last steps.
        bytes_per_second: since the last report.
        rate: learning rate of the last step.
        progress: part of the budget that is used, 0 to 1.
    """

    step: int
    seconds: float
    n_bytes: int
    nats_per_byte: float
    bytes_per_second: float
    rate: float
    progress: float

    @property
    def seconds_left(self) -> float:
        """Training time until the budget is used up, if the speed stays."""
        return self.seconds * (1 - self.progress) / max(self.progress, 1e-9)


def train_steps(
    model: torch.nn.Module,
    windows: Windows,
    optimizer: Any,
    schedule: Schedule | ReferenceSchedule,
    budget: Budget,
    *,
    step: int = 0,
    seconds: float = 0.0,
    report_seconds: float = 0.5,
    should_stop: Callable[[], bool] = lambda: False,
    after_step: Callable[[int, float], object] = lambda step, progress: None,
    until: float = 1.0,
) -> Iterator[StepReport]:
    """Train until so much of the budget is used up, or ``should_stop()``; report now and then, and after the last step.

    One step:  rate <- schedule; batch <- windows; model.train_step(*batch); optimizer.step(). The random
    numbers of a step (for models that draw any) are seeded by the seed and the step's number, so a run that
    is resumed at ``step`` computes what it would have computed without the interruption, bit for bit, if the
    budget is in steps.

    Args:
        model: has ``train_step(*batch) -> sum of nats``, which leaves gradients or updates itself.
        windows: gives batch number k: tokens, targets, and what more the model's step takes.
        optimizer: has ``rate``, ``zero_grad()`` and ``step()``; see `polychron.optim.attach`.
        schedule: the rate of a step.
        budget: when to end.
        step: steps done before.
        seconds: spent training before.
        report_seconds: at least so much training lies between two reports.
        should_stop: asked before every step.
        after_step: called with the steps done and the progress; may change the model.
        until: part of the budget at which to end; 1: all of it.

    Raises:
        InputError: the loss is no longer finite. No report follows the step that diverged.
    """
    model.train()
    reported_step, reported_seconds = step, seconds
    loss_sum = weight_sum = 0.0
    keep = 1 - 1 / _SMOOTHING_STEPS
    progress = budget.progress(step, seconds)
    began = time.perf_counter() - seconds
    stops = should_stop()
    while progress < until and not stops:
        optimizer.rate = rate = schedule.rate(step, progress)
        torch.default_generator.manual_seed(_mix(windows.seed, step))
        batch = windows.batch(step)
        optimizer.zero_grad()
        loss = model.train_step(*batch)
        optimizer.step()

        nats = loss / windows.bytes_per_batch
        if not math.isfinite(nats):
            raise InputError(
                f"the training diverged: the loss of step {step} is {nats}. Take a lower --rate than {schedule.peak:g}"
            )
        loss_sum = keep * loss_sum + nats
        weight_sum = keep * weight_sum + 1
        step += 1
        seconds = time.perf_counter() - began
        progress = budget.progress(step, seconds)
        after_step(step, progress)
        stops = should_stop()
        if stops or progress >= until or seconds - reported_seconds >= report_seconds:
            yield StepReport(
                step=step,
                seconds=seconds,
                n_bytes=step * windows.bytes_per_batch,
                nats_per_byte=loss_sum / weight_sum,
                bytes_per_second=(step - reported_step)
                * windows.bytes_per_batch
                / max(seconds - reported_seconds, 1e-9),
                rate=rate,
                progress=progress,
            )
            reported_step, reported_seconds = step, seconds
            model.train()  # the caller may have validated
            stops = stops or should_stop()  # it had time to change its mind; all steps are reported
            began = time.perf_counter() - seconds


def _mix(seed: int, step: int) -> int:
    """One number out of two, such that neighbours share no bits (the finaliser of splitmix64)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return (mixed ^ (mixed >> 31)) >> 1
