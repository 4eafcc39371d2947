from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import Command


@pytest.mark.parametrize("to", ["int8", "bfloat16"])
def test_a_quantised_model_costs_about_as_much_and_writes(
    to: str, polychron: Command, trained: Path, text: Path, tmp_path: Path
):
    out = tmp_path / "small"
    (result,) = polychron("quantize", trained, "--to", to, "--out", out, "--json").objects
    assert result["bytes_after"] < result["bytes_before"] / (3.5 if to == "int8" else 1.9)
    assert abs(result["nats_per_byte_after"] - result["nats_per_byte_before"]) < 0.02
    (score,) = polychron("evaluate", out, "--json").objects
    assert score["nats_per_byte"] == result["nats_per_byte_after"]
    (score,) = polychron("evaluate", trained, "--json").objects
    assert score["nats_per_byte"] == pytest.approx(result["nats_per_byte_before"], rel=1e-9)
    assert "sheep" in polychron("generate", out, "In field", "--bytes", 200).out


def test_what_it_says_to_people(polychron: Command, trained: Path, text: Path, tmp_path: Path):
    done = polychron("quantize", trained, "--text", text, "--out", tmp_path / "small")
    assert done.code == 0
    assert "of weights ->" in done.out
    assert "nats/byte before" in done.out


def test_where_the_text_is_gone_the_model_is_written_all_the_same(polychron: Command, trained: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in trained.iterdir():
        content = path.read_bytes()
        if path.name == "config.json":
            content = content.replace(b'"path": "', b'"path": "/nowhere')
        (moved / path.name).write_bytes(content)
    done = polychron("quantize", moved)
    assert done.code == 0
    assert "loss not measured" in done.out
    assert "sheep" in polychron("generate", tmp_path / "moved-int8", "In field", "--bytes", 200).out


def test_what_the_runtime_does_not_run_is_not_written(polychron: Command, text: Path):
    assert polychron("train", text, "--preset", "tiny", "--reading", "soft", "--steps", 1, "--batch", 4, "--length", 32,
                     "--out", "run").code == 0  # fmt: skip
    refused = polychron("quantize", "run")
    assert refused.code == 2
    assert "the runtime reads one row a table, addressed by order; this model has reading soft" in refused.err
    assert not Path("run-int8").exists()


@pytest.mark.parametrize("inside", [".", "below"])
def test_a_folder_given_by_dots_has_its_own_name(polychron: Command, trained: Path, monkeypatch, inside: str):
    shutil.copytree(trained, "model")
    Path("model/below").mkdir()
    here = Path.cwd()
    monkeypatch.chdir(here / "model" / inside)
    done = polychron("quantize", "." if inside == "." else "..")
    assert done.code == 0, done.err
    assert (here / "model-int8" / "config.json").is_file()


def test_bad_input_is_one_clear_line(polychron: Command, trained: Path, tmp_path: Path):
    assert polychron("quantize", trained, "--out", tmp_path / "small").code == 0
    for arguments, message in [
        (["nowhere"], "nowhere does not exist"),
        ([trained, "--to", "int4"], "int4"),
        ([tmp_path / "small"], "is quantised to int8"),
        ([trained, "--out", tmp_path / "small"], "already has a checkpoint: give another --out\n"),
        ([trained, "--out", trained], "already has a checkpoint"),
        ([trained, "--out", "x" * 300], "File name too long"),
        ([trained, "--text", "nowhere"], "nowhere"),
    ]:
        refused = polychron("quantize", *arguments)
        assert refused.code == 2
        assert refused.err.startswith("error: ")
        assert refused.err.count("\n") == 1
        assert message in refused.err


def test_help_names_both_folders(polychron: Command):
    assert "DIR-bfloat16" in polychron("quantize", "--help").out
