from __future__ import annotations

from pathlib import Path

import pytest

from polychron.training.classify import open_classifier

from .conftest import Command


def test_the_papers_tables_and_all_presets(polychron: Command):
    (result,) = polychron("cost", "--json").objects
    assert result["spiking"]["operations"] == 172_800
    assert result["spiking"]["bandwidth"] == {"constant": 120, "slope": 30}
    assert result["dense"]["operations"] == 235_405_312
    assert result["paper_transformer_synapses"] == 805_773_312
    assert result["brain_proportion_watts"] == pytest.approx(0.002)
    elements = {preset["model"]: preset["element"] for preset in result["presets"]}
    assert (elements["delay small"], elements["transformer paper"]) == ("float32", "float32")
    assert (elements["delay medium"], elements["delay base"]) == ("bfloat16", "bfloat16")
    (as_one,) = polychron("cost", "--element", "int8", "--json").objects
    assert {preset["element"] for preset in as_one["presets"]} == {"int8"}


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


def test_networks_without_attention_are_counted_as_table_i_and_transformers_as_table_iv(polychron: Command):
    (recurrent,) = polychron("cost", "--model", "recurrent", "--preset", "paper", "--json").objects
    counted = recurrent["counted_as_published"]
    assert counted["bandwidth"] == {"constant": 5_376 + 4_352, "slope": 0}
    assert counted["rows_counted"] is True
    (transformer,) = polychron("cost", "--model", "transformer", "--json").objects
    assert transformer["counted_as_published"]["rows_counted"] is False
    assert (
        "9,728 numbers read for a token, rows counted (Table I)"
        in polychron("cost", "--model", "recurrent", "--preset", "paper").out
    )
    shown = polychron("cost", "--model", "transformer", "--preset", "paper").out
    assert "2,976 + 1,152 n numbers read for a token, rows not counted (Table IV)" in shown
    assert "keys from 1 MB SRAM" in shown


@pytest.mark.parametrize(("element", "row_bytes", "latency_bytes"), [("bfloat16", 2, 4), ("int8", 1, 2)])
def test_a_checkpoint_is_counted_with_the_numbers_that_its_tables_have(
    element: str, row_bytes: int, latency_bytes: int, polychron: Command, trained: Path, text: Path
):
    assert polychron("quantize", trained, "--to", element, "--out", "small").code == 0
    (result,) = polychron("cost", "small", "--measure", text, "--bytes", "300", "--json").objects
    assert result["element"] == result["measured"]["element"] == element
    assert result["row_bytes"] == row_bytes * result["additions"]
    assert result["latency_bytes"] == 2 * latency_bytes * result["comparisons"]
    for layer, measured in zip(result["layers"], result["measured"]["layers"], strict=True):
        assert measured["predicted"]["row_bytes"] == layer["row_bytes"]
    shown = polychron("cost", "small", "--measure", text, "--bytes", "300").out
    assert f"the next token of a text, {element}" in shown
    assert f"300 bytes of flock, {element}" in shown
    assert ("a latency takes 4 in the runtime's memory; latency bytes above are of 2 each" in shown) == (
        element == "int8"
    )
    (as_if,) = polychron("cost", "small", "--element", "float32", "--json").objects
    assert as_if["row_bytes"] == 4 * result["additions"]


def test_what_the_kernels_counted_stands_beside_what_was_predicted(polychron: Command, trained: Path, text: Path):
    (result,) = polychron("cost", trained, "--measure", text, "--bytes", "300", "--json").objects
    measured = result["measured"]
    assert (measured["bytes"], measured["element"]) == (300, "float32")
    for layer, counted in zip(result["layers"], measured["layers"], strict=True):
        assert counted["layer"] == layer["layer"]
        assert counted["predicted"]["row_bytes"] == layer["row_bytes"]
        assert counted["counted"]["rows"] == layer["rows"]
        assert counted["counted"]["additions"] >= layer["additions"]
        assert 0 < counted["distinct_rows"] <= 300 * layer["rows"]
    read = polychron("cost", trained, "--measure", text).out
    assert "counted by the kernels" in read
    assert "rows were read at least once" in read


def test_a_classifier_is_counted_for_one_example(polychron: Command, tmp_path: Path):
    data = tmp_path / "points.csv"
    data.write_text(
        "\n".join(",".join(str((n * k * 37 + k) % 256) for k in range(1, 9)) + f",{n % 2}" for n in range(90))
    )
    polychron("train-classifier", data, "--preset", "tiny", "--steps", 2, "--batch", 8, "--out", "run", "--json")
    (result,) = polychron("cost", "run", "--json").objects
    config = open_classifier("run").config
    assert [layer["layer"] for layer in result["layers"]] == ["layer 0", "readout"]
    assert result["for"] == "example"
    assert result["rows"] == config.n_tables + config.readout_n_tables
    assert result["additions"] == config.n_tables * config.n_neurons + config.readout_n_tables * 2
    assert result["counted_as_published"]["operations"] == result["comparisons"] + result["additions"]
    assert "for one example, float32" in polychron("cost", "run").out
    refused = polychron("cost", "run", "--measure", data)
    assert refused.code == 2
    assert "run holds a classifier" in refused.err


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
        (["--measure", "nowhere.txt"], "give its folder DIR as well"),
        ([trained, "--bytes", 100], "--bytes says how much of a text --measure reads"),
        (
            [trained, "--element", "int8", "--measure", "nowhere.txt"],
            "as it is, with tables of float32: leave --element int8 out",
        ),
        ([trained, "--measure", "nowhere.txt"], "no such file or folder: nowhere.txt"),
    ]:
        refused = polychron("cost", *arguments)
        assert refused.code == 2
        assert refused.out == ""
        assert refused.err.startswith("error: ")
        assert message in refused.err
