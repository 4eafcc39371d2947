"""What can only be seen from outside the process: kill -9, broken pipes, ``--help`` without waiting."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import SMALL_RUN
from .test_train import weights

POLYCHRON = (sys.executable, "-W", "error", "-m", "polychron")


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*POLYCHRON, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_runs_killed_at_random_moments_resume_and_end_with_the_same_bits(text: Path, tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = (text, *SMALL_RUN, "--steps", 2500, "--optimizer", "adagrad", "--checkpoint-seconds", 0.05)
    uninterrupted = start("train", *settings, "--out", whole, "--json")
    moments = random.Random(0)
    steps = []
    for round_ in range(3):
        command = ("--resume",) if round_ else settings
        process = start("train", *command, "--out", killed, "--checkpoint-seconds", 0.05, "--json")
        for line in process.stdout:
            if json.loads(line)["event"] == "training":
                break
        time.sleep(moments.uniform(0.05, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        steps.append(json.loads((killed / "config.json").read_text())["position"]["step"])
    out, err = start("train", "--resume", "--out", killed, "--json").communicate()
    assert json.loads(out.splitlines()[-1])["event"] == "result", err
    uninterrupted.communicate()
    assert 0 < steps[0] < steps[-1] < 2500, steps
    assert weights(killed) == weights(whole)
    assert {path.name for path in killed.iterdir()} == {"config.json", "weights-2500.safetensors"}


@pytest.mark.parametrize("command", ["generate", "train"])
def test_a_reader_that_goes_away_ends_a_command_quietly(command: str, text: Path, trained: Path, tmp_path: Path):
    if command == "generate":
        process = start("generate", trained, "In", "--bytes", 10**9)
    else:
        process = start("train", text, *SMALL_RUN, "--minutes", 60, "--out", tmp_path / "run", "--json")
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == ""
    process.stderr.close()
    if command == "train":
        assert (tmp_path / "run" / "config.json").exists()


def test_ctrl_c_ends_generation_quietly(trained: Path):
    process = start("generate", trained, "In", "--bytes", 10**9)
    process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == ""


def test_every_command_has_help_with_an_example():
    for command in ((), ("train",), ("evaluate",), ("generate",)):
        done = subprocess.run(
            [*POLYCHRON, *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "NO_COLOR": "1"},
        )
        assert "\x1b" not in done.stdout
        assert "polychron" in done.stdout
        if command:
            assert f"Example: polychron {command[0]} " in done.stdout
