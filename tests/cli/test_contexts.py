"""What the commands do with a model that has counted contexts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from polychron.cli import main
from polychron.ops.contexts import LISTS
from polychron.ops.recent import N_CELLS
from polychron.training import open_checkpoint

from .conftest import SMALL_RUN, Command


@pytest.fixture(scope="module")
def counted(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for a moment that has contexts of up to four bytes."""
    folder = tmp_path_factory.mktemp("counted") / "run"
    arguments = ["--steps", "60", "--contexts", "4", "--calibration", "2048", "--out", str(folder), "--json"]
    assert main(["train", str(text), *SMALL_RUN, *arguments]) == 0
    assert open_checkpoint(folder).config.context_depth == 4
    return folder


@pytest.mark.parametrize("to", ["int8", "bfloat16"])
def test_it_is_quantised_scored_and_written_with(to: str, polychron: Command, counted: Path, tmp_path: Path):
    out = tmp_path / "small"
    (result,) = polychron("quantize", counted, "--to", to, "--out", out, "--json").objects
    assert abs(result["nats_per_byte_after"] - result["nats_per_byte_before"]) < 0.005
    (score,) = polychron("evaluate", out, "--json").objects
    assert score["nats_per_byte"] == result["nats_per_byte_after"]
    (score,) = polychron("evaluate", counted, "--json").objects
    assert score["nats_per_byte"] == pytest.approx(result["nats_per_byte_before"], rel=1e-9)
    for folder in (counted, out):
        assert "sheep" in polychron("generate", folder, "In field", "--bytes", 200).out
    (facts,) = polychron("inspect", out, "--json").objects
    assert "counted contexts of up to 4 bytes" in facts["facts"][-1]
    stored = [sum(level["contexts"] for level in of_kind["levels"]) for of_kind in facts["contexts"]]
    assert stored == list(open_checkpoint(out).config.n_contexts)


def test_inspecting_it_shows_how_deep_contexts_were_met(polychron: Command, counted: Path, text: Path, tmp_path: Path):
    page = tmp_path / "report.html"
    (facts,) = polychron("inspect", counted, text, "--bytes", "2000", "--html", page, "--json").objects
    for of_kind, deepest in zip(facts["contexts"], (4, 4, 3), strict=True):
        levels = of_kind["levels"]
        assert [level["depth"] for level in levels] == [*range(deepest + 1)]
        assert of_kind["positions"] == 1999
        assert sum(level["ends"] for level in levels) == pytest.approx(1)
        assert all(level["contexts_read"] <= level["contexts"] for level in levels)
        assert f"<h2>counted contexts: {of_kind['kind']}</h2>" in page.read_text(encoding="utf-8")
    assert facts["contexts"][0]["levels"][-1]["ends"] > 0.5  # most of the text was counted
    assert "bytes deep in the mean" in polychron("inspect", counted).out


def test_what_contexts_cost_is_predicted_and_counted(polychron: Command, counted: Path, text: Path):
    config = open_checkpoint(counted).config
    (result,) = polychron("cost", counted, "--measure", text, "--bytes", "300", "--json").objects
    kinds = [f"contexts: {kind}" for kind in LISTS]
    assert [layer["layer"] for layer in result["layers"]] == ["layer 0", "readout", *kinds, "contexts: recent"]
    assert [layer["synapses"] for layer in result["layers"][-4:]] == [*config.n_context_entries, N_CELLS]
    assert result["synapses"] == sum(layer["synapses"] for layer in result["layers"])
    assert [layer["place_bytes"] for layer in result["layers"]] == [0, 0, 4 * 64, 4 * 64, 3 * 64, 5 * 64]
    assert result["energy_nanojoules"]["place_memory"] == "DRAM"
    measured = result["measured"]["layers"][-4:]
    assert [layer["n_rows"] for layer in measured] == [*config.n_contexts, N_CELLS]
    # Of depth 0 to 4; a place in a line has 3 bytes; two symbols in each of five recent tables.
    for layer, n_rows in zip(measured, (5, 5, 4, 10), strict=True):
        predicted, read = layer["predicted"], layer["counted"]
        assert predicted["rows"] == n_rows
        for name in ("rows", "additions", "row_bytes"):
            assert 0 < read[name] <= predicted[name]
        # Lines of an index hold rows, too; where one is full, a search goes on to the next.
        assert 0 < read["other_bytes"] <= 3 * predicted["other_bytes"]
        assert 0 < layer["distinct_rows"] <= 300 * n_rows
    shown = polychron("cost", counted, "--measure", text).out
    assert "of contexts at most" in shown
    assert "places from DRAM" in shown
    assert "as far as the text's contexts were met" in shown


def test_writing_needs_no_pytorch(counted: Path):
    script = (
        "import sys; from polychron.cli import main; assert main(['generate', sys.argv[1], 'a', '--bytes', '5']) == 0; "
        "print(sorted({'torch', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script, counted], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
