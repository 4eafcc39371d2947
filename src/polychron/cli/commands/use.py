"""Commands that use a trained model: score a text, continue it, classify."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from polychron.cli.choices import Directory, Json, Labelled, Threads
from polychron.cli.outcome import quiet_when_nobody_reads
from polychron.cli.unfinished import note_unfinished
from polychron.runtime.options import USUAL


def evaluate(
    directory: Directory,
    text: Annotated[
        Path | None,
        typer.Argument(metavar="TEXT", help="A file or folder. Without it: what was held out from training."),
    ] = None,
    adapt: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Go on learning from the text, each part after it was scored, at this rate; 0.005 is usual.",
        ),
    ] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Score a text under a trained model, in nats and bits per byte.

    Example: `polychron evaluate runs/book other.txt`

    Every byte after the first is scored exactly once, with as much context as the model can use.

    Dynamic evaluation: `polychron evaluate runs/book other.txt --adapt 0.005`; the checkpoint stays as it is.
    """
    from polychron.cli.evaluate import run_evaluate

    note_unfinished(directory)
    with quiet_when_nobody_reads():
        run_evaluate(directory, text, adapt=adapt, threads=threads, json=json)


def generate(
    directory: Directory,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to continue.", show_default=False)] = "",
    n_bytes: Annotated[int, typer.Option("--bytes", min=0, max=2**40, help="How many bytes to write.")] = 500,
    temperature: Annotated[
        float, typer.Option(help="Below 1 more careful, above 1 bolder; 0 always takes the likeliest byte.")
    ] = USUAL.temperature,
    top_p: Annotated[
        float, typer.Option(help="Draw only from the likeliest bytes that together have this probability.")
    ] = USUAL.top_p,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the draws.")] = 0,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Threads to compute with where PyTorch runs the model; the native runtime writes a text with one.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Continue a prompt, byte by byte as they come.

    Example: `polychron generate runs/book "It was a " --bytes 1000`
    """
    from polychron.cli.generate import run_generate

    with quiet_when_nobody_reads():
        run_generate(
            directory,
            os.fsencode(prompt),
            n_bytes=n_bytes,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            threads=threads,
            json=json,
        )


def classify(
    directory: Directory,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help=f"{Labelled} Without it: what it was trained on.")
    ] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Score a trained classifier on the test part of its data, or of other data.

    Example: `polychron classify runs/digits-deep-tiny-1`
    """
    from polychron.cli.classify import run_classify

    with quiet_when_nobody_reads():
        run_classify(directory, data, threads=threads, json=json)
