"""A training run: steps, validation and checkpoints, told as events. It prints nothing."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from polychron import models, optim
from polychron.data import Vocabulary, Windows, hold_out
from polychron.data.holdout import Holdout, set_aside, spread
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.nn import ContextTables
from polychron.ops.contexts import bytes_of_symbols
from polychron.ops.recent import CELLS_SHAPE
from polychron.training import beside
from polychron.training.begin_from import train_only_part
from polychron.training.blend import COUNTED_STRETCHES, Belief, belief_in, blended, join, scale_readout
from polychron.training.calibrate import calibrate
from polychron.training.checkpoint import checkpoint_tensors, open_checkpoint
from polychron.training.checkpoint_writer import CheckpointWriter
from polychron.training.evaluate import Score, score, score_progressively, spread_sample
from polychron.training.records import BesideRecord, MetricsRecord, PositionRecord, Record
from polychron.training.rewiring import Rewiring
from polychron.training.schedule import Schedule
from polychron.training.steps import StepReport, train_steps

_REPORT_SECONDS = 0.5

# The part of the time that validation on a sample, and writing checkpoints, may cost; scoring a byte takes
# less time than training on it, so the sample's is an upper bound.
_SAMPLE_PART = 0.03
_SAVING_PART = 0.1
_SAMPLE_LIMITS = (2_048, 65_536)
_MOST_COUNTING = 0.999
# Bytes of each stretch set aside that tell, in between, how far to believe counted contexts; of all together, at the
# end, as many as a run of some seconds has time for.
_BLEND_PIECE = 1_024
_BLENDED_PER_SECOND = 1_100
_LEAST_BLENDED = 1 << 14


@dataclass(frozen=True)
class ValidationReport:
    """What held-out text costs after ``step`` steps.

    Attributes:
        step: steps done.
        score: of what was scored so far.
        of_bytes: how many bytes of held-out text there are to score.
        final: False: a fixed part, scored while training. True: all of it is being scored after the training.
    """

    step: int
    score: Score
    of_bytes: int
    final: bool


@dataclass(frozen=True)
class CheckpointReport:
    """A checkpoint was written; or, if there is a ``problem``, it was not and the previous one stands."""

    step: int
    directory: Path
    problem: str | None = None


@dataclass(frozen=True)
class Interrupted:
    """The run was asked to stop. Its checkpoint is written, it can be resumed."""

    step: int


@dataclass(frozen=True)
class Finished:
    """The budget is used up; ``score`` is that of the whole held-out text."""

    step: int
    seconds: float
    n_bytes: int
    score: Score


@dataclass(frozen=True)
class BesideReport:
    """From ``step`` on the trained tables learn beside counted ones, which are counted now.

    Attributes:
        step: steps done.
        done: False: it does not come to that, since counting the text once took all the time until then.
    """

    step: int
    done: bool = True


Event: TypeAlias = StepReport | ValidationReport | BesideReport | CheckpointReport | Interrupted | Finished


@dataclass
class Run:
    """A training run with validation and checkpoints.

    Example:
        >>> for event in run.events():  # doctest: +SKIP
        ...     print(event)

    Attributes:
        model: see `train_steps`.
        windows: of the training text.
        optimizer: attached to the model; has ``state_dict()``.
        vocabulary: of the model.
        held_out: (N,) token ids of the text to validate on.
        set_aside: stretches (N,) of the training part that calibrate the model at the end.
        count: makes the tables of contexts that the model gets at the end, with ``whole=True`` of what is set aside as
            well; None: it gets none.
        count_beside: makes windows with what counted tables add there, see `polychron.training.beside`; None where it
            is to stop.
        writer: of the folder for checkpoints.
        record: settings, and position to start from; kept up to date while the run goes on.
        checkpoint_seconds: training time between two checkpoints. More, if writing one takes over a tenth of
            it.
        validation_seconds: training time between two validations on a part of the held-out text.
    """

    model: torch.nn.Module
    windows: Windows
    optimizer: Any
    vocabulary: Vocabulary
    held_out: np.ndarray
    set_aside: list[np.ndarray]
    count: Callable[..., ContextTables] | None
    count_beside: Callable[[Belief, Callable[[], bool]], beside.BesideWindows | None]
    writer: CheckpointWriter
    record: Record
    checkpoint_seconds: float = 30.0
    validation_seconds: float = 10.0
    _counted: ContextTables | None = field(default=None, init=False, repr=False)
    _beyond: float = field(default=0.0, init=False, repr=False)
    _validated: float = field(default=0.0, init=False, repr=False)
    _saved: float = field(default=0.0, init=False, repr=False)
    _sample: np.ndarray | None = field(default=None, init=False, repr=False)

    @classmethod
    def begin(
        cls,
        record: Record,
        data: np.ndarray,
        writer: CheckpointWriter,
        model: torch.nn.Module | None = None,
        device: str = "cpu",
        **intervals: float,
    ) -> Run:
        """A new run: its settings, the whole text (N,) uint8, and a writer that was opened for a new run.

        ``model`` is what to begin with, of the configuration in the record; None: one that has learnt nothing. It
        computes on ``device``; checkpoints do not tell on which.

        Raises:
            InputError: the model does not fit into memory, or no window into the text.
        """
        if model is None:
            config = models.config_from_dict(record.model)
            require_room(config, record.preset)
            model = models.build(config, seed=record.training.seed)
        return cls._of(record, model.to(device), data, writer, intervals)

    @classmethod
    def resume(cls, data: np.ndarray, writer: CheckpointWriter, device: str = "cpu", **intervals: float) -> Run:
        """The run whose checkpoint is in the folder of a writer that was opened to resume.

        ``data`` must be the text it was begun with; compare its SHA-256 with the record's.

        Raises:
            InputError: the checkpoint cannot be used.
        """
        checkpoint = open_checkpoint(writer.directory)
        run = cls._of(checkpoint.record, checkpoint.load_model().to(device), data, writer, intervals)
        checkpoint.load_optimizer(run.optimizer)
        return run

    @classmethod
    def _of(
        cls,
        record: Record,
        model: torch.nn.Module,
        data: np.ndarray,
        writer: CheckpointWriter,
        intervals: dict[str, float],
    ) -> Run:
        training = record.training
        vocabulary = Vocabulary(bytes(record.vocabulary))
        holdout = hold_out(data.size, record.corpus.holdout, record.corpus.holdout_fraction)
        optimizer = optim.attach(
            model,
            "online_sgd" if training.update == "online" else training.optimizer,
            visit_cap=training.visit_cap,
            drop=training.drop,
            members=training.members,
        )
        return cls(
            model=model,
            windows=windows_of(record, data),
            optimizer=train_only_part(optimizer, model, record),
            vocabulary=vocabulary,
            held_out=vocabulary.encode(holdout.held_out_of(data)),
            set_aside=[
                vocabulary.encode(data[start:end])
                for start, end in set_aside(holdout.training, training.calibration)[1]
            ],
            count=functools.partial(count_contexts, record, data) if training.contexts else None,
            count_beside=functools.partial(windows_beside, record, data),
            writer=writer,
            record=record,
            **intervals,
        )

    def events(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Train to the end of the budget, save, then validate on all of the held-out text.

        A fresh run saves before its first step: a folder that cannot be written is noticed at once. When
        ``should_stop()`` the run saves and ends with `Interrupted`. Closing the generator saves as well.

        Raises:
            InputError: the training diverged, or the first or the last checkpoint cannot be written. One in
                between that cannot be written is reported and tried again later.
        """
        if self.record.position.step == 0:
            yield self._save()
        try:
            yield from self._train(should_stop)
        except GeneratorExit:
            self._save()
            raise
        yield self._save()
        if self._progress < 1 or should_stop():
            yield Interrupted(self.record.position.step)
            return
        step = self.record.position.step
        for so_far in score_progressively(self.model, self.held_out, self.vocabulary):
            yield ValidationReport(step, so_far, of_bytes=self.held_out.size - 1, final=True)
            if should_stop():
                yield Interrupted(step)
                return
        metrics = {"val_nats_per_byte": so_far.nats_per_byte, "val_bytes": so_far.n_bytes}
        self._note(metrics=self.record.metrics.model_copy(update=metrics))
        yield self._save()
        yield Finished(
            step=step,
            seconds=self.record.position.seconds,
            n_bytes=step * self.windows.bytes_per_batch,
            score=so_far,
        )

    @property
    def _progress(self) -> float:
        position = self.record.position
        return self.record.training.budget.progress(position.step, position.seconds)

    def _train(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        start, budget = self.record.position, self.record.training.budget
        seconds = start.seconds
        if self._progress < 1:
            began = time.perf_counter()
            self._contexts()
            if start.step == 0:  # a resumed run counts once more; the time was paid for at its first start
                seconds += time.perf_counter() - began
                if budget.seconds is not None:  # of which counting may take all: a run makes one step at least
                    limit = _MOST_COUNTING * budget.seconds
                    self._beyond, seconds = max(0.0, seconds - limit), min(seconds, limit)
        self._validated = self._saved = seconds
        alone = 1 - self.record.training.beside
        no_time_left = alone < 1 and start.step == 0 and budget.progress(0, seconds) >= alone
        if no_time_left:  # nothing was trained that could stand beside
            alone = 1.0
            yield BesideReport(0, done=False)
            self._note(training=self.record.training.model_copy(update={"beside": 0.0, "parts": 0}))
        if self.record.beside is None:
            schedule = self.record.training.schedule
            yield from self._stage(self.windows, schedule, seconds, alone, should_stop, **self._plasticity())
        if alone <= self._progress < 1 and not should_stop():
            yield from self._train_beside(should_stop)

    def _train_beside(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """The rest of the budget; if it has begun before, what stands beside is counted once more."""
        yield BesideReport(self.record.position.step)
        training, position, began = self.record.training, self.record.position, time.perf_counter()
        if self.record.beside is None:
            pieces = self._blended_on(_LEAST_BLENDED)  # all is fitted anew at the end
            belief = belief_in(self.model, self._contexts(), pieces, recent=training.recent)
        else:
            belief = _belief_of(self.record.beside)
        windows = self.count_beside(belief, should_stop)
        if windows is None:
            return
        seconds = position.seconds
        if self.record.beside is None:
            scale_readout(self.model, belief.scale)
            seconds += time.perf_counter() - began
            self._note(position=position.model_copy(update={"seconds": seconds}))
            if self._progress == 1:
                return
            cells = None if belief.cells is None else belief.cells.flatten().tolist()
            self._note(beside=BesideRecord(progress=self._progress, scales=belief.depths, cells=cells))
        schedule = Schedule(peak=beside.RATE * training.rate, begin=self.record.beside.progress)
        yield from self._stage(windows, schedule, seconds, 1.0, should_stop)

    def _stage(
        self,
        windows: Windows,
        schedule: Any,
        seconds: float,
        until: float,
        should_stop: Callable[[], bool],
        **more: Any,
    ) -> Iterator[Event]:
        """Steps until so much of the budget is used up; validation and checkpoints in between."""
        save_after = self.checkpoint_seconds
        for report in train_steps(
            self.model,
            windows,
            self.optimizer,
            schedule,
            self.record.training.budget,
            step=self.record.position.step,
            seconds=seconds,
            report_seconds=min(_REPORT_SECONDS, self.checkpoint_seconds),
            should_stop=should_stop,
            until=until,
            **more,
        ):
            self._note(
                position=PositionRecord(step=report.step, seconds=report.seconds),
                metrics=MetricsRecord(train_nats_per_byte=report.nats_per_byte),
            )
            yield report
            if report.progress == 1 or should_stop():
                continue  # what comes after the last report saves and validates
            if report.seconds - self._validated >= self.validation_seconds:
                if self._sample is None:
                    affordable = int(_SAMPLE_PART * self.validation_seconds * report.bytes_per_second)
                    n_bytes = min(max(affordable, _SAMPLE_LIMITS[0]), _SAMPLE_LIMITS[1])
                    self._sample = spread_sample(self.held_out, n_bytes)
                self._validated = report.seconds
                part = self._score_part(self._sample)
                yield ValidationReport(report.step, part, of_bytes=self.held_out.size - 1, final=False)
            if report.seconds - self._saved >= save_after:
                self._saved = report.seconds
                began = time.perf_counter()
                try:
                    outcome = self._save()
                except InputError as error:
                    outcome = CheckpointReport(report.step, self.writer.directory, problem=str(error))
                save_after = max(self.checkpoint_seconds, (time.perf_counter() - began) / _SAVING_PART)
                yield outcome

    def _plasticity(self) -> dict[str, Any]:
        every = self.record.training.rewire
        return {} if every is None else {"after_step": Rewiring(self.model, self.windows, every)}

    def _contexts(self) -> ContextTables | None:
        """Counted once; None where the model is to have none."""
        if self.count is None:
            return None
        if self._counted is None:
            self._counted = self.count()
        return self._counted

    def _score_part(self, sample: np.ndarray) -> Score:
        """What a part of the held-out text would cost if the training ended here."""
        contexts = self._contexts()
        if contexts is None or not self.set_aside:
            return score(self.model, sample, self.vocabulary)
        pieces = [piece[:_BLEND_PIECE] for piece in self.set_aside]
        with blended(self.model, contexts, pieces, recent=self.record.training.recent):
            return score(self.model, sample, self.vocabulary)

    def _blended_on(self, at_most: int | None = None) -> list[np.ndarray]:
        """Of what is set aside as much as there is time to look at, or ``at_most`` so many bytes."""
        n_bytes = at_most or bytes_fitted(self.record.training.calibration, self.record.training.seconds)
        return [piece[: n_bytes // len(self.set_aside)] for piece in self.set_aside]

    def _calibrate(self) -> dict[str, float]:
        contexts = self._contexts()
        if contexts is None:
            return {"readout_scale": calibrate(self.model, self.set_aside)}
        belief = belief_in(self.model, contexts, self._blended_on(), recent=self.record.training.recent)
        if self.record.training.parts:  # there is time to count once more; what was set aside has done its duty
            contexts = self._counted = None  # their memory goes before there are others
            contexts = self.count(whole=True)
        join(self.model, contexts, belief)
        return {"readout_scale": belief.scale, "context_scales": belief.depths}

    def _note(self, **fields: Any) -> None:
        self.record = self.record.model_copy(update=fields)

    def _save(self) -> CheckpointReport:
        metrics = self.record.metrics
        if self._progress >= 1 and self.set_aside and metrics.readout_scale is None:
            began, position = time.perf_counter(), self.record.position
            self._note(metrics=metrics.model_copy(update=self._calibrate()))
            self._note(model=self.model.config.to_dict())
            # That is training, too, and so is what counting took beyond the budget.
            seconds = position.seconds + self._beyond + time.perf_counter() - began
            self._note(position=position.model_copy(update={"seconds": seconds}))
        self.writer.save(self.record, checkpoint_tensors(self.model, self.optimizer))
        return CheckpointReport(self.record.position.step, self.writer.directory)


def bytes_fitted(n_aside: int, seconds: float | None) -> int:
    """Of so many bytes that are set aside those that a run of so many seconds, None: of steps, looks at in the end.

    Example:
        >>> bytes_fitted(65_536, 3), bytes_fitted(65_536, 30), bytes_fitted(65_536, 600), bytes_fitted(65_536, None)
        (16384, 33000, 65536, 65536)
    """
    return n_aside if seconds is None else min(n_aside, max(_LEAST_BLENDED, int(_BLENDED_PER_SECOND * seconds)))


def windows_of(record: Record, data: np.ndarray) -> Windows:
    """The windows that a run trains on, of its text (N,) uint8.

    Raises:
        InputError: the text is too short for them.
    """
    training = record.training
    holdout = hold_out(data.size, record.corpus.holdout, record.corpus.holdout_fraction)
    tokens = Vocabulary(bytes(record.vocabulary)).encode(data)
    segments, _ = set_aside(holdout.training, training.calibration)
    return Windows(tokens, segments, length=training.length, batch=training.batch, seed=training.seed)


def count_contexts(record: Record, data: np.ndarray, *, whole: bool = False) -> ContextTables:
    """Tables of the contexts in what a run trains on, of its text (N,) uint8; ``whole``: and in what is set aside."""
    return ContextTables.of_text(*_counted(record, data, whole=whole), record.training.contexts)


def windows_beside(
    record: Record, data: np.ndarray, belief: Belief, should_stop: Callable[[], bool]
) -> beside.BesideWindows | None:
    """The windows of a run's last part, of its text (N,) uint8, with what counted tables add; None: it is to stop."""
    training = record.training
    return beside.windows_beside(
        *_counted(record, data), training.contexts, belief, training.parts, should_stop,
        length=training.length, batch=training.batch, seed=training.seed,
    )  # fmt: skip


def stretches_counted(holdout: Holdout, calibration: int, counted: int) -> tuple[tuple[int, int], ...]:
    """What a run counts of a text: at most ``counted`` bytes of what is trained on."""
    return spread(set_aside(holdout.training, calibration)[0], counted, COUNTED_STRETCHES)


def _counted(
    record: Record, data: np.ndarray, *, whole: bool = False
) -> tuple[np.ndarray, list[tuple[int, int]], torch.Tensor]:
    """What is counted: symbols (N,), the segments in them, and the byte of each symbol."""
    training = record.training
    vocabulary = Vocabulary(bytes(record.vocabulary))
    holdout = hold_out(data.size, record.corpus.holdout, record.corpus.holdout_fraction)
    counted = stretches_counted(holdout, 0 if whole else training.calibration, training.counted)
    ends = [0, *itertools.accumulate(end - start for start, end in counted)]
    text = vocabulary.encode(np.concatenate([data[start:end] for start, end in counted]))
    return text, list(itertools.pairwise(ends)), bytes_of_symbols(bytes(vocabulary.byte_values))


def _belief_of(record: BesideRecord) -> Belief:
    """As it was found; the factor of the trained logits is in the rows already."""
    cells = None if record.cells is None else torch.tensor(record.cells).reshape(CELLS_SHAPE)
    return Belief(1.0, record.scales, cells)


def require_room(config: Any, preset: str) -> None:
    """Raise InputError if a model's parameters do not fit into memory."""
    n_parameters = config.n_parameters()
    require_memory(
        config.number_bytes * n_parameters,
        f"the {n_parameters:,} parameters of {config.kind} {preset}",
        "take a smaller --preset",
    )
