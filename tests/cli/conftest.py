"""Command lines run in this process, and a text to give them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from polychron.cli import main

SMALL_RUN = ("--preset", "tiny", "--batch", "4", "--length", "32")


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Standard output, every line of which is JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Outcome]


@pytest.fixture
def polychron(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch) -> Iterator[Command]:
    """polychron("train", ...) -> its outcome; run in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    n_threads = torch.get_num_threads()

    def run(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield run
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of about 30 kB with some structure to learn."""
    path = tmp_path_factory.mktemp("text") / "flock.txt"
    path.write_text("".join(f"In field {n % 97} there are {n * n % 1013} sheep.\n" for n in range(900)))
    return path


@pytest.fixture(scope="session")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model trained on that text for a moment."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", str(text), *SMALL_RUN, "--steps", "300", "--out", str(folder), "--json"]) == 0
    return folder
