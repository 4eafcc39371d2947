"""A model as two files of C99: constant tables, and functions that compare, index, shift and add.

The functions take no memory but a struct of the caller's, use no floating point, multiply and divide nothing. What they
compute is docs/runtime.md's int8 model, or docs/exports.md's int8 classifier, bit for bit. The tables can stand in a
file beside the source, which the program is given a pointer to.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from polychron.errors import InputError
from polychron.export.c_classifier import ClassifierText
from polychron.export.c_language_model import LanguageModelText
from polychron.export.files import write_files
from polychron.export.integer_classifier import IntegerClassifier
from polychron.export.network import Network
from polychron.limits import format_bytes
from polychron.runtime.options import USUAL, SamplingOptions

_MAXIMUM_TABLE_BYTES = 64 << 20  # beyond this compilers take many minutes and gigabytes
_MAXIMUM_FILE_BYTES = 1 << 31  # places in a file of tables are numbers of 32 bits


@dataclass(frozen=True)
class ExportedC:
    """What was written.

    Attributes:
        source: the .c file.
        header: the .h file.
        flash_bytes: of the arrays, in the source or in the file of tables.
        ram_bytes: of the state, without padding.
        tables: the file of tables, where one was asked for.
    """

    source: Path
    header: Path
    flash_bytes: int
    ram_bytes: int
    tables: Path | None = None


def export_c(
    model: Network | IntegerClassifier,
    out: str | os.PathLike[str],
    *,
    temperature: float = USUAL.temperature,
    top_p: float = USUAL.top_p,
    tables: str | os.PathLike[str] | None = None,
) -> ExportedC:
    """Write ``out.c`` and ``out.h``, whose names begin with the file's, and where it is asked for the file of tables.

    Args:
        model: from `read_integer_model` or `read_integer_classifier`.
        out: path without suffix (``.c`` or ``.h`` is taken off); the folder is made.
        temperature: of a language model's draws; it goes into a table, for the functions cannot divide.
        top_p: of its draws, as in `polychron.runtime.SamplingOptions`.
        tables: where the arrays are to stand, instead of in the source.

    Raises:
        InputError: a name that is no C identifier; tables of more than 64 MB in C (2 GB in a file); a temperature of 0;
            a temperature or top-p out of range; a file of tables in the source's or the header's place; the system
            refused to write.
    """
    path = Path(out)
    if path.suffix in (".c", ".h"):
        path = path.with_suffix("")
    name = path.name
    if not re.fullmatch(r"[A-Za-z]\w*", name, flags=re.ASCII):
        raise InputError(
            "--out must end in a name that begins with a letter and has letters, digits and _ only, for C's sake; "
            f"got {name!r}"
        )
    if temperature == 0:
        raise InputError("temperature must be above 0 in C; the function that takes the likeliest byte needs none")
    draws = SamplingOptions(temperature=temperature, top_p=top_p)
    if tables is not None and Path(tables).resolve() in {path.with_suffix(end).resolve() for end in (".c", ".h")}:
        raise InputError(f"--tables must be a file of its own; {tables} is where the C goes")
    n_bytes = model.table_bytes
    limit, what = (_MAXIMUM_TABLE_BYTES, "C arrays are") if tables is None else (_MAXIMUM_FILE_BYTES, "files are")
    if n_bytes > limit:
        hint = ": put them into a file (--tables FILE)" if n_bytes <= _MAXIMUM_FILE_BYTES else ""
        raise InputError(
            f"the model has {format_bytes(n_bytes)} of tables and {what} limited to {format_bytes(limit)}{hint}"
        )
    if isinstance(model, Network):
        text = LanguageModelText(model, name, tables is not None, draws)
    else:
        text = ClassifierText(model, name, tables is not None)
    files = {path.with_suffix(".h"): text.header.encode("ascii"), path.with_suffix(".c"): text.source.encode("ascii")}
    if tables is not None:
        files[Path(tables)] = text.file
    write_files(files)
    return ExportedC(
        path.with_suffix(".c"),
        path.with_suffix(".h"),
        text.arrays.n_bytes,
        text.ram_bytes,
        None if tables is None else Path(tables),
    )
