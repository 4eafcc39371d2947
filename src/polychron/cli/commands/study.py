"""Commands that say something about models, the paper and this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polychron.cli.choices import Directory, Element, Json, ModelKind, ReproducedItem, ScaleKind, Threads, value_of
from polychron.cli.outcome import quiet_when_nobody_reads
from polychron.cli.unfinished import note_unfinished


def cost(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder of a checkpoint. Without it: a preset, or the paper.")
    ] = None,
    model: Annotated[ModelKind | None, typer.Option(help="The network of a preset.")] = None,
    preset: Annotated[str | None, typer.Option(help="Its size.")] = None,
    positions: Annotated[
        int, typer.Option(min=1, max=2**20, help="Positions of the context where the paper's way of counting asks.")
    ] = 32,
    element: Annotated[
        Element | None, typer.Option(help="Type of the tables' numbers. [default: what the model's tables are]")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the capacities: .png, .svg or .pdf.")
    ] = None,
    measure: Annotated[
        Path | None,
        typer.Option(metavar="TEXT", help="Let DIR read this file or folder with kernels that count what they do."),
    ] = None,
    n_bytes: Annotated[
        int | None,
        typer.Option("--bytes", min=2, max=2**24, help="Measure on so much of the text. [default: 65536]"),
    ] = None,
    json: Json = False,
) -> None:
    """Count what a token or an example costs: comparisons, additions, rows, bytes, and energy under a named table.

    Example: `polychron cost --model transformer --preset paper`

    Without DIR and --model: the paper's published tables, what they leave out, and all presets beside them.
    """
    from polychron.cli.cost import run_cost

    with quiet_when_nobody_reads():
        run_cost(
            directory,
            model=value_of(model),
            preset=preset,
            positions=positions,
            element=value_of(element),
            plot=plot,
            measure=measure,
            n_measured=n_bytes,
            json=json,
        )


def inspect(
    directory: Directory,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT",
            help="A file or folder; for a classifier, what train-classifier takes. Without it: what was held out.",
        ),
    ] = None,
    n_bytes: Annotated[
        int, typer.Option("--bytes", min=2, max=2**24, help="Read so much of the text, or so many examples at most.")
    ] = 65536,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a report with pictures, one file.")
    ] = None,
    spikes: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What the report draws as spikes. [default: the text's beginning]"),
    ] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Show how a model's tables are used: rows read, entropy, near ties, comparisons that tell nothing.

    Example: `polychron inspect runs/book --html book.html --spikes "It was a truth"`

    Reads models in float32, int8 and bfloat16, and classifiers.
    """
    from polychron.cli.inspect import run_inspect

    note_unfinished(directory)
    with quiet_when_nobody_reads():
        run_inspect(directory, data, n_inputs=n_bytes, page=page, spikes=spikes, threads=threads, json=json)


def reproduce(
    item: Annotated[ReproducedItem, typer.Argument(metavar="ITEM", help="Which of them.")],
    text: Annotated[
        Path | None, typer.Option(help="A file or folder to learn. [default: Python's standard library]")
    ] = None,
    scale: Annotated[
        ScaleKind, typer.Option(help="small: minutes; full: the published sizes, on 20 MB of reading.")
    ] = ScaleKind.small,
    n_bytes: Annotated[
        int | None, typer.Option("--bytes", min=1, help="Bytes to train on in every run. [default: the scale's]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How many seeds, from 0 on.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for the JSON, Markdown and picture.")] = Path("reproduction"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the runs that --out holds.")] = False,
    json: Json = False,
) -> None:
    """Measure or recompute a table or figure of the paper, beside the published one, and judge it.

    Example: `polychron reproduce table4`

    Example: `polychron reproduce fig13 --text book.txt --seeds 3 --out reproduction`
    """
    from polychron.cli.reproduce import run_reproduce

    with quiet_when_nobody_reads():
        run_reproduce(
            item.value, text=text, scale=scale.value, out=out, n_seeds=seeds, n_bytes=n_bytes, resume=resume, json=json
        )


def bench(
    seconds: Annotated[float, typer.Option(help="Measure about so long altogether.")] = 20.0,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Measure how fast the kernels are on this machine: reading rows, layers, training and scoring of models.

    Example: `polychron bench --threads 2`

    On the CPU, alone on the machine if the figures are to mean anything; up to 350 MB of memory.
    """
    from polychron.cli.bench import run_bench

    with quiet_when_nobody_reads():
        run_bench(seconds=seconds, threads=threads, json=json)


def info(json: Json = False) -> None:
    """Say what computes here: kernels, threads, and whether tables get huge pages.

    Example: `polychron info`

    Another set of kernels is forced by the environment: `POLYCHRON_KERNEL=scalar polychron info`.
    """
    from polychron.cli.info import run_info

    with quiet_when_nobody_reads():
        run_info(json=json)
