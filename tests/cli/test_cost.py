from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Command


def test_the_papers_tables_and_all_presets(polychron: Command):
    (result,) = polychron("cost", "--json").objects
    assert result["spiking"]["operations"] == 172_800
    assert result["spiking"]["bandwidth"] == {"constant": 120, "slope": 30}
    assert result["dense"]["operations"] == 235_405_312
    assert result["paper_transformer_synapses"] == 805_773_312
    assert result["brain_proportion_watts"] == pytest.approx(0.002)
    names = [preset["model"] for preset in result["presets"]]
    assert "delay small" in names
    assert "transformer paper" in names


def test_a_person_reads_the_published_figures_and_the_critique(polychron: Command):
    out = polychron("cost").out
    for figure in ("10,496,000", "172,800", "235,405,312", "120 + 30 n", "805,773,312", "8,738.1", "988.0", "172.1"):
        assert figure in out
    assert "not a measurement" in out
    assert "modelled, not measured" in out


def test_a_checkpoint_is_counted_layer_by_layer(polychron: Command, trained: Path):
    (result,) = polychron("cost", trained, "--element", "int8", "--json").objects
    assert [layer["layer"] for layer in result["layers"]] == ["layer 0", "readout"]
    for name in ("synapses", "comparisons", "additions", "rows", "row_bytes"):
        assert result[name] == sum(layer[name] for layer in result["layers"])
    assert result["row_bytes"] == result["additions"]
    assert "together" in polychron("cost", trained).out


def test_the_plot_is_drawn(polychron: Command):
    done = polychron("cost", "--model", "delay", "--plot", "capacity.png")
    assert done.code == 0
    assert Path("capacity.png").read_bytes().startswith(b"\x89PNG")
    assert "delay small" in done.out


def test_bad_input_is_one_clear_line(polychron: Command, trained: Path):
    for arguments, message in [
        (["nowhere"], "nowhere does not exist"),
        ([trained, "--model", "delay"], "exclude each other"),
        (["--preset", "huge"], "must be one of micro, tiny, small, medium, base"),
        (["--plot", "capacity.doc"], "must end in one of"),
    ]:
        refused = polychron("cost", *arguments)
        assert refused.code == 2
        assert refused.out == ""
        assert refused.err.startswith("error: ")
        assert message in refused.err
