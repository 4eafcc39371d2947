"""The command line: ``polychron train | evaluate | generate | quantize | export | serve``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from polychron.cli.plain_generate import run_plain

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code, which `polychron.cli.outcome.exit_code` explains."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    code = run_plain(arguments)
    if code is not None:
        return code
    try:
        from polychron.cli.app import main as run_with_typer
    except KeyboardInterrupt:  # typer's import takes long enough for Ctrl-C to meet it
        return 130
    return run_with_typer(arguments)
