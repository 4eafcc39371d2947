from __future__ import annotations

import html.parser
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from polychron import runtime
from polychron.cli.inspect import _dequantized
from polychron.runtime import text_stream
from polychron.storage import TensorFile
from polychron.training.checkpoint import open_checkpoint

from .conftest import Command

TINY = ("--minutes", "0.01", "--batch", "4", "--length", "16", "--json")


class Tags(html.parser.HTMLParser):
    """Opened and closed elements, and what is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_model_is_inspected_on_what_was_held_out(polychron: Command, trained: Path):
    (result,) = polychron("inspect", trained, "--json").objects
    assert [layer["layer"] for layer in result["layers"]] == ["layer 0", "readout"]
    for layer in result["layers"]:
        assert sum(layer["rows_read"].values()) == pytest.approx(1)
        assert 0 < layer["entropy_bits"]["mean"] <= layer["entropy_bits"]["possible"]
        assert 0 <= layer["near_ties"]["0.01"] <= layer["near_ties"]["0.1"] <= layer["near_ties"]["1"] <= 1
    out = polychron("inspect", trained).out
    assert "rows read" in out
    assert "bytes: 2,816 bytes read" in out
    assert "readout" in out


def test_the_report_is_one_file_that_loads_nothing(polychron: Command, trained: Path, text: Path):
    done = polychron("inspect", trained, text, "--bytes", 2000, "--html", "report.html", "--spikes", "In <b>&")
    assert done.code == 0
    assert "report with pictures: report.html" in done.out
    page = Path("report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert tags.counts["svg"] == 2 * 4 + 2  # four pictures a layer, and the spikes that each compares
    assert tags.counts["img"] == 2
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert "2,000 bytes read" in page
    assert [path.name for path in Path().iterdir()] == ["report.html"]


@pytest.mark.parametrize("kind", ["transformer", "recurrent"])
def test_the_other_networks_are_inspected(polychron: Command, text: Path, kind: str):
    preset = {"transformer": "paper-small", "recurrent": "small"}[kind]
    polychron("train", text, "--model", kind, "--preset", preset, "--out", "run", *TINY)
    (result,) = polychron("inspect", "run", "--bytes", 300, "--html", "report.html", "--json").objects
    names = {"transformer": ["attention 0", "FFN 0", "attention 1", "FFN 1", "readout"],
             "recurrent": ["recurrent", "readout"]}[kind]  # fmt: skip
    assert [layer["layer"] for layer in result["layers"]] == names
    if kind == "recurrent":  # read side by side in stretches
        (result,) = polychron("inspect", "run", "--bytes", 1100, "--json").objects
        assert [layer["readings"] for layer in result["layers"]] == [1024, 1024]


def test_a_classifier_is_inspected_on_its_test_part(polychron: Command):
    rng = np.random.default_rng(0)
    lines = [",".join(map(str, [*rng.integers(0, 256, 9), n % 2])) for n in range(60)]
    Path("set.csv").write_text("\n".join(lines) + "\n")
    polychron("train-classifier", "set.csv", "--steps", 3, "--out", "run", "--json")
    (result,) = polychron("inspect", "run", "--html", "report.html", "--json").objects
    assert [layer["readings"] for layer in result["layers"]] == [12, 12]
    assert polychron("inspect", "run", "set.csv", "--bytes", 5).code == 0
    refused = polychron("inspect", "run", "--html", "report.html", "--spikes", "abc")
    assert (refused.code, "--spikes is a text" in refused.err) == (2, True)


def test_a_folder_whose_name_is_no_unicode_has_a_report(polychron: Command, trained: Path, text: Path):
    folder = shutil.copytree(trained, os.fsdecode(b"t\xfcr"))
    done = polychron("inspect", folder, text, "--bytes", 500, "--html", "report.html")
    assert done.code == 0, done.err
    assert r"t\udcfcr: how its tables are used" in Path("report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("precision", "tolerance"), [("int8", 1e-6), ("bfloat16", 1e-6)])
def test_a_quantised_model_is_inspected_as_the_runtime_runs_it(
    polychron: Command, trained: Path, text: Path, precision: str, tolerance: float
):
    polychron("quantize", trained, "--to", precision, "--out", "small")
    (result,) = polychron("inspect", "small", "--json").objects
    assert precision in result["facts"][0]
    part = text.read_bytes()[:500]
    checkpoint = open_checkpoint("small")
    nats = _dequantized(checkpoint).score(torch.from_numpy(checkpoint.vocabulary.encode(part).astype(np.int64)))
    *_, (expected, n_bytes) = text_stream.score_progressively(runtime.load("small"), part)
    assert n_bytes == len(nats)
    assert nats.double().sum().item() == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_a_damaged_quantised_model_is_one_clear_line(polychron: Command, trained: Path, precision: str):
    polychron("quantize", trained, "--to", precision, "--out", "small")
    (path,) = Path("small").glob("weights-*.safetensors")
    entry = TensorFile(path).entries["model.layers.0.delays"]
    with path.open("r+b") as file:  # a delay as the runtime allows it, and this model has none so long
        file.seek(entry.begin)
        file.write(np.int32(open_checkpoint("small").config.max_delay + 1).tobytes())
    refused = polychron("inspect", "small")
    assert refused.code == 2
    assert refused.err.startswith(f"error: {path} is damaged: layers.0.delays must lie in [0, ")
    assert len(refused.err.splitlines()) == 1


def test_bad_input_is_one_clear_line(polychron: Command, trained: Path):
    for arguments, message in [
        (["nowhere"], "nowhere does not exist"),
        ([trained, "nowhere.txt"], "nowhere.txt"),
        ([trained, "--html", "no/such/folder/report.html"], "is not a folder"),
        ([trained, "--html", "."], "it is a folder"),
        ([trained, "--html", "x" * 300], "File name too long"),
        ([trained, "--html", f"{'x' * 300}/report.html"], "cannot write"),
        ([trained, "--spikes", "abc"], "give --html FILE as well"),
    ]:
        refused = polychron("inspect", *arguments)
        assert refused.code == 2
        assert refused.out == ""
        assert refused.err.startswith("error: ")
        assert message in refused.err


def test_help_names_an_example(polychron: Command):
    assert "polychron inspect runs/book" in polychron("inspect", "--help").out
