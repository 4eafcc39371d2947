from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from polychron.cli.console import (
    JsonView,
    StatusLine,
    TerminalView,
    duration,
    make_console,
    resume_command,
    say,
    visible,
)
from polychron.cli.outcome import exit_code
from polychron.errors import InputError
from polychron.training.evaluate import Score
from polychron.training.run import CheckpointReport, ValidationReport
from polychron.training.steps import StepReport

FACTS = {
    "model": "delay",
    "preset": "small",
    "parameters": 3_459_680,
    "vocabulary": 83,
    "source": "austen.txt, 4,025,029 bytes",
    "held_out_bytes": 402_500,
    "optimizer": "sgd",
    "rate": 0.02,
    "schedule": "linear",
    "drop": 0.1,
    "members": 2,
    "contexts": 0,
    "recent": False,
    "beside": 0.0,
    "calibration": 0,
    "hash": "order",
    "reading": "hard",
    "gradient": "nearest",
    "tables": "float32",
    "batch": 32,
    "length": 128,
    "from": None,
    "only": None,
    "rewire": None,
    "seed": 0,
    "threads": 2,
    "step": 0,
    "train_seconds": 0.0,
    "checkpoint": "runs/a b",
}


def report(seconds: float) -> StepReport:
    return StepReport(
        step=int(seconds * 50),
        seconds=seconds,
        n_bytes=int(seconds * 2e5),
        nats_per_byte=1.25,
        bytes_per_second=2e5,
        rate=0.01,
        progress=seconds / 60,
    )


def test_a_log_gets_a_line_every_ten_seconds_of_training(capsys: pytest.CaptureFixture[str]):
    with TerminalView() as view:
        view.begin({**FACTS, "step": 100, "train_seconds": 5.0})
        for tenths in range(50, 300, 5):
            view.show(report(tenths / 10))
        view.show(ValidationReport(step=1500, score=Score(150.0, 100, 1.0), of_bytes=1000, final=False))
    out = capsys.readouterr().out
    assert "128 bytes a step, 10% of the tables left out, a readout of 2 members, seed 0" in out
    assert "resumed         at step 100, after 5 s of training" in out
    assert out.count("training loss 1.2500 nats/byte") == 2
    assert " 25%  200,000 bytes/s  training loss 1.2500 nats/byte  45 s left\n" in out
    assert "step 1,500: validation loss 1.5000 nats/byte = 2.1640 bits/byte (on 100 bytes)" in out


def test_a_failed_checkpoint_is_a_warning(capsys: pytest.CaptureFixture[str]):
    with TerminalView() as view:
        view.show(CheckpointReport(7, Path("run"), problem="disk full"))
    assert capsys.readouterr().err == "warning: disk full; training goes on\n"
    JsonView().show(CheckpointReport(7, Path("run"), problem="disk full"))
    assert json.loads(capsys.readouterr().out) == {"event": "warning", "step": 7, "problem": "disk full"}


def test_the_status_line_is_for_terminals_only():
    for is_terminal in (True, False):
        output = io.StringIO()
        console = Console(file=output, force_terminal=is_terminal, width=40, _environ={})
        with StatusLine(console) as status:
            status.show("[half] done " + "x" * 100)
            assert status.shown == is_terminal
        assert ("[half] done" in output.getvalue()) == is_terminal
        assert "x" * 41 not in output.getvalue()


def test_control_characters_are_shown_not_obeyed():
    assert visible("a\tb\nc\x1b]0;title\x07\x9b\r€") == "a\tb\nc·]0;title···€"


def test_no_line_for_people_commands_the_terminal(capsys: pytest.CaptureFixture[str]):
    say(make_console(), "a\x1b[31mb")
    output = io.StringIO()
    say(Console(file=output, force_terminal=True, highlight=False, markup=False, _environ={}), "a\x1b[31mb")

    def refuse() -> None:
        raise InputError("it says \x1b[31mb")

    assert exit_code(refuse) == 2
    said = capsys.readouterr()
    assert (said.out, output.getvalue(), said.err) == ("a·[31mb\n", "a·[31mb\n", "error: it says ·[31mb\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
)
def test_too_little_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]):
    def run() -> None:
        raise error

    assert exit_code(run) == 2
    assert capsys.readouterr().err.startswith("error: out of memory: take a smaller preset")


def test_other_errors_of_a_program_are_not_hidden():
    def run() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        exit_code(run)


def test_durations_read_like_speech():
    assert [duration(seconds) for seconds in (0.4, 59.4, 59.6, 3599.4, 3600, 7290)] == [
        "0 s", "59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "2 h 01 min",
    ]  # fmt: skip


def test_the_resume_command_can_be_pasted():
    assert resume_command(Path("runs/a b")) == "polychron train --resume --out 'runs/a b'"
    assert resume_command(Path("run"), "cuda") == "polychron train --resume --out run --device cuda"
