"""The command line: its commands in order, and exit codes.

Arguments, options and help are in `polychron.cli.commands`, what a command does in the module of its name. The latter
are imported when their command runs: ``--help`` need not wait for PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

import polychron
from polychron.cli.commands import learn, ship, study, use
from polychron.cli.outcome import exit_code
from polychron.errors import InputError

app = typer.Typer(
    name="polychron",
    help="Networks made of look-up tables addressed by spike order: they add, and multiply nothing.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _say_version(asked: bool) -> None:
    if asked:
        print(polychron.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Show its number and exit.")
    ] = False,
) -> None: ...


# In the order of the help.
app.command()(learn.train)
app.command()(use.evaluate)
app.command()(use.generate)
app.command("train-classifier")(learn.train_classifier)
app.command()(use.classify)
app.command()(study.cost)
app.command()(study.inspect)
app.command()(study.reproduce)
app.command()(ship.quantize)
app.command()(ship.export)
app.command()(ship.serve)
app.command()(study.bench)
app.command()(study.info)


def main(arguments: Sequence[str]) -> int:
    """Run a command line, as `polychron.cli.main` does, by way of typer."""

    def run() -> int | None:
        _refuse_empty(arguments)
        return typer.main.get_command(app).main(list(arguments), prog_name="polychron", standalone_mode=False)

    return exit_code(run)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """An empty path would mean the working folder; only a prompt may be empty."""
    if arguments[0] != "generate" and any(not a or (a.startswith("--") and a.endswith("=")) for a in arguments):
        raise InputError("an argument is empty: perhaps a variable of the shell that is not set")
