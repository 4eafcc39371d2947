from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from polychron.errors import InputError
from polychron.training import Budget, open_checkpoint, train_steps
from polychron.training.checkpoint import checkpoint_tensors
from polychron.training.run import CheckpointReport, Finished, Interrupted, Run, ValidationReport
from polychron.training.steps import StepReport

from .conftest import RunMaker


def steps_of(run: Run, budget: Budget, **options: object):
    return train_steps(run.model, run.windows, run.optimizer, run.record.training.schedule, budget, **options)


def tensors_of(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in checkpoint_tensors(run.model, run.optimizer).items()}


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_a_budget_of_steps_is_met_exactly_and_the_loss_falls(make_run: RunMaker):
    reports = list(steps_of(make_run(), Budget(steps=200), report_seconds=0))
    assert [report.step for report in reports] == list(range(1, 201))
    assert reports[-1].n_bytes == 200 * 4 * 16
    assert reports[-1].progress == 1
    assert reports[-1].seconds_left == 0
    assert reports[-1].nats_per_byte < 0.7 * reports[0].nats_per_byte


def test_reports_are_as_far_apart_as_asked_and_the_last_step_has_one(make_run: RunMaker):
    assert [report.step for report in steps_of(make_run(), Budget(steps=7), report_seconds=1e9)] == [7]


def test_a_part_of_a_budget_ends_at_its_step(make_run: RunMaker):
    run = make_run()
    first = list(steps_of(run, Budget(steps=20), until=0.7, report_seconds=1e9))
    assert [(report.step, report.progress) for report in first] == [(14, 0.7)]
    rest = list(steps_of(run, Budget(steps=20), step=14, report_seconds=1e9))
    assert [(report.step, report.progress) for report in rest] == [(20, 1.0)]
    assert list(steps_of(run, Budget(steps=20), step=14, until=0.7)) == []


def test_a_budget_of_seconds_counts_training_only(make_run: RunMaker):
    run = make_run()
    began = time.perf_counter()
    for report in steps_of(run, Budget(seconds=0.2), report_seconds=0.05):
        time.sleep(0.2)
        last = report
    assert 0.2 <= last.seconds < 0.5
    assert time.perf_counter() - began > 0.2 + 3 * 0.2


def test_the_rate_is_the_schedules(make_run: RunMaker):
    run = make_run()
    schedule = run.record.training.schedule
    for report in steps_of(run, Budget(steps=20), report_seconds=0):
        assert run.optimizer.rate == pytest.approx(schedule.rate(report.step - 1, (report.step - 1) / 20))
        assert report.rate == run.optimizer.rate


@pytest.mark.parametrize("n_asked", range(1, 9))
@pytest.mark.parametrize("report_seconds", [0, 1e9])
def test_stopping_is_heard_before_every_step_and_what_was_trained_is_reported(
    make_run: RunMaker, n_asked: int, report_seconds: float
):
    """At whichever question ``should_stop`` turns true."""
    run, steps, asked = make_run(), [], 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= n_asked

    options = {"should_stop": should_stop, "report_seconds": report_seconds}
    reports = [
        report.step
        for report in steps_of(run, Budget(steps=100), after_step=lambda step, _: steps.append(step), **options)
    ]
    assert len(steps) < n_asked
    assert reports[-1:] == steps[-1:]


def test_nothing_is_trained_when_the_budget_is_used_up(make_run: RunMaker):
    run = make_run()
    before = tensors_of(run)
    assert list(steps_of(run, Budget(steps=5), step=5)) == []
    assert_same_bits(before, tensors_of(run))


def test_a_divergence_is_said_and_not_saved(make_run: RunMaker, tmp_path: Path):
    run = make_run(rate=1e38, steps=500)
    with pytest.raises(InputError, match=r"diverged: the loss of step \d+ is (nan|inf).*lower --rate than 1e\+38"):
        list(run.events())
    assert open_checkpoint(tmp_path / "run").record.position.step == 0


def test_a_run_saves_first_trains_saves_and_validates_everything(make_run: RunMaker, tmp_path: Path):
    run = make_run()
    events = list(run.events())
    assert [type(event) for event in events] == [
        CheckpointReport,
        StepReport,
        CheckpointReport,
        ValidationReport,
        CheckpointReport,
        Finished,
    ]
    assert [event.step for event in events] == [0, 30, 30, 30, 30, 30]
    finished = events[-1]
    assert finished.score.n_bytes == run.held_out.size - 1
    assert finished.n_bytes == 30 * 4 * 16
    metrics = open_checkpoint(tmp_path / "run").record.metrics
    assert metrics.val_nats_per_byte == finished.score.nats_per_byte
    assert metrics.val_bytes == finished.score.n_bytes
    assert metrics.train_nats_per_byte == events[1].nats_per_byte


def test_while_training_a_part_is_validated_and_checkpoints_are_written(make_run: RunMaker):
    run = make_run(steps=None, seconds=0.5, intervals={"checkpoint_seconds": 0.05, "validation_seconds": 0.1})
    events = list(run.events())
    parts = [event for event in events if isinstance(event, ValidationReport) and not event.final]
    assert 1 <= len(parts) <= 5
    assert len({event.score.n_bytes for event in parts}) == 1
    assert sum(isinstance(event, CheckpointReport) for event in events) > 3


def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(make_run: RunMaker):
    whole = make_run("whole")
    list(whole.events())
    first = make_run("parts")
    asked = iter([False] * 11 + [True] * 99)
    assert list(first.events(lambda: next(asked)))[-1] == Interrupted(first.record.position.step)
    assert 0 < first.record.position.step < 30
    first.writer.close()

    second = make_run("parts", resume=True)
    assert second.record.position == first.record.position
    assert_same_bits(tensors_of(first), tensors_of(second))
    list(second.events())
    assert_same_bits(tensors_of(whole), tensors_of(second))


def test_the_optimizers_state_is_resumed_too(make_run: RunMaker):
    whole = make_run("whole", optimizer="adagrad")
    list(whole.events())
    first = make_run("parts", optimizer="adagrad")
    asked = iter([False] * 11 + [True] * 99)
    list(first.events(lambda: next(asked)))
    first.writer.close()
    second = make_run("parts", resume=True)
    list(second.events())
    assert any(name.startswith("optimizer.") for name in tensors_of(whole))
    assert_same_bits(tensors_of(whole), tensors_of(second))


def test_closing_the_events_saves(make_run: RunMaker, tmp_path: Path):
    run = make_run(steps=100_000)
    with closing(run.events()) as events:
        for event in events:
            if isinstance(event, StepReport):
                break
    assert open_checkpoint(tmp_path / "run").record.position.step == event.step > 0


def test_a_finished_run_only_validates_again(make_run: RunMaker):
    run = make_run()
    finished = list(run.events())[-1]
    run.writer.close()
    events = list(make_run(resume=True).events())
    assert not any(isinstance(event, StepReport) for event in events)
    assert events[-1].score.nats == finished.score.nats


def test_a_checkpoint_that_fails_on_the_way_is_said_and_training_goes_on(make_run: RunMaker, monkeypatch):
    run = make_run(steps=None, seconds=0.8, intervals={"checkpoint_seconds": 0.02})
    save, n_saves = run.writer.save, 0

    def fail_twice(*arguments: object) -> Path:
        nonlocal n_saves
        n_saves += 1
        if n_saves in (2, 3):
            raise InputError("disk full")
        return save(*arguments)

    monkeypatch.setattr(run.writer, "save", fail_twice)
    events = list(run.events())
    assert [event.problem for event in events if isinstance(event, CheckpointReport)][:4] == [
        None,
        "disk full",
        "disk full",
        None,
    ]
    assert isinstance(events[-1], Finished)


def test_the_last_checkpoint_must_not_fail(make_run: RunMaker, monkeypatch):
    run = make_run()
    events = run.events()
    next(events)

    def fail(*_: object) -> Path:
        raise InputError("disk full")

    monkeypatch.setattr(run.writer, "save", fail)
    with pytest.raises(InputError, match="disk full"):
        list(events)
