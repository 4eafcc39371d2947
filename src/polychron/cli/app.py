"""Commands, options and exit codes. What a command does is in the module of its name.

Those modules are imported when their command runs: ``--help`` need not wait for PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from polychron.cli.choices import (
    AnchorKind,
    Augmentation,
    Bins,
    DeviceKind,
    Element,
    ExportKind,
    Gradient,
    Hash,
    HoldoutKind,
    ModelKind,
    OptimizerKind,
    Part,
    Precision,
    Reading,
    ReproducedItem,
    ScaleKind,
    SensoryAnchorKind,
    TableType,
    UpdateKind,
)
from polychron.cli.outcome import exit_code, quiet_when_nobody_reads

app = typer.Typer(
    name="polychron",
    help="Networks made of look-up tables addressed by spike order: they add, and multiply nothing.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


Threads = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Threads to compute with. No result depends on it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON objects, one a line, and nothing else.")]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a checkpoint.", show_default=False)]


@app.command()
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
    minutes: Annotated[float | None, typer.Option(help="Train so long; only training counts. [default: 1]")] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Train so many steps, instead of minutes: reproducible to the bit."),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=2**20, help="Windows a step. [default: the preset's]")] = None,
    length: Annotated[
        int | None, typer.Option(min=1, max=2**20, help="Bytes of a window. [default: the preset's]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Of all randomness. [default: 0]")] = None,
    threads: Threads = None,
    device: Annotated[
        DeviceKind, typer.Option(help="Where to compute: on the CPU, or on a GPU by Triton's kernels.")
    ] = DeviceKind.cpu,
    rate: Annotated[float | None, typer.Option(help="Learning rate at its highest. [default: the preset's]")] = None,
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
    calibration: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Bytes of the text that are not trained on and say, at the end, how sure the model should be. "
            "[default: a fiftieth, 64 KiB at most, of a text that is read six times or more]",
        ),
    ] = None,
    optimizer: Annotated[OptimizerKind | None, typer.Option(help="How rows are updated. [default: sgd]")] = None,
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
    out: Annotated[Path | None, typer.Option(help="Folder for the checkpoint. [default: a new one in runs/]")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the checkpoint in --out, with the settings it records."),
    ] = False,
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
        model=_value(model),
        preset=preset,
        minutes=minutes,
        steps=steps,
        batch=batch,
        length=length,
        seed=seed,
        rate=rate,
        drop=drop,
        members=members,
        calibration=calibration,
        optimizer=_value(optimizer),
        update=_value(update),
        hash=_value(hash),
        reading=_value(reading),
        gradient=_value(gradient),
        bins=bins,
        anchors=_value(anchors),
        max_delay=max_delay,
        tables=_value(tables),
        holdout=_value(holdout),
        holdout_fraction=holdout_fraction,
        start=None if start is None else str(start),
        add_tables=add_tables,
        add_comparisons=add_comparisons,
        only=_value(only),
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


@app.command()
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
            help="Go on learning from the text, each part after it was scored, at this rate; 0.02 is usual.",
        ),
    ] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Score a text under a trained model, in nats and bits per byte.

    Example: `polychron evaluate runs/book other.txt`

    Every byte after the first is scored exactly once, with as much context as the model can use.

    Dynamic evaluation: `polychron evaluate runs/book other.txt --adapt 0.02`; the checkpoint stays as it is.
    """
    from polychron.cli.evaluate import run_evaluate

    with quiet_when_nobody_reads():
        run_evaluate(directory, text, adapt=adapt, threads=threads, json=json)


@app.command()
def generate(
    directory: Directory,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to continue.", show_default=False)] = "",
    n_bytes: Annotated[int, typer.Option("--bytes", min=0, max=2**40, help="How many bytes to write.")] = 500,
    temperature: Annotated[
        float, typer.Option(help="Below 1 more careful, above 1 bolder; 0 always takes the likeliest byte.")
    ] = 0.8,
    top_p: Annotated[
        float, typer.Option(help="Draw only from the likeliest bytes that together have this probability.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the draws.")] = 0,
    threads: Threads = None,
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


_LABELLED = (
    "fashion-mnist, mnist-5k or digits; a folder of idx files or of UCI HAPT's raw data; or a .csv file, label last."
)


@app.command("train-classifier")
def train_classifier(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=f"{_LABELLED} Without it: fashion-mnist.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="tiny, small or base. [default: by the number of examples]")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Train so long; only training counts. [default: 1]")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Train so many steps, instead of minutes: reproducible to the bit.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=2**20, help="Examples a step.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate at its highest. [default: the preset's]")] = None,
    optimizer: Annotated[OptimizerKind | None, typer.Option(help="How rows are updated. [default: sgd]")] = None,
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
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Of all randomness. [default: 0]")] = None,
    counts: Annotated[
        bool, typer.Option("--counts", help="Count in one pass instead (random ferns): a readout, no gradients.")
    ] = False,
    threads: Threads = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the checkpoint. [default: a new one in runs/]")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the checkpoint in --out, with the settings it records.")
    ] = False,
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
        "optimizer": _value(optimizer),
        "hash": _value(hash),
        "reading": _value(reading),
        "gradient": _value(gradient),
        "bins": bins,
        "anchors": _value(anchors),
        "augment": _value(augment),
        "seed": seed,
        "counts": counts or None,
    }
    with quiet_when_nobody_reads():
        raise typer.Exit(run_train_classifier(data, settings, out=out, resume=resume, threads=threads, json=json))


@app.command()
def classify(
    directory: Directory,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help=f"{_LABELLED} Without it: what it was trained on.")
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


@app.command()
def cost(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder of a checkpoint. Without it: a preset, or the paper.")
    ] = None,
    model: Annotated[ModelKind | None, typer.Option(help="The network of a preset.")] = None,
    preset: Annotated[str | None, typer.Option(help="Its size.")] = None,
    positions: Annotated[
        int, typer.Option(min=1, max=2**20, help="Positions of the context where the paper's way of counting asks.")
    ] = 32,
    element: Annotated[Element, typer.Option(help="Type of the tables' numbers.")] = Element.float32,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the capacities: .png, .svg or .pdf.")
    ] = None,
    measure: Annotated[
        Path | None,
        typer.Option(metavar="TEXT", help="Let DIR read this file or folder with kernels that count what they do."),
    ] = None,
    n_bytes: Annotated[int, typer.Option("--bytes", min=2, max=2**24, help="Measure on so much of the text.")] = 65536,
    json: Json = False,
) -> None:
    """Count what a token costs: comparisons, additions, rows, bytes, and energy under a named table.

    Example: `polychron cost --model transformer --preset paper`

    Without DIR and --model: the paper's published tables, what they leave out, and all presets beside them.
    """
    from polychron.cli.cost import run_cost

    with quiet_when_nobody_reads():
        run_cost(
            directory,
            model=_value(model),
            preset=preset,
            positions=positions,
            element=element.value,
            plot=plot,
            measure=measure,
            n_measured=n_bytes,
            json=json,
        )


@app.command()
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

    with quiet_when_nobody_reads():
        run_inspect(directory, data, n_inputs=n_bytes, page=page, spikes=spikes, threads=threads, json=json)


@app.command()
def reproduce(
    item: Annotated[ReproducedItem, typer.Argument(metavar="ITEM", help="/".join(x.value for x in ReproducedItem))],
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
    json: Json = False,
) -> None:
    """Measure or recompute a table or figure of the paper, beside the published one, and judge it.

    Example: `polychron reproduce table4`

    Example: `polychron reproduce fig13 --text book.txt --seeds 3 --out reproduction`
    """
    from polychron.cli.reproduce import run_reproduce

    with quiet_when_nobody_reads():
        run_reproduce(item.value, text=text, scale=scale.value, out=out, n_seeds=seeds, n_bytes=n_bytes, json=json)


@app.command()
def quantize(
    directory: Directory,
    to: Annotated[Precision, typer.Option(help="What a table's numbers become.")] = Precision.int8,
    out: Annotated[Path | None, typer.Option(help="Folder for the result. [default: DIR-int8]")] = None,
    text: Annotated[
        Path | None, typer.Option(help="What to measure the loss on. Without it: what was held out from training.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a model with tables of fewer bits, and say what it costs before and after.

    Example: `polychron quantize runs/book --to int8`

    An int8 model is run with additions and shifts alone.
    """
    from polychron.cli.quantize import run_quantize

    with quiet_when_nobody_reads():
        run_quantize(directory, to=to.value, out=out, text=text, json=json)


@app.command()
def export(
    directory: Directory,
    out: Annotated[
        Path,
        typer.Option(help="Path: without suffix for c, a folder for hf, a file for onnx and web.", show_default=False),
    ],
    to: Annotated[
        ExportKind,
        typer.Option(
            help="What to write: two files of C99, a page for browsers, a folder for Hugging Face's libraries, or an "
            "ONNX file."
        ),
    ] = ExportKind.c,
    tables: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of c: tables into a file that C is given a pointer to.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the draws; C cannot change it later, a page can.")] = 0.8,
    json: Json = False,
) -> None:
    """Write a model as C that neither multiplies nor divides, or for another library.

    Example: `polychron export runs/book --to c --out book/model`

    Example: `polychron export runs/digits-deep-tiny-1 --to c --out digits --tables digits.tables`

    Example: `polychron export runs/book --to web --out book.html`

    A model in float32 becomes int8 C; `polychron quantize` says what that costs, and a classifier's export. The page
    runs the C as WebAssembly, from disk, without a server; to make it takes clang and wasm-ld.

    `polychron export runs/book --to hf --out book-hf`: then `AutoModelForCausalLM.from_pretrained("book-hf")`.

    `polychron export runs/book --to onnx --out book.onnx`: tokens in, logits of every position out.
    """
    if tables is not None and to is not ExportKind.c:
        from polychron.errors import InputError

        raise InputError(f"--tables is an option of --to c; the export is {to.value}")
    if to in (ExportKind.hf, ExportKind.onnx):
        from polychron.cli.export_formats import run_export_hf, run_export_onnx

        with quiet_when_nobody_reads():
            (run_export_hf if to is ExportKind.hf else run_export_onnx)(directory, out=out, json=json)
        return
    from polychron.cli.export import run_export, run_export_web

    with quiet_when_nobody_reads():
        if to is ExportKind.web:
            run_export_web(directory, out=out, temperature=temperature, json=json)
            return
        run_export(directory, out=out, tables=tables, temperature=temperature, json=json)


@app.command()
def serve(
    directory: Directory,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets every machine that reaches this one in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    streams: Annotated[int, typer.Option(min=1, max=4096, help="Texts written at the same time.")] = 8,
    max_bytes: Annotated[int, typer.Option(min=1, max=2**40, help="Bytes that a request may ask for.")] = 1_000_000,
    max_prompt: Annotated[int, typer.Option(min=1, max=2**28, help="Bytes of a prompt.")] = 65_536,
    seconds: Annotated[float, typer.Option(help="Time that a request may take.")] = 60.0,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Texts that compute at once. [default: the machine's cores]")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Write a line a request to standard error.")] = False,
    json: Json = False,
) -> None:
    """Answer HTTP requests with texts: POST /generate, GET /info, GET /health.

    Example: `polychron serve runs/book --port 8000`

    Then: `curl --json '{"prompt": "It was a ", "bytes": 1000}' localhost:8000/generate`

    Ctrl-C or SIGTERM ends it; open texts end with an error.
    """
    from polychron.cli.serve import run_serve

    with quiet_when_nobody_reads():
        run_serve(
            directory,
            host=host,
            port=port,
            streams=streams,
            max_bytes=max_bytes,
            max_prompt=max_prompt,
            seconds=seconds,
            threads=threads,
            log=log,
            json=json,
        )


@app.command()
def info(json: Json = False) -> None:
    """Say what computes here: kernels, threads, and whether tables get huge pages.

    Example: `polychron info`

    Another set of kernels is forced by the environment: `POLYCHRON_KERNEL=scalar polychron info`.
    """
    from polychron.cli.info import run_info

    with quiet_when_nobody_reads():
        run_info(json=json)


def main(arguments: Sequence[str]) -> int:
    """Run a command line, as `polychron.cli.main` does, by way of typer."""

    def run() -> int | None:
        return typer.main.get_command(app).main(list(arguments), prog_name="polychron", standalone_mode=False)

    return exit_code(run)


def _value(choice: Enum | None) -> str | None:
    return None if choice is None else choice.value
