"""``polychron generate`` with nothing unusual about its command line, without typer.

typer loads pydantic before it reads the first option, which takes longer than the model's first byte. A line that is
not understood here, one that asks for help or one that is wrong, is typer's to answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polychron.cli.outcome import exit_code, quiet_when_nobody_reads
from polychron.runtime.options import USUAL

# Option: the argument of run_generate, its type, the least and the greatest value. As in commands/use.py, which a test
# compares.
OPTIONS: dict[str, tuple[str, Callable[[str], Any], float, float]] = {
    "--bytes": ("n_bytes", int, 0, 2**40),
    "--temperature": ("temperature", float, float("-inf"), float("inf")),
    "--top-p": ("top_p", float, float("-inf"), float("inf")),
    "--seed": ("seed", int, 0, 2**32 - 1),
    "--threads": ("threads", int, 1, 1024),
}
DEFAULTS: dict[str, Any] = {
    "prompt": "", "n_bytes": 500, "temperature": USUAL.temperature, "top_p": USUAL.top_p, "seed": USUAL.seed,
    "threads": None, "json": False,
}  # fmt: skip


def parse(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The values of a command line, or None if it is not a plain one.

    Example:
        >>> parse(["generate", "runs/book", "It was", "--bytes", "10"])["n_bytes"]
        10
        >>> parse(["generate", "--help"]) is None
        True
    """
    if not arguments or arguments[0] != "generate":
        return None
    values = dict(DEFAULTS)
    positional = []
    rest = iter(arguments[1:])
    for argument in rest:
        if argument == "--json":
            values["json"] = True
        elif argument in OPTIONS:
            name, kind, least, greatest = OPTIONS[argument]
            try:
                value = kind(next(rest, ""))
            except ValueError:
                return None
            if not least <= value <= greatest:
                return None
            values[name] = value
        elif argument.startswith("-"):
            return None
        else:
            positional.append(argument)
    if not 1 <= len(positional) <= 2 or not positional[0]:
        return None
    return values | dict(zip(("directory", "prompt"), positional, strict=False))


def run_plain(arguments: Sequence[str]) -> int | None:
    """Runs a plain command line and returns its exit code; None: it is none."""
    values = parse(arguments)
    if values is None:
        return None

    def run() -> None:
        from polychron.cli.generate import run_generate

        directory, prompt = Path(values.pop("directory")), os.fsencode(values.pop("prompt"))
        with quiet_when_nobody_reads():
            run_generate(directory, prompt, **values)

    return exit_code(run)
