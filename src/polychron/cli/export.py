"""``polychron export``: a trained model as a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polychron.cli.output import print_json, print_line
from polychron.errors import InputError
from polychron.export.c_source import export_c
from polychron.limits import format_bytes
from polychron.storage import read_config
from polychron.training.classify import ClassifierRecord


def run_export_web(directory: Path, *, out: Path, draws: dict[str, float], json: bool) -> None:
    """Write the page and say how large it is; ``draws``: temperature and top_p, where they were given."""
    from polychron.export.integer_model import read_integer_model
    from polychron.export.web_page import export_web
    from polychron.training.checkpoint import open_checkpoint

    name = open_checkpoint(directory).record.corpus.name
    done = export_web(read_integer_model(directory), out, title=f"After {name}", **draws)
    if json:
        print_json({"page": str(done.page), "program_bytes": done.program_bytes, "table_bytes": done.table_bytes})
        return
    print_line(
        f"{done.page}: {format_bytes(done.program_bytes)} of WebAssembly, {format_bytes(done.table_bytes)} of tables; "
        "any browser opens it"
    )


def run_export(directory: Path, *, out: Path, tables: Path | None, draws: dict[str, float], json: bool) -> None:
    """Write the C files and say how large they make a program; of a classifier also what int8 costs it.

    ``draws``: temperature and top_p of a language model, where they were given.
    """
    fields, _ = read_config(directory, task=None)
    measured: dict[str, Any] = {}
    if fields.get("task") == ClassifierRecord.TASK:
        from polychron.cli.classify import score_integers
        from polychron.export.integer_classifier import read_integer_classifier

        if draws:
            raise InputError(
                f"--{next(iter(draws)).replace('_', '-')} is for language models; {directory} holds a classifier"
            )
        model = read_integer_classifier(directory)
        done = export_c(model, out, tables=tables)
        measured = score_integers(directory, model)
    else:
        from polychron.export.integer_model import read_integer_model

        done = export_c(read_integer_model(directory), out, tables=tables, **draws)
    if json:
        files = {"source": str(done.source), "header": str(done.header)}
        if done.tables is not None:
            files["tables"] = str(done.tables)
        print_json({**files, "flash_bytes": done.flash_bytes, "ram_bytes": done.ram_bytes, **measured})
        return
    names = [str(path) for path in (done.source, done.header, done.tables) if path is not None]
    print_line(
        f"{', '.join(names[:-1])} and {names[-1]}: {format_bytes(done.flash_bytes)} of constants, "
        f"{format_bytes(done.ram_bytes)} of state"
    )
    if "test_examples" in measured:
        before, after = measured["test_accuracy_before"], measured["test_accuracy"]
        print_line(
            f"{measured['test_examples']:,} test examples: accuracy {before:.4f} before, {after:.4f} in int8: "
            f"{after - before:+.4f}"
        )
    elif measured:
        print_line(f"accuracy not measured: {measured['not_measured']}")
