"""The way around typer says what typer says."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from polychron.cli.commands import use
from polychron.cli.plain_generate import DEFAULTS, OPTIONS, parse


def test_options_ranges_and_defaults_are_those_of_the_app():
    parameters = inspect.signature(use.generate).parameters
    assert {name: p.default for name, p in parameters.items() if name != "directory"} == DEFAULTS
    hints = get_type_hints(use.generate, include_extras=True)
    for option, (name, _, least, greatest) in OPTIONS.items():
        (info,) = get_args(hints[name])[1:]
        # Inside Annotated typer keeps the first declared name where a default would be.
        assert option == (info.default if isinstance(info.default, str) else "--" + name.replace("_", "-"))
        assert (-math.inf if info.min is None else info.min) == least
        assert (math.inf if info.max is None else info.max) == greatest
    assert {name for name, *_ in OPTIONS.values()} | {"prompt", "json"} == DEFAULTS.keys()


@pytest.mark.parametrize(
    "line",
    ["", "train", "generate", "generate --help", "generate a b c", "generate a --byte 3", "generate a --bytes",
     "generate a --bytes x", "generate a --bytes -1", "generate a --threads 0", "generate a --temperature nan",
     "generate a --bytes=3", "generate -- a", "generate a -5", "generate a --seed 4294967296"],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_typer(line: str):
    assert parse(line.split()) is None


def test_an_empty_folder_is_left_to_typer_and_an_empty_prompt_is_not():
    assert parse(["generate", "", "x"]) is None
    assert parse(["generate", "a", ""]) == {**DEFAULTS, "directory": "a"}


def test_what_is_plain_is_understood():
    assert parse(["generate", "--json", "a", "--temperature", "0", "b c", "--seed", "7"]) == {
        **DEFAULTS, "directory": "a", "prompt": "b c", "json": True, "temperature": 0.0, "seed": 7,
    }  # fmt: skip


def test_the_plain_way_loads_neither_typer_nor_pydantic_nor_torch(trained: Path):
    script = (
        "import sys; from polychron.cli import main; "
        "assert main(['generate', sys.argv[1], 'In', '--bytes', '5']) == 0; "
        "print(sorted({'torch', 'numpy', 'typer', 'pydantic', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script, trained], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
