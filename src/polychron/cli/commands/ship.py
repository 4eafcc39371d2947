"""Commands that take a trained model elsewhere: fewer bits, other languages, a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polychron.cli.choices import Directory, ExportKind, Json, Precision
from polychron.cli.outcome import quiet_when_nobody_reads
from polychron.cli.unfinished import note_unfinished
from polychron.errors import InputError
from polychron.runtime.options import USUAL


def quantize(
    directory: Directory,
    to: Annotated[Precision, typer.Option(help="What a table's numbers become.")] = Precision.int8,
    out: Annotated[Path | None, typer.Option(help="Folder for the result. [default: DIR-int8 or DIR-bfloat16]")] = None,
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

    note_unfinished(directory)
    with quiet_when_nobody_reads():
        run_quantize(directory, to=to.value, out=out, text=text, json=json)


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
    temperature: Annotated[
        float | None,
        typer.Option(help=f"Of the draws; C cannot change it later, a page can. [default: {USUAL.temperature}]"),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw only from the likeliest bytes that together have this probability; C cannot change it later, a "
            f"page can. [default: {USUAL.top_p}]"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write a model as C that neither multiplies nor divides, or for another library.

    Example: `polychron export runs/book --to c --out book/model --tables book/model.tables`

    Example: `polychron export runs/digits-deep-tiny-1 --to c --out digits --tables digits.tables`

    Example: `polychron export runs/book --to web --out book.html`

    A model in float32 becomes int8 C; `polychron quantize` says what that costs, and a classifier's export. The page
    runs the C as WebAssembly, from disk, without a server; to make it takes clang and wasm-ld.

    `polychron export runs/book --to hf --out book-hf`: then `AutoModelForCausalLM.from_pretrained("book-hf")`.

    `polychron export runs/plain --to onnx --out book.onnx`: tokens in, logits of every position out; of a model that
    was trained with `--contexts 0`.
    """
    note_unfinished(directory)
    if tables is not None and to is not ExportKind.c:
        raise InputError(f"--tables is an option of --to c; the export is {to.value}")
    draws = {"temperature": temperature, "top_p": top_p}
    draws = {name: value for name, value in draws.items() if value is not None}
    if to in (ExportKind.hf, ExportKind.onnx):
        if draws:
            option = next(iter(draws)).replace("_", "-")
            raise InputError(f"--{option} is an option of --to c and web; the export is {to.value}")
        from polychron.cli.export_formats import run_export_hf, run_export_onnx

        with quiet_when_nobody_reads():
            (run_export_hf if to is ExportKind.hf else run_export_onnx)(directory, out=out, json=json)
        return
    from polychron.cli.export import run_export, run_export_web

    with quiet_when_nobody_reads():
        if to is ExportKind.web:
            run_export_web(directory, out=out, draws=draws, json=json)
            return
        run_export(directory, out=out, tables=tables, draws=draws, json=json)


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

    note_unfinished(directory)
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
