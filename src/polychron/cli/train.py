"""``polychron train``: put a run together, show what it does, end it well."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from polychron import models
from polychron.cli.choices import recorded_minutes, require_minutes
from polychron.cli.console import JsonView, TerminalView, resume_command
from polychron.cli.evaluate import load_recorded_corpus
from polychron.cli.signals import signals_noted
from polychron.cli.unfinished import note_unfinished
from polychron.data import Corpus, Vocabulary, hold_out, load_corpus
from polychron.data.holdout import set_aside
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.ops.dispatch import native
from polychron.runtime.options import USUAL
from polychron.runtime.sampling import Sampler, generate
from polychron.runtime.stream import Stream
from polychron.training import beside
from polychron.training.begin_from import grown_model, start_record
from polychron.training.blend import COUNTED_PER_TRAINED, LEAST_COUNTED, MOST_COUNTED, fitting_bytes
from polychron.training.checkpoint import Checkpoint, open_checkpoint
from polychron.training.checkpoint_writer import CheckpointWriter
from polychron.training.records import MOST_BESIDE, CorpusRecord, Record, TrainingRecord, storable
from polychron.training.run import (
    Event,
    Finished,
    Run,
    ValidationReport,
    bytes_fitted,
    require_room,
    stretches_counted,
    windows_of,
)
from polychron.training.schedule import ReferenceSchedule
from polychron.training.steps import StepReport

_DEFAULT_MODEL = "delay"
_SAMPLE_BYTES = 400
# A GPU trains on about so many times as many bytes a minute as two cores do, for which presets give their defaults.
_GPU_SPEED = 12


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the outcome of a run, as given on the command line; None where nothing was given.

    A resumed run takes all of it from its checkpoint.
    """

    model: str | None = None
    preset: str | None = None
    minutes: float | None = None
    steps: int | None = None
    batch: int | None = None
    length: int | None = None
    seed: int | None = None
    rate: float | None = None
    drop: float | None = None
    members: int | None = None
    calibration: int | None = None
    contexts: int | None = None
    recent: bool | None = None
    beside: float | None = None
    optimizer: str | None = None
    update: str | None = None
    schedule: str | None = None
    hash: str | None = None
    reading: str | None = None
    gradient: str | None = None
    bins: int | None = None
    anchors: str | None = None
    max_delay: int | None = None
    tables: str | None = None
    holdout: str | None = None
    holdout_fraction: float | None = None
    start: str | None = None
    add_tables: int | None = None
    add_comparisons: int | None = None
    only: str | None = None
    rewire: int | None = None

    def given(self) -> dict[str, Any]:
        """Those that were given."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def run_train(
    text: Path | None,
    settings: Settings,
    *,
    out: Path | None,
    resume: bool,
    threads: int | None,
    device: str,
    checkpoint_seconds: float,
    json: bool,
    tensorboard: bool,
) -> int:
    """Train and return the exit code: 0, or 128 + the signal that stopped the run."""
    if threads is not None:
        torch.set_num_threads(threads)
    if math.isnan(checkpoint_seconds):
        raise InputError("--checkpoint-seconds must be a number of seconds; got nan")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda needs a GPU that torch can use, and torch sees none here: leave it out")
    record, corpus, model = _recorded_run(text, settings, out) if resume else _new_run(text, settings, device)
    if device != "cpu" and record.training.rewire is not None:
        raise InputError(f"--rewire works on the CPU; the device is {device}: leave one of them out")
    directory = out or _fresh_directory(record)

    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(CheckpointWriter(directory, resume=resume))
        if resume:
            run = Run.resume(corpus.data, writer, device, checkpoint_seconds=checkpoint_seconds)
        else:
            run = Run.begin(record, corpus.data, writer, model, device, checkpoint_seconds=checkpoint_seconds)
        scalars = stack.enter_context(_Scalars(directory)) if tensorboard else None
        view = stack.enter_context(JsonView() if json else TerminalView())
        view.begin(_facts(run, corpus))
        with signals_noted() as signals, contextlib.closing(run.events(lambda: bool(signals))) as events:
            for event in events:
                view.show(event)
                if scalars is not None:
                    scalars.add(event)
        if isinstance(event, Finished):
            view.end(_sample(run), _result(run, event))
            return 0
    print(
        f"stopped at step {event.step:,}, saved in {directory}. To go on: {resume_command(directory, device)}",
        file=sys.stderr,
    )
    note_unfinished(directory)
    return 128 + signals[0]


def _new_run(text: Path | None, settings: Settings, device: str) -> tuple[Record, Corpus, torch.nn.Module | None]:
    """Of a run that has not begun: its record, by what was given and defaults; its text; the model it begins with."""
    start = _start(settings)
    speed = _GPU_SPEED if device == "cuda" else 1
    if start is None:
        kind = settings.model or _DEFAULT_MODEL
        preset = settings.preset or models.default_preset(kind, speed * _or(settings.minutes, 1.0))
    else:
        kind, preset = start.record.model["kind"], start.record.preset
    if settings.minutes is not None and settings.steps is not None:
        raise InputError("--minutes and --steps exclude each other: a run ends after the one or the other")
    require_minutes(settings.minutes)
    if settings.rate is not None and not (math.isfinite(settings.rate) and settings.rate > 0):
        raise InputError(f"--rate must be positive and finite; got {settings.rate:g}")
    if settings.schedule == "reference" and settings.rate is not None:
        raise InputError("--schedule reference sets the rate by the number of windows: leave --rate out")
    if settings.drop is not None and not 0 <= settings.drop < 1:
        raise InputError(f"--drop must be at least 0 and below 1; got {settings.drop:g}")
    if settings.rewire is not None and settings.only is not None:
        raise InputError("--rewire and --only exclude each other: rows of a replaced comparison are merged")
    if settings.calibration and settings.only is not None:
        raise InputError("--calibration and --only exclude each other: calibration changes every row of the readout")
    if settings.update == "online" and kind != "transformer":
        raise InputError(f"--update online is the transformer's; the model is {kind}: add --model transformer")
    if settings.update == "online" and settings.optimizer not in (None, "sgd"):
        raise InputError(f"--update online is plain gradient descent: leave --optimizer {settings.optimizer} out")
    defaults = models.training_defaults(kind, preset)

    corpus = load_corpus(text)
    holdout = settings.holdout or "blocks"
    fraction = 0.1 if settings.holdout_fraction is None else settings.holdout_fraction
    segments = hold_out(corpus.data.size, holdout, fraction)
    vocabulary = Vocabulary.of(*segments.training_of(corpus.data))
    model = None
    variant = {
        "hash": settings.hash, "reading": settings.reading, "gradient": settings.gradient, "n_bins": settings.bins,
        "anchors": settings.anchors, "max_delay": settings.max_delay, "table_type": settings.tables,
    }  # fmt: skip
    minutes = _or(settings.minutes, 1.0)
    batch, length = _or(settings.batch, defaults.batch), _or(settings.length, defaults.length)
    n_bytes = (
        60 * speed * minutes * defaults.bytes_per_second if settings.steps is None else settings.steps * batch * length
    )
    n_text = sum(end - start for start, end in segments.training)
    if start is None:
        members = _or(settings.members, defaults.members_for(n_bytes, n_text))
        config = models.with_variant(models.preset(kind, preset, vocabulary.size), **variant)
        config = models.with_members(config, members)
    else:
        members = _or(settings.members, 1)
        if any(value is not None for value in variant.values()):
            raise InputError(
                "a model that goes on keeps its layers: leave --hash, --tables and their like out of --from"
            )
        vocabulary = Vocabulary(bytes(sorted({*vocabulary.byte_values, *start.vocabulary.byte_values})))
        add_tables, add_comparisons = settings.add_tables or 0, settings.add_comparisons or 0
        model = grown_model(start, vocabulary, add_tables, add_comparisons, _or(settings.seed, 0))
        config = model.config
        models.check_members(config, members)
    if settings.rewire is not None and not config.is_native:
        raise InputError(
            "--rewire replaces comparisons of the paper's layer: leave --hash, --reading and --gradient out"
        )
    if settings.update == "online" and not config.is_native:
        raise InputError("--update online is the paper's layer alone: leave --hash, --reading and --gradient out")
    contexts, calibration = _contexts_and_calibration(settings, kind, defaults, n_bytes, n_text, vocabulary)
    if calibration and not set_aside(segments.training, calibration)[1]:
        raise InputError(
            f"--calibration {calibration} sets nothing of this text aside: it takes four or eight stretches, each of "
            "two bytes at least and at most a quarter of a piece of text between what is held out"
        )
    counted = min(MOST_COUNTED, max(LEAST_COUNTED, int(COUNTED_PER_TRAINED * n_bytes))) if contexts else 0
    stretches = stretches_counted(segments, calibration, counted) if contexts else ()
    share, parts = _beside(settings, n_bytes / speed / defaults.bytes_per_second, stretches, length, vocabulary.size)
    merges_sgd = settings.optimizer in (None, "sgd") and settings.update in (None, "batch")
    rate = defaults.rate_for(_or(settings.optimizer, "sgd"))
    record = Record(
        model=config.to_dict(),
        preset=preset,
        vocabulary=list(vocabulary.byte_values),
        corpus=CorpusRecord(
            name=corpus.name,
            path=None if corpus.path is None else storable(corpus.path),
            sha256=corpus.sha256,
            bytes=corpus.data.size,
            holdout=holdout,
            holdout_fraction=fraction,
        ),
        training=TrainingRecord(
            seed=_or(settings.seed, 0),
            batch=batch,
            length=length,
            rate=ReferenceSchedule().peak if settings.schedule == "reference" else _or(settings.rate, rate),
            warmup_steps=defaults.warmup_steps,
            rate_schedule=_or(settings.schedule, "linear"),
            visit_cap=defaults.visit_cap if merges_sgd else None,
            drop=_or(settings.drop, defaults.drop_for(n_bytes, n_text, members)),
            members=members,
            calibration=calibration,
            contexts=contexts,
            recent=contexts > 0 and settings.recent is not False,
            beside=share,
            parts=parts,
            counted=counted,
            optimizer=_or(settings.optimizer, "sgd"),
            update=_or(settings.update, "batch"),
            only=settings.only,
            rewire=settings.rewire,
            steps=settings.steps,
            seconds=60 * minutes if settings.steps is None else None,
        ),
        start=None if start is None else start_record(start, add_tables, add_comparisons),
    )
    # Refused here, before a folder is made.
    require_room(config, preset)
    windows_of(record, corpus.data)
    return record, corpus, model


def _contexts_and_calibration(
    settings: Settings,
    kind: str,
    defaults: models.TrainingDefaults,
    n_bytes: float,
    n_text: int,
    vocabulary: Vocabulary,
) -> tuple[int, int]:
    """Bytes of the contexts to count, and of the text to set aside."""
    for name in ("contexts", "recent", "beside"):
        if settings.start is not None and getattr(settings, name) is not None:
            raise InputError(f"--{name} and --from exclude each other: a model that goes on keeps the contexts it has")
        if getattr(settings, name) and kind != "delay":
            raise InputError(f"--{name} goes with counted contexts, and these with a delay model; the model is {kind}")
    if settings.contexts and vocabulary.size > 256:
        raise InputError("--contexts knows at most 255 different bytes; this text has all 256")
    if settings.recent and settings.contexts == 0:
        raise InputError("--recent goes with counted contexts: leave --contexts 0 out")
    # Without the extension counting takes a thousand times as long: where it is asked for, and not otherwise.
    can = settings.start is None and vocabulary.size <= 256 and (settings.contexts is not None or native is not None)
    wanted = _or(settings.contexts, defaults.contexts) if can else 0
    # The reference program's way of learning is followed to the end: it has no such step.
    no_factor = settings.only is not None or settings.update == "online"
    usual = 0 if no_factor else models.calibration_bytes(n_bytes, n_text, contexts=wanted > 0)
    calibration = _or(settings.calibration, usual)
    if wanted and not calibration:
        if settings.contexts:
            raise InputError(
                "--contexts needs bytes that are not trained on, to find how far to believe what was counted: give "
                "--calibration, or a longer text"
            )
        wanted = 0
    if settings.recent and not wanted:
        raise InputError("--recent goes with counted contexts, and this run counts none: give --contexts 7")
    seconds = None if settings.steps is not None else 60 * _or(settings.minutes, 1.0)
    fitting = fitting_bytes(vocabulary.size, bytes_fitted(calibration, seconds)) if wanted else 0
    require_memory(fitting, "the logits that factors are fitted to", "give --contexts 0, or a smaller --calibration")
    return wanted, calibration


def _beside(
    settings: Settings, seconds: float, stretches: Sequence[tuple[int, int]], length: int, n_symbols: int
) -> tuple[float, int]:
    """Part of the run in which trained tables learn beside counted ones, and the parts of the text, for ``stretches``.

    These are what is counted of the text; none: nothing is.
    """
    wanted = settings.beside
    if wanted is not None and not 0 <= wanted <= MOST_BESIDE:
        raise InputError(f"--beside must lie in [0, {MOST_BESIDE}]; got {wanted:g}")
    if wanted == 0:
        return 0.0, 0
    parts = beside.parts_for(seconds, sum(end - start for start, end in stretches))
    longest = max((end - start for start, end in beside.covered(stretches, n_symbols)), default=0)
    problem = None
    if not stretches:
        problem = "counted contexts, and this run counts none: leave --contexts 0 out, or give --contexts 7"
    elif settings.schedule == "reference":
        problem = "--schedule linear"
    elif longest < max(length + 1, min(beside.PARTS) * 2):
        problem = f"a window of --length {length} in what is counted, whose longest stretch has {longest} bytes"
    if wanted is None and (problem or not parts):
        return 0.0, 0
    if problem:
        raise InputError(f"--beside goes with {problem}")
    require_memory(
        beside.n_bytes_beside(stretches, n_symbols), "the logits beside which tables are trained", "give --beside 0"
    )
    return beside.SHARE if wanted is None else wanted, parts or min(beside.PARTS)


def _start(settings: Settings) -> Checkpoint | None:
    """The checkpoint to begin with; refused if what was given does not go with it."""
    if settings.start is None:
        for name in ("add_tables", "add_comparisons", "only"):
            if getattr(settings, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} needs --from DIR: the trained model that is to go on")
        return None
    for name in ("model", "preset"):
        if getattr(settings, name) is not None:
            raise InputError(f"--{name} and --from exclude each other: the model in {settings.start} says what it is")
    if settings.only == "added" and not settings.add_tables:
        raise InputError("--only added trains the tables of --add-tables: give that, too")
    if settings.only is not None and settings.update == "online":
        raise InputError("--only goes with --update batch: online updates change rows while a step reads them")
    note_unfinished(settings.start)
    return open_checkpoint(settings.start)


def _recorded_run(text: Path | None, settings: Settings, out: Path | None) -> tuple[Record, Corpus, None]:
    """The record of a run to go on with, and its text; refused if what was given contradicts it."""
    if out is None:
        raise InputError("--resume needs --out DIR: the folder of the checkpoint to go on with")
    record = open_checkpoint(out).record
    training, corpus_record = record.training, record.corpus
    config = models.config_from_dict(record.model)
    recorded = {
        "model": record.model["kind"],
        "hash": config.hash,
        "reading": config.reading,
        "gradient": config.gradient,
        "bins": config.n_bins,
        "anchors": config.anchors,
        "max_delay": getattr(config, "max_delay", None),
        "tables": config.table_type,
        "preset": record.preset,
        "minutes": recorded_minutes(training.seconds, settings.minutes),
        "schedule": training.rate_schedule,
        "holdout": corpus_record.holdout,
        "holdout_fraction": corpus_record.holdout_fraction,
        **{
            name: getattr(training, name)
            for name in (
                "steps",
                "batch",
                "length",
                "seed",
                "rate",
                "drop",
                "members",
                "calibration",
                "contexts",
                "recent",
                "beside",
                "optimizer",
                "update",
                "only",
                "rewire",
            )
        },
        "start": record.start and record.start.path,
        "add_tables": record.start and record.start.add_tables,
        "add_comparisons": record.start and record.start.add_comparisons,
    }
    given = settings.given()
    if settings.start is not None:
        given["start"] = storable(str(Path(settings.start).absolute()))
    for name, value in given.items():
        if value != recorded[name]:
            option = "--from" if name == "start" else "--" + name.replace("_", "-")
            was = "was not given" if recorded[name] is None else f"is {recorded[name]}"
            raise InputError(
                f"{option} {value} contradicts the run in {out}, where it {was}: a resumed run keeps its "
                f"settings, so leave {option} out, or begin another run in another --out"
            )
    return record, load_recorded_corpus(record, text), None


def _facts(run: Run, corpus: Corpus) -> dict[str, Any]:
    """What a view tells before the training begins."""
    record, training = run.record, run.record.training
    return {
        "model": record.model["kind"],
        "preset": record.preset,
        "hash": run.model.config.hash,
        "reading": run.model.config.reading,
        "gradient": run.model.config.gradient,
        "tables": run.model.config.table_type,
        "parameters": run.model.n_parameters(),
        "vocabulary": run.vocabulary.size,
        "source": corpus.source,
        "held_out_bytes": run.held_out.size,
        "optimizer": training.optimizer if training.update == "batch" else f"{training.optimizer} online",
        "rate": training.rate,
        "schedule": training.rate_schedule,
        "drop": training.drop,
        "members": training.members,
        "calibration": training.calibration,
        "contexts": training.contexts,
        "recent": training.recent,
        "beside": training.beside,
        "batch": training.batch,
        "length": training.length,
        "from": record.start and record.start.path,
        "only": training.only,
        "rewire": training.rewire,
        "seed": training.seed,
        "threads": torch.get_num_threads(),
        "device": str(run.model.device),
        "step": record.position.step,
        "train_seconds": record.position.seconds,
        "checkpoint": str(run.writer.directory),
    }


def _result(run: Run, finished: Finished) -> dict[str, Any]:
    """What a run ends with."""
    record = run.record
    return {
        "model": record.model["kind"],
        "preset": record.preset,
        "parameters": run.model.n_parameters(),
        "seed": record.training.seed,
        "steps": finished.step,
        "train_bytes": finished.n_bytes,
        "train_seconds": finished.seconds,
        "train_bytes_per_second": finished.n_bytes / max(finished.seconds, 1e-9),
        "train_nats_per_byte": record.metrics.train_nats_per_byte,
        "readout_scale": record.metrics.readout_scale,
        "context_scales": record.metrics.context_scales,
        "val_nats_per_byte": finished.score.nats_per_byte,
        "val_bits_per_byte": finished.score.bits_per_byte,
        "val_bytes": finished.score.n_bytes,
        "checkpoint": str(run.writer.directory),
    }


def _sample(run: Run) -> str:
    """Some text of the trained model's own."""
    sampler = Sampler(
        temperature=USUAL.temperature, top_p=USUAL.top_p, seed=run.record.training.seed,
        excluded=[run.vocabulary.unseen_id],
    )  # fmt: skip
    pieces = generate(Stream(run.model.cpu()), run.vocabulary, b"", _SAMPLE_BYTES, sampler)
    return b"".join(pieces).decode("utf-8", errors="replace")


def _fresh_directory(record: Record) -> Path:
    """``runs/<text>-<model>-<preset>-<n>`` with the first n that is not taken."""
    stem = f"{record.corpus.name}-{record.model['kind']}-{record.preset}"
    numbers = itertools.count(1)
    return next(path for n in numbers if not (path := Path("runs") / f"{stem}-{n}").exists())


class _Scalars:
    """The run's figures for TensorBoard, by step, in ``DIR/tensorboard``."""

    def __init__(self, directory: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError(
                "--tensorboard needs a package that is not installed: pip install 'polychron[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(directory / "tensorboard"))

    def __enter__(self) -> _Scalars:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, event: Event) -> None:
        """Write what an event says."""
        if isinstance(event, StepReport):
            self._writer.add_scalar("training/nats_per_byte", event.nats_per_byte, event.step)
            self._writer.add_scalar("training/bytes_per_second", event.bytes_per_second, event.step)
            self._writer.add_scalar("training/rate", event.rate, event.step)
        elif isinstance(event, ValidationReport) and not event.final:
            self._writer.add_scalar("validation/nats_per_byte", event.score.nats_per_byte, event.step)
            self._writer.add_scalar("validation/bits_per_byte", event.score.bits_per_byte, event.step)
        elif isinstance(event, Finished):
            self._writer.add_scalar("validation/whole_nats_per_byte", event.score.nats_per_byte, event.step)


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given
