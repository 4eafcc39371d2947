"""A language model as one static page: WebAssembly of the C export, its tables, and a little JavaScript that draws.

A text is a function of prompt, temperature, top-p and seed: the one that the int8 runtime writes.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from polychron.errors import InputError
from polychron.export.c_arrays import fill
from polychron.export.c_source import export_c
from polychron.export.files import write_files
from polychron.export.network import Network
from polychron.limits import format_bytes
from polychron.runtime.options import USUAL, SamplingOptions

_MAXIMUM_TABLE_BYTES = 256 << 20
_HIGHEST_TEMPERATURE = 1.5  # the end of the page's slider
_OPTIONS = (
    "--target=wasm32", "-O3", "-std=c99", "-nostdlib", "-ffreestanding", "-mbulk-memory", "-Wl,--no-entry",
    "-Wl,--strip-all", "-Wl,--export=__heap_base", "-Wl,-z,stack-size=65536",
)  # fmt: skip


@dataclass(frozen=True)
class ExportedPage:
    """What was written.

    Attributes:
        page: the .html file.
        program_bytes: of the WebAssembly in it.
        table_bytes: of the tables in it.
    """

    page: Path
    program_bytes: int
    table_bytes: int


def export_web(
    model: Network,
    out: str | os.PathLike[str],
    *,
    title: str,
    temperature: float = USUAL.temperature,
    top_p: float = USUAL.top_p,
    prompt: str = "",
) -> ExportedPage:
    """Write ``out.html``, which opens from disk without a server.

    Args:
        model: from `read_integer_model`.
        out: path, with or without ``.html``; the folder is made.
        title: of the page.
        temperature: that the page begins with, from 0 to 1.5.
        top_p: that the page begins with.
        prompt: that the page begins with.

    Raises:
        InputError: clang or wasm-ld is missing; tables of more than 256 MB; a temperature or top-p out of range;
            a folder's path that names no file; the system refused to write.
    """
    if not 0 <= temperature <= _HIGHEST_TEMPERATURE:
        raise InputError(f"the temperature of a page must be from 0 to {_HIGHEST_TEMPERATURE}; got {temperature:g}")
    SamplingOptions(temperature=temperature, top_p=top_p)
    n_bytes = model.table_bytes
    if n_bytes > _MAXIMUM_TABLE_BYTES:
        limit = format_bytes(_MAXIMUM_TABLE_BYTES)
        raise InputError(f"the model has {format_bytes(n_bytes)} of tables and a page is limited to {limit}")
    path = Path(out)
    if path.name in ("", ".."):
        raise InputError(f"{path} is a folder: --out must name a file")
    path = path if path.suffix == ".html" else path.with_name(path.name + ".html")
    program, tables = compile_wasm(model)
    vocabulary = model.vocabulary
    start = vocabulary.byte_values[min(vocabulary.start_id, len(vocabulary.byte_values) - 1)]
    about = {
        "logitBits": model.logit_bits,
        "bytes": list(vocabulary.byte_values),
        "start": start,
        "program": base64.b64encode(program).decode(),
        "tables": base64.b64encode(tables).decode(),
    }
    text = _page(
        TITLE=html.escape(title),
        ABOUT=html.escape(
            f"{format_bytes(len(tables))} of look-up tables write this text in your browser, byte by byte. A program "
            f"of {format_bytes(len(program))} compares, looks up and adds, and multiplies nothing."
        ),
        PROMPT=html.escape(prompt),
        TEMPERATURE=repr(float(temperature)),
        TOP=repr(float(top_p)),
        MODEL=json.dumps(about).replace("<", "\\u003c"),
        CORE=_read("core.js"),
        PAGE=_read("page.js"),
    )
    write_files({path: text.encode()})
    return ExportedPage(path, len(program), len(tables))


def compile_wasm(model: Network) -> tuple[bytes, bytes]:
    """The C export as WebAssembly, and its file of tables.

    Raises:
        InputError: clang or wasm-ld is missing, or fails.
    """
    for name in ("clang", "wasm-ld"):
        if shutil.which(name) is None:
            raise InputError(f"a page needs {name}, which is not installed (Debian's packages clang and lld)")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        done = export_c(model, folder / "model", tables=folder / "model.tables")
        (folder / "glue.c").write_text(fill("web/glue.c.in", NAME="model"))
        command = ["clang", *_OPTIONS, folder / "glue.c", done.source, "-o", folder / "model.wasm"]
        ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if ran.returncode:
            line = next((line for line in ran.stderr.splitlines() if "error" in line), "no reason given")
            raise InputError(f"clang could not make WebAssembly: {line[:200]}")
        return (folder / "model.wasm").read_bytes(), (folder / "model.tables").read_bytes()


def _read(name: str) -> str:
    return resources.files("polychron.export").joinpath("web", name).read_text(encoding="utf-8")


def _page(**values: str) -> str:
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], _read("page.html"))
