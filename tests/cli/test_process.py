"""What can only be seen from outside the process: kill -9, broken pipes, ``--help`` without waiting."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .conftest import SMALL_RUN, Command
from .test_train import weights

POLYCHRON = (sys.executable, "-W", "error", "-m", "polychron")


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*POLYCHRON, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path

from polychron.cli import main

text, folder = sys.argv[1], Path(sys.argv[2])
settings = [text, *sys.argv[3:]]
random.seed(0)


def in_child(*arguments):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(list(arguments)))
    return child


def step_saved(name):
    try:
        return json.loads((folder / name / "config.json").read_text())["position"]["step"]
    except FileNotFoundError:
        return None


whole = in_child("train", *settings, "--out", str(folder / "whole"))
os.waitpid(whole, 0)
steps = []
while len(steps) < 6 and (before := step_saved("killed") or 0) < 1000:
    command = ["--resume"] if steps else settings
    child = in_child("train", *command, "--out", str(folder / "killed"), "--checkpoint-seconds", "0.02")
    while (step_saved("killed") or 0) == before:  # killed too early, it would never come further
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the run ended before it was killed"
    steps.append(step_saved("killed"))
last = in_child("train", "--resume", "--out", str(folder / "killed"))
assert os.waitpid(last, 0)[1] == 0
print(json.dumps(steps))
"""


def test_runs_killed_at_random_moments_resume_and_end_with_the_same_bits(text: Path, tmp_path: Path):
    # Forked from one process that has loaded everything, or six starts would take most of a minute.
    settings = (*SMALL_RUN, "--steps", "1500", "--optimizer", "adagrad", "--seed", "5")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, text, tmp_path, *settings],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)
    assert len(steps) >= 2
    assert steps == sorted(steps)
    assert 0 < steps[-1] < 1500
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"config.json", "weights-1500.safetensors"}


@pytest.mark.parametrize("command", ["generate", "train"])
def test_a_reader_that_goes_away_ends_a_command_quietly(command: str, text: Path, trained: Path, tmp_path: Path):
    if command == "generate":
        process = start("generate", trained, "In", "--bytes", 10**9)
        assert process.stdout.read(10).startswith("In")
    else:
        process = start("train", text, *SMALL_RUN, "--minutes", 60, "--out", tmp_path / "run", "--json")
        assert any('"event": "training"' in line for line in process.stdout)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()
    if command == "train":
        assert json.loads((tmp_path / "run" / "config.json").read_text())["position"]["step"] > 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", [["generate", "{}", "In"], ["cost"]])
def test_a_full_disk_behind_standard_output_is_one_clear_line(command: list[str], trained: Path):
    arguments = [argument.format(trained) for argument in command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*POLYCHRON, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: cannot write to standard output: no space left on the device\n",
    )


def test_a_command_runs_with_standard_output_closed(trained: Path):
    command = " ".join([*map(shlex.quote, POLYCHRON), "generate", shlex.quote(str(trained)), "In", "--bytes 5", ">&-"])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_ends_generation_quietly(polychron: Command, trained: Path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    done = polychron("generate", trained, "In", "--bytes", 10**9)
    timer.join()
    assert done.code == 130
    assert done.err == ""
    assert done.out.startswith("In")


def test_ctrl_c_while_typer_is_loaded_ends_quietly():
    interrupted = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from polychron.cli import main\n"
        "sys.exit(main(['train', 'book.txt']))\n"
    )
    done = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_every_command_has_help_with_an_example(polychron: Command, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "generate" in polychron().out
    for command in ("train", "evaluate", "generate", "quantize", "export", "serve"):
        done = polychron(command, "--help")
        assert done.code == 0
        assert "\x1b" not in done.out
        assert f"Example: polychron {command} " in done.out
