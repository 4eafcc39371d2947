"""`polychron bench`."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import polychron as package
from polychron.analysis import speed
from polychron.analysis.speed import LayerSpeed, MemorySpeed, ModelSpeed, Spread
from polychron.ops.dispatch import native

from .conftest import Command

needs_kernels = pytest.mark.skipif(native is None, reason="the extension is not built")

SPREAD = {"lower_quartile", "median", "upper_quartile", "turns"}


@needs_kernels
def test_json_has_every_figure(polychron: Command):
    done = polychron("bench", "--seconds", "0.1", "--threads", 1, "--json")
    assert (done.code, done.err) == (0, "")
    [fields] = done.objects
    assert set(fields) == {
        "polychron", "torch", "kernel", "threads", "huge_pages", "seconds", "memory", "layers", "models",
    }  # fmt: skip
    assert (fields["threads"], fields["seconds"]) == (1, 0.1)
    assert torch.get_num_threads() == 1
    assert fields["kernel"] == package.kernel_info()["kernel"]
    assert [(point["row_bytes"], point["working_set"]) for point in fields["memory"]] == [
        (row_bytes, n_bytes) for row_bytes in (64, 256) for n_bytes in (1 << 15, 1 << 19, 1 << 24, 1 << 28)
    ]
    for point in fields["memory"]:
        assert point["rows_per_second"] * point["row_bytes"] == point["bytes_per_second"] > 0
        assert point["share"] == point["gather_rows_per_second"] / point["rows_per_second"] > 0
        assert point["prefetch_distance"] in (0, 4, 8, 16, 32, 64)
    sizes = ("n_neurons", "n_tables", "n_comparisons", "batch")
    assert [tuple(layer[name] for name in sizes) for layer in fields["layers"]] == list(speed.LAYERS)
    for layer in fields["layers"]:
        for kind in ("forward", "step"):
            assert set(layer[kind]) == SPREAD
            rows = layer["batch"] * layer["n_tables"]
            assert layer[f"{kind}_rows_per_second"] == rows / layer[kind]["median"] > 0
    assert [model["preset"] for model in fields["models"]] == ["micro", "tiny", "small"]
    for model in fields["models"]:
        assert set(model["training"]) == set(model["scoring"]) == SPREAD
        n_bytes = model["batch"] * model["length"]
        assert model["train_bytes_per_second"] == n_bytes / model["training"]["median"] > 0
        assert model["score_bytes_per_second"] == model["scored_bytes"] / model["scoring"]["median"] > 0


def figures(seconds: float) -> Iterator[MemorySpeed | LayerSpeed | ModelSpeed]:
    assert seconds == 20
    yield MemorySpeed(64, 1 << 15, 3.456e9, 8, 1.728e9)
    yield MemorySpeed(256, 1 << 28, 4.56e7, 16, 4.56e7)
    yield LayerSpeed(512, 8, 10, 4096, Spread(1e-3, 1.5368e-3, 2e-3, 9), Spread(1e-2, 12.5e-3, 2e-2, 9))
    yield LayerSpeed(32, 64, 10, 1, Spread(5e-6, 5.12e-6, 6e-6, 9), Spread(8e-6, 1e-5, 2e-5, 9))
    yield ModelSpeed("small", 32, 128, 1 << 15, Spread(1e-2, 1.024e-2, 2e-2, 9), Spread(1e-2, 1.6384e-2, 2e-2, 9))


@needs_kernels
def test_a_person_reads_three_tables_of_eighty_columns(polychron: Command, monkeypatch):
    monkeypatch.setattr(speed, "measure_speed", figures)
    done = polychron("bench", "--threads", 2)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"kernels {package.kernel_info()['kernel']}, 2 threads, huge pages ")
    rows = [line.split() for line in lines if line.startswith("  ")]
    assert rows == [
        ["row,", "bytes", "memory", "M", "rows/s", "GB/s", "gather,", "M", "rows/s", "share"],
        ["64", "32", "KiB", "3,456", "221", "1,728", "50%"],
        ["256", "256", "MiB", "45.6", "11.7", "45.6", "100%"],
        ["n", "n_t", "n_c", "batch", "forward,", "us", "M", "rows/s", "step,", "us", "M", "rows/s"],
        ["512", "8", "10", "4,096", "1,537", "21.3", "12,500", "2.6"],
        ["32", "64", "10", "1", "5.1", "12.5", "10.0", "6.4"],
        ["preset", "batch", "training,", "bytes/s", "scoring,", "bytes/s"],
        ["small", "32", "x", "128", "400,000", "2,000,000"],
    ]
    titles = [title for title, below in itertools.pairwise(lines) if below.startswith("  ") and title[0] != " "]
    assert [title.split()[0] for title in titles] == ["Rows", "Layers", "Delay"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds must be positive and at most 3,600; got 0"),
        (["--seconds", "nan"], "--seconds must be positive and at most 3,600; got nan"),
        (["--seconds", "1e9"], "--seconds must be positive and at most 3,600; got 1e+09"),
        (["--seconds", "long"], "'--seconds': Input should be a valid number"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], message: str, polychron: Command):
    refused = polychron("bench", *arguments)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: ")
    assert refused.err.count("\n") == 1
    assert message in refused.err


def test_without_the_native_kernels_it_says_so_in_one_line():
    program = """
import sys
sys.modules["polychron._native"] = None  # what an installation without a compiler looks like
from polychron.cli import main
sys.exit(main(["bench", "--json"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: polychron's native extension is missing")
    assert done.stderr.count("\n") == 1


@needs_kernels
def test_another_arithmetic_is_not_timed_as_if_it_were_the_kernels():
    command = [sys.executable, "-m", "polychron", "bench"]
    environment = {**os.environ, "POLYCHRON_KERNEL": "reference"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: native kernels are measured, and POLYCHRON_KERNEL forces reference: unset it\n"


def test_help_has_an_example(polychron: Command, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = polychron("bench", "--help")
    assert shown.code == 0
    assert "Example: polychron bench " in shown.out
    assert "  bench " in polychron().out.replace("│", " ")
