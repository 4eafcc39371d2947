"""Commands that train: a language model, a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polychron.cli.choices import (
    AnchorKind,
    Augmentation,
    Bins,
    DeviceKind,
    Gradient,
    Hash,
    HoldoutKind,
    Json,
    Labelled,
    Minutes,
    ModelKind,
    Optimizer,
    Part,
    Rate,
    Reading,
    Resume,
    RunFolder,
    ScheduleKind,
    Seed,
    SensoryAnchorKind,
    Steps,
    TableType,
    Threads,
    UpdateKind,
    value_of,
)
from polychron.cli.outcome import quiet_when_nobody_reads


def train(
    text: Annotated[
        Path | None,
        typer.Argument(
            metavar="TEXT",
            help="A file, or a folder of text files. Without it: Python's own standard library.",
        ),
    ] = None,
    model: Annotated[ModelKind | None, typer.Option(help="The network. [default: delay]")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Its size; a wrong one is answered with those there are. [default: what suits --minutes]"),
    ] = None,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Annotated[int | None, typer.Option(min=1, max=2**20, help="Windows a step. [default: the preset's]")] = None,
    length: Annotated[
        int | None, typer.Option(min=1, max=2**20, help="Bytes of a window. [default: the preset's]")
    ] = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Annotated[
        DeviceKind, typer.Option(help="Where to compute: on the CPU, or on a GPU by Triton's kernels.")
    ] = DeviceKind.cpu,
    rate: Rate = None,
    drop: Annotated[
        float | None,
        typer.Option(
            help="Part of the tables that a step leaves out. [default: the more, the more often a text is read]"
        ),
    ] = None,
    members: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Ensemble members that share all but the readout; each has a readout of the preset's size. "
            "[default: 1, more where a text is read often]",
        ),
    ] = None,
    contexts: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=7,
            help="Depth of the contexts that are counted, in one pass, beside the trained tables: of the last bytes, "
            "of the last words, of the place in a line; 0: none. [default: the preset's]",
        ),
    ] = None,
    recent: Annotated[
        bool | None,
        typer.Option(
            "--recent/--no-recent",
            help="Beside counted contexts, tables that are written while a text is read: what followed a context when "
            "it was last met there. [default: with contexts]",
        ),
    ] = None,
    beside: Annotated[
        float | None,
        typer.Option(
            help="Part of the run, at its end, in which the trained tables learn what counted and recent ones, counted "
            "in other parts of the text, leave over. [default: 0.3 where there is time to count the text so often]"
        ),
    ] = None,
    calibration: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="Bytes of the text that are not trained on and say, at the end, how sure the model should be. "
            "[default: a fiftieth, 64 KiB at most, where contexts are counted or the text is read six times or more]",
        ),
    ] = None,
    optimizer: Optimizer = None,
    hash: Hash = None,
    reading: Reading = None,
    gradient: Gradient = None,
    bins: Bins = None,
    anchors: Annotated[
        AnchorKind | None, typer.Option(help="How pairs to compare are drawn. [default: the preset's]")
    ] = None,
    max_delay: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Longest delay of a delay model's anchors. [default: the preset's]"),
    ] = None,
    tables: Annotated[
        TableType | None,
        typer.Option(
            help="Numbers in the tables; bfloat16 halves what a step reads and the memory. [default: the preset's]"
        ),
    ] = None,
    update: Annotated[
        UpdateKind | None,
        typer.Option(
            help="When rows are updated: after a batch, or online as in the paper's program (which is the "
            "transformer's only). [default: batch]"
        ),
    ] = None,
    schedule: Annotated[
        ScheduleKind | None,
        typer.Option(
            help="How the rate moves: up and then down to 0 at the end, or as in the paper's program, which knows no "
            "end and takes no --rate. [default: linear]"
        ),
    ] = None,
    holdout: Annotated[
        HoldoutKind | None,
        typer.Option(help="What is kept for validation: every nth block, or the text's end. [default: blocks]"),
    ] = None,
    holdout_fraction: Annotated[float | None, typer.Option(help="How much of it. [default: 0.1]")] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Begin with the trained model in this folder, which is left alone."),
    ] = None,
    add_tables: Annotated[
        int | None, typer.Option(min=1, max=2**15, help="With --from: so many tables more for every layer.")
    ] = None,
    add_comparisons: Annotated[
        int | None, typer.Option(min=1, max=16, help="With --from: so many comparisons more for every table.")
    ] = None,
    only: Annotated[
        Part | None, typer.Option(help="With --from: train the added tables, or the readout, and keep the rest.")
    ] = None,
    rewire: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**31 - 1,
            help="Every so many steps, replace the comparisons that tell least. [default: never]",
        ),
    ] = None,
    checkpoint_seconds: Annotated[float, typer.Option(min=0.01, help="Training time between two checkpoints.")] = 30.0,
    out: RunFolder = None,
    resume: Resume = False,
    json: Json = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write scalars for TensorBoard to DIR/tensorboard.")
    ] = False,
) -> None:
    """Train a model on a text, validate it on the part held out, and save it.

    Example: `polychron train book.txt --minutes 5 --out runs/book`

    A variant: `polychron train book.txt --hash bins --preset tiny`; all but the defaults run in PyTorch, slower.

    Ctrl-C saves and stops; `polychron train --resume --out runs/book` goes on.

    Fine-tuning: `polychron train other.txt --from runs/book --add-tables 16 --only added` teaches a copy of a trained
    model another text, in new tables beside the old ones.
    """
    from polychron.cli.train import Settings, run_train

    settings = Settings(
        model=value_of(model),
        preset=preset,
        minutes=minutes,
        steps=steps,
        batch=batch,
        length=length,
        seed=seed,
        rate=rate,
        drop=drop,
        members=members,
        contexts=contexts,
        recent=recent,
        beside=beside,
        calibration=calibration,
        optimizer=value_of(optimizer),
        update=value_of(update),
        schedule=value_of(schedule),
        hash=value_of(hash),
        reading=value_of(reading),
        gradient=value_of(gradient),
        bins=bins,
        anchors=value_of(anchors),
        max_delay=max_delay,
        tables=value_of(tables),
        holdout=value_of(holdout),
        holdout_fraction=holdout_fraction,
        start=None if start is None else str(start),
        add_tables=add_tables,
        add_comparisons=add_comparisons,
        only=value_of(only),
        rewire=rewire,
    )
    with quiet_when_nobody_reads():
        code = run_train(
            text,
            settings,
            out=out,
            resume=resume,
            threads=threads,
            device=device.value,
            checkpoint_seconds=checkpoint_seconds,
            json=json,
            tensorboard=tensorboard,
        )
        raise typer.Exit(code)


def train_classifier(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=f"{Labelled} Without it: fashion-mnist.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="tiny, small or base. [default: by the number of examples]")
    ] = None,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Annotated[int | None, typer.Option(min=1, max=2**20, help="Examples a step.")] = None,
    rate: Rate = None,
    optimizer: Optimizer = None,
    hash: Hash = None,
    reading: Reading = None,
    gradient: Gradient = None,
    bins: Bins = None,
    anchors: Annotated[
        SensoryAnchorKind | None, typer.Option(help="How pairs to compare are drawn. [default: sensory]")
    ] = None,
    augment: Annotated[
        Augmentation | None, typer.Option(help="How images are moved about. [default: what suits the data]")
    ] = None,
    seed: Seed = None,
    counts: Annotated[
        bool, typer.Option("--counts", help="Count in one pass instead (random ferns): a readout, no gradients.")
    ] = False,
    threads: Threads = None,
    out: RunFolder = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Train the paper's deep network (equation 10) to classify, test it on what was kept away, and save it.

    Example: `polychron train-classifier fashion-mnist --minutes 5`

    A variant: `polychron train-classifier digits --reading soft`; all but the defaults run in PyTorch, slower.

    Ends with a confusion matrix and the figures of each class. Ctrl-C saves and stops.
    """
    from polychron.cli.classify import run_train_classifier

    settings = {
        "preset": preset,
        "minutes": minutes,
        "steps": steps,
        "batch": batch,
        "rate": rate,
        "optimizer": value_of(optimizer),
        "hash": value_of(hash),
        "reading": value_of(reading),
        "gradient": value_of(gradient),
        "bins": bins,
        "anchors": value_of(anchors),
        "augment": value_of(augment),
        "seed": seed,
        "counts": counts or None,
    }
    with quiet_when_nobody_reads():
        raise typer.Exit(run_train_classifier(data, settings, out=out, resume=resume, threads=threads, json=json))
