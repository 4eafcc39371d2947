"""``polychron train-classifier`` and ``polychron classify``: put a run together, show what it does and how well."""

from __future__ import annotations

import contextlib
import itertools
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from polychron.cli.choices import recorded_minutes, require_minutes
from polychron.cli.console import (
    LOG_SECONDS,
    StatusLine,
    counted,
    duration,
    make_console,
    print_json,
    say,
    variant_words,
    warn,
)
from polychron.cli.signals import signals_noted
from polychron.data.examples import load_labelled
from polychron.data.labelled import LabelledSet
from polychron.errors import InputError
from polychron.export.integer_classifier import IntegerClassifier, accuracy
from polychron.models.deep import DeepConfig, classifier_preset, deep_config_from_dict
from polychron.models.variants import with_variant
from polychron.training.checkpoint_writer import CheckpointWriter
from polychron.training.classify import (
    ClassifierCheckpoint,
    ClassifierEvent,
    ClassifierFinished,
    ClassifierRecord,
    ClassifierRun,
    ClassifierScore,
    ClassifierTrainingRecord,
    DataRecord,
    open_classifier,
    score_classifier,
)
from polychron.training.records import storable
from polychron.training.run import CheckpointReport
from polychron.training.steps import StepReport

_WIDEST_MATRIX = 20  # classes; more would not fit a line


def run_train_classifier(
    data: str | None,
    settings: dict[str, Any],
    *,
    out: Path | None,
    resume: bool,
    threads: int | None,
    json: bool,
) -> int:
    """Train and return the exit code: 0, or 128 + the signal that stopped the run.

    ``settings`` holds preset, minutes, steps, batch, rate, seed, optimizer, augment, counts, and the variant's hash,
    reading, gradient, bins, anchors; None where nothing was given.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if resume:
        if out is None:
            raise InputError("--resume needs --out DIR: the folder of the checkpoint to go on with")
        record = open_classifier(out).record
        _refuse_contradictions(record, settings, out)
        labelled = _recorded_set(record, data)
    else:
        labelled = load_labelled(data, images=settings["augment"] not in (None, "none"))
        record = _new_record(labelled, settings)
    directory = out or _fresh_directory(record)

    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(CheckpointWriter(directory, resume=resume, kind=ClassifierRecord))
        run = ClassifierRun.resume(labelled, writer) if resume else ClassifierRun.begin(record, labelled, writer)
        view = stack.enter_context(_View(json))
        view.begin(run)
        with signals_noted() as signals, contextlib.closing(run.events(lambda: bool(signals))) as events:
            for event in events:
                view.show(event)
        if isinstance(event, ClassifierFinished):
            view.end(run, event)
            return 0
    print(
        f"stopped at step {event.step:,}, saved in {directory}. "
        f"To go on: polychron train-classifier --resume --out {shlex.quote(str(directory))}",
        file=sys.stderr,
    )
    return 128 + signals[0]


def run_classify(directory: Path, data: str | None, *, threads: int | None, json: bool) -> None:
    """Score a trained classifier on the test part of what it learnt from, or of other data."""
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = open_classifier(directory)
    record = checkpoint.record
    labelled = load_test_set(checkpoint, data)
    names = tuple(record.data.class_names)
    score = score_classifier(checkpoint.load_model(), labelled.test_inputs, labelled.test_labels, len(names))
    if json:
        print_json(_score_fields(score, names))
        return
    console = make_console()
    say(console, f"{labelled.source}: {score.n_examples:,} test examples")
    for line in score_lines(score, names):
        say(console, line)


def score_integers(directory: Path, integers: IntegerClassifier) -> dict[str, Any]:
    """Accuracy on the recorded test part, of the float model and of its int8 one; or why it was not measured."""
    checkpoint = open_classifier(directory)
    try:
        labelled = _recorded_set(checkpoint.record, None)
    except InputError as error:
        return {"not_measured": str(error)}
    n_classes = len(checkpoint.record.data.class_names)
    before = score_classifier(checkpoint.load_model(), labelled.test_inputs, labelled.test_labels, n_classes)
    return {
        "test_examples": before.n_examples,
        "test_accuracy_before": before.accuracy,
        "test_accuracy": accuracy(integers, labelled.test_inputs, labelled.test_labels),
    }


def load_test_set(checkpoint: ClassifierCheckpoint, data: str | None) -> LabelledSet:
    """What a classifier learnt from, or other data that it can read.

    Raises:
        InputError: it is not there, has changed, or is of another size.
    """
    if data is None:
        return _recorded_set(checkpoint.record, None)
    labelled = load_labelled(data)
    if labelled.n_inputs != checkpoint.config.n_pixels or labelled.test_labels.max() >= checkpoint.config.n_classes:
        raise InputError(
            f"{labelled.source}: the classifier wants {checkpoint.config.n_pixels} inputs and up to "
            f"{checkpoint.config.n_classes} classes; got {labelled.n_inputs} and {len(labelled.class_names)}"
        )
    return labelled


def _new_record(labelled: LabelledSet, settings: dict[str, Any]) -> ClassifierRecord:
    """The record of a run that has not begun: what was given, and defaults for the rest."""
    if settings["minutes"] is not None and settings["steps"] is not None:
        raise InputError("--minutes and --steps exclude each other: a run ends after the one or the other")
    require_minutes(settings["minutes"])
    rate = settings["rate"]
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise InputError(f"--rate must be positive and finite; got {rate:g}")
    augment = settings["augment"]
    if augment not in (None, "none") and not labelled.height:
        raise InputError(f"--augment {augment} moves images about, and {labelled.source} has none: leave it out")
    name = settings["preset"] or ("small" if len(labelled.train_labels) >= 20_000 else "tiny")
    preset = classifier_preset(name)
    fields = {"n_pixels": labelled.n_inputs, "n_classes": len(labelled.class_names), "width": labelled.width}
    fields |= preset.fields
    counts = bool(settings["counts"])
    if counts:
        for option in ("minutes", "steps", "batch", "rate", "optimizer", "augment"):
            if settings[option] is not None:
                raise InputError(f"--counts reads every example once and has no --{option}: leave it out")
        settings, augment = {**settings, "steps": 1, "batch": len(labelled.train_labels)}, "none"
        fields["n_layers"] = 0
    config = with_variant(
        DeepConfig(**fields), hash=settings["hash"], reading=settings["reading"], gradient=settings["gradient"],
        n_bins=settings["bins"], anchors=settings["anchors"],
    )  # fmt: skip
    _require_pairs(config, labelled)
    if counts and not config.is_native:
        raise InputError("--counts fills the paper's readout: leave --hash, --reading and --gradient out")
    if augment is None:
        augment = ("shift+mirror" if labelled.mirrors else "shift") if labelled.height else "none"
    minutes = 1.0 if settings["minutes"] is None else settings["minutes"]
    return ClassifierRecord(
        model=config.to_dict(),
        preset=name,
        data=DataRecord(
            name=labelled.name,
            data=storable(labelled.path or labelled.name),
            sha256=labelled.sha256,
            n_train=len(labelled.train_labels),
            n_test=len(labelled.test_labels),
            class_names=list(labelled.class_names),
        ),
        training=ClassifierTrainingRecord(
            seed=settings["seed"] or 0,
            batch=settings["batch"] or min(preset.batch, len(labelled.train_labels)),
            rate=settings["rate"] or preset.rate,
            warmup_steps=preset.warmup_steps,
            optimizer=settings["optimizer"] or "sgd",
            augment=augment,
            counts=counts,
            steps=settings["steps"],
            seconds=None if settings["steps"] is not None else 60 * minutes,
        ),
    )


def _require_pairs(config: DeepConfig, labelled: LabelledSet) -> None:
    """Raises InputError if examples are too short for the comparisons that a table makes."""
    wanted = max(config.n_comparisons if config.n_layers else 0, config.readout_n_comparisons)
    n_pairs = math.comb(labelled.n_inputs, 2)
    if config.anchors == "sensory" and n_pairs < wanted:
        raise InputError(
            f"{labelled.source}: {labelled.n_inputs} numbers an example form {counted(n_pairs, 'pair')}, and a table "
            f"compares {wanted}: give examples of more numbers, or --anchors random"
        )


def _refuse_contradictions(record: ClassifierRecord, settings: dict[str, Any], out: Path) -> None:
    training = record.training
    minutes = recorded_minutes(training.seconds, settings["minutes"])
    config = deep_config_from_dict(record.model)
    recorded = {
        **training.model_dump(), **config.variant, "preset": record.preset, "minutes": minutes, "bins": config.n_bins,
        "anchors": config.anchors,
    }  # fmt: skip
    for name, value in settings.items():
        if value is not None and value != recorded[name]:
            raise InputError(
                f"--{name} {value} contradicts the run in {out}: a resumed run keeps its settings, so leave it out"
            )


def _recorded_set(record: ClassifierRecord, data: str | None) -> LabelledSet:
    """The examples that a classifier was trained on.

    Raises:
        InputError: they are not there, or are not the same any more.
    """
    labelled = load_labelled(data or record.data.data, images=record.training.augment != "none")
    if labelled.sha256 != record.data.sha256:
        raise InputError(f"{labelled.source} is not what the classifier was trained on: it has changed since then")
    return labelled


def _fresh_directory(record: ClassifierRecord) -> Path:
    """``runs/<data>-<preset>-<n>`` with the first n that is not taken."""
    stem = f"{record.data.name}-deep-{record.preset}"
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{stem}-{n}").exists())


class _View:
    """A run for a person, or for a program as a JSON object a line."""

    def __init__(self, json: bool) -> None:
        self._json = json
        self._console = make_console()
        self._status = StatusLine(self._console)
        self._logged = 0.0

    def __enter__(self) -> _View:
        if not self._json:
            self._status.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.__exit__()

    def begin(self, run: ClassifierRun) -> None:
        record, config = run.record, run.model.config
        training = record.training
        self._logged = record.position.seconds
        if self._json:
            print_json(
                {
                    "event": "start",
                    "data": record.data.name,
                    "train_examples": record.data.n_train,
                    "test_examples": record.data.n_test,
                    "preset": record.preset,
                    "model": record.model,
                    "parameters": config.n_parameters(),
                    "training": training.model_dump(),
                    "threads": torch.get_num_threads(),
                    "checkpoint": str(run.writer.directory),
                }
            )
            return
        self._say(
            "data", f"{run.labelled.source}: {record.data.n_train:,} to learn from, {record.data.n_test:,} to test"
        )
        self._say(
            "model",
            f"deep {record.preset}: {config.n_neurons} neurons, residual layers: {config.n_layers}, "
            f"{config.n_parameters():,} parameters" + variant_words(config.hash, config.reading, config.gradient),
        )
        threads = counted(torch.get_num_threads(), "thread")
        if training.counts:
            self._say("counting", f"every example once, seed {training.seed}, {threads}")
            return
        self._say(
            "training",
            f"{training.optimizer}, rate {training.rate:g}, {training.batch} examples a step, augment "
            f"{training.augment}, seed {training.seed}, {threads}",
        )

    def show(self, event: ClassifierEvent) -> None:
        if isinstance(event, CheckpointReport) and event.problem is not None:
            if self._json:
                print_json({"event": "warning", "step": event.step, "problem": event.problem})
            else:
                warn(event)
        if not isinstance(event, StepReport):
            return
        if self._json:
            print_json(
                {
                    "event": "training",
                    "step": event.step,
                    "train_seconds": event.seconds,
                    "train_examples": event.n_bytes,
                    "train_nats": event.nats_per_byte,
                    "progress": event.progress,
                }
            )
            return
        line = (
            f"{event.progress:4.0%}  {event.bytes_per_second:,.0f} examples/s  "
            f"training loss {event.nats_per_byte:.4f} nats  {duration(event.seconds_left)} left"
        )
        self._status.show(line)
        if not self._status.shown and event.seconds - self._logged >= LOG_SECONDS:
            self._logged = event.seconds
            say(self._console, line)

    def end(self, run: ClassifierRun, finished: ClassifierFinished) -> None:
        self._status.__exit__()
        names = tuple(run.record.data.class_names)
        if self._json:
            print_json(
                {
                    "event": "result",
                    **_score_fields(finished.score, names),
                    "steps": finished.step,
                    "train_seconds": finished.seconds,
                    "train_examples": finished.n_examples,
                    "train_nats": run.record.metrics.train_nats,
                    "parameters": run.model.n_parameters(),
                    "seed": run.record.training.seed,
                    "checkpoint": str(run.writer.directory),
                }
            )
            return
        say(self._console, "")
        for line in score_lines(finished.score, names):
            say(self._console, line)
        say(self._console, "")
        self._say(
            "trained",
            f"{finished.n_examples:,} examples in {duration(finished.seconds)} "
            f"({finished.n_examples / max(finished.seconds, 1e-9):,.0f} a second)",
        )
        self._say("checkpoint", str(run.writer.directory))
        self._say("test again", f"polychron classify {shlex.quote(str(run.writer.directory))}")

    def _say(self, title: str, line: str) -> None:
        say(self._console, f"{title:<16}{line}")


def score_lines(score: ClassifierScore, names: tuple[str, ...]) -> list[str]:
    """Confusion matrix, figures of each class, accuracy."""
    width = max(7, *(len(name) for name in names)) + 2
    lines = []
    if len(names) <= _WIDEST_MATRIX:
        cell = max(5, len(str(score.confusion.max())) + 1)
        lines.append("confusion: a line is a class, its columns what the examples were taken for")
        lines.append(" " * width + "".join(f"{name[: cell - 1]:>{cell}}" for name in names))
        for name, row in zip(names, score.confusion.tolist(), strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{count or '.':>{cell}}" for count in row))
        lines.append("")
    lines.append(f"{'class':<{width}}{'precision':>10}{'recall':>10}{'F1':>10}{'examples':>10}")
    counts = score.confusion.sum(axis=1).tolist()
    for name, *figures, count in zip(names, score.precision, score.recall, score.f1, counts, strict=True):
        lines.append(f"{name:<{width}}" + "".join(f"{figure:>10.3f}" for figure in figures) + f"{count:>10,}")
    lines.append("")
    lines.append(
        f"accuracy {score.accuracy:.4f}: {score.n_correct:,} of {score.n_examples:,} test examples, "
        f"{score.nats:.4f} nats"
    )
    return lines


def _score_fields(score: ClassifierScore, names: tuple[str, ...]) -> dict[str, Any]:
    per_class = [
        {"class": name, "precision": p, "recall": r, "f1": f, "examples": n}
        for name, p, r, f, n in zip(
            names, score.precision.tolist(), score.recall.tolist(), score.f1.tolist(),
            score.confusion.sum(axis=1).tolist(), strict=True,
        )
    ]  # fmt: skip
    return {
        "test_accuracy": score.accuracy,
        "test_correct": score.n_correct,
        "test_examples": score.n_examples,
        "test_nats": score.nats,
        "classes": per_class,
        "confusion": score.confusion.tolist(),
    }
