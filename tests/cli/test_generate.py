from __future__ import annotations

import io
from pathlib import Path

import torch

from polychron.cli.output import ByteStream
from polychron.training import open_checkpoint

from .conftest import Command


def test_the_prompt_comes_first_and_then_so_many_bytes(polychron: Command, trained: Path):
    done = polychron("generate", trained, "In field", "--bytes", 200)
    assert done.code == 0
    assert done.out.startswith("In field")
    assert len(done.out) == len("In field") + 200
    known = open_checkpoint(trained).vocabulary.byte_values.decode()
    assert set(done.out) <= set(known)
    assert "sheep" in done.out


def test_draws_follow_the_seed_and_temperature_zero_needs_none(polychron: Command, trained: Path):
    def text(*options: object) -> str:
        return polychron("generate", trained, "In", "--bytes", 100, *options).out

    assert text("--seed", 1) == text("--seed", 1) != text("--seed", 2)
    assert text("--seed", 1, "--temperature", 0) == text("--seed", 2, "--temperature", 0)
    assert text("--seed", 1, "--top-p", 1e-6) == text("--seed", 2, "--temperature", 0)


def test_prompts_may_be_empty_or_unknown_to_the_model(polychron: Command, trained: Path):
    assert len(polychron("generate", trained, "--bytes", 10).out) == 10
    assert polychron("generate", trained, "Zürich €", "--bytes", 0).out == "Zürich €"
    assert len(polychron("generate", trained, "x" * 500, "--bytes", 10).out) == 510


def test_an_empty_folder_is_not_the_working_folder(polychron: Command, trained: Path, monkeypatch):
    monkeypatch.chdir(trained)
    for line in (["", "x"], ["", "x", "--bytes=3"], ["--bytes", "3", ""]):
        refused = polychron("generate", *line)
        assert (refused.code, refused.out, "DIR is empty" in refused.err) == (2, "", True)
    assert polychron("generate", ".", "", "--bytes=3").code == 0


def test_json_is_one_object(polychron: Command, trained: Path):
    (result,) = polychron("generate", trained, "In", "--bytes", 50, "--json").objects
    assert result["prompt"] == "In"
    assert result["bytes"] == len(result["text"]) == 50
    assert result["bytes_per_second"] > 0


def test_threads_are_pytorchs_where_it_runs_the_model(polychron: Command, text: Path):
    polychron("train", text, "--preset", "tiny", "--reading", "soft", "--steps", 1, "--batch", 4, "--length", 32,
              "--threads", 2, "--out", "run")  # fmt: skip
    assert torch.get_num_threads() == 2
    assert polychron("generate", "run", "In", "--bytes", 1, "--threads", 1).code == 0
    assert torch.get_num_threads() == 1
    assert "where PyTorch runs the model" in " ".join(polychron("generate", "--help").out.replace("│", " ").split())


def test_bad_input_is_one_clear_line(polychron: Command, trained: Path):
    for arguments, message in [
        (["nowhere"], "nowhere does not exist"),
        ([trained, "x", "--temperature", -1], "temperature must be 0 or above"),
        ([trained, "x", "--top-p", 0], "top-p must be above 0"),
        ([trained, "x", "--bytes", -1], "--bytes"),
        ([trained, "x", "y"], "y"),
    ]:
        refused = polychron("generate", *arguments)
        assert refused.code == 2
        assert refused.out == ""
        assert refused.err.startswith("error: ")
        assert refused.err.count("\n") == 1
        assert message in refused.err


class Terminal(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", newline="\n")

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        return self.buffer.getvalue().decode()


def test_a_terminal_gets_whole_characters_and_no_commands():
    terminal = Terminal()
    stream = ByteStream(terminal)
    for byte in "a€\x1b[31m\tz".encode():
        stream.write(bytes([byte]))
        assert "\ufffd" not in terminal.shown
    stream.write(b"\xff\xe2")
    stream.close()
    assert terminal.shown == "a€·[31m\tz\ufffd\ufffd\n"
