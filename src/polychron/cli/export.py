"""``polychron export``: a trained model as a program."""

from __future__ import annotations

from pathlib import Path

from polychron.cli.output import print_json
from polychron.export.c_source import export_c
from polychron.export.integer_model import read_integer_model
from polychron.limits import format_bytes


def run_export(directory: Path, *, out: Path, temperature: float, json: bool) -> None:
    """Write the C files and say how large they make a program."""
    done = export_c(read_integer_model(directory), out, temperature)
    if json:
        print_json(
            {
                "source": str(done.source),
                "header": str(done.header),
                "flash_bytes": done.flash_bytes,
                "ram_bytes": done.ram_bytes,
            }
        )
        return
    print(
        f"{done.source} and {done.header}: {format_bytes(done.flash_bytes)} of constants, "
        f"{format_bytes(done.ram_bytes)} of state",
        flush=True,
    )
