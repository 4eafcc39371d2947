from __future__ import annotations

import subprocess
from pathlib import Path

from polychron.models import RecurrentConfig

from ..data.test_examples import write_idx_folder
from ..runtime.conftest import random_model, save_model
from .conftest import Command


def test_a_trained_model_becomes_a_program(polychron: Command, trained: Path, tmp_path: Path):
    done = polychron("export", trained, "--out", tmp_path / "c" / "sheep_model")
    assert done.code == 0
    assert "of constants" in done.out
    (result,) = polychron("export", trained, "--out", tmp_path / "c" / "sheep_model", "--json").objects
    source = Path(result["source"])
    assert source.name == "sheep_model.c"
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "c/sheep_model.h"\n'
        "int main(void) { static sheep_model_state s; int n; sheep_model_seed(&s, 1);\n  sheep_model_read(&s, 'I');\n"
        "  for (n = 0; n < 300; ++n) { uint8_t b = sheep_model_draw(&s); putchar(b); sheep_model_read(&s, b); }\n"
        "  return 0; }\n"
    )
    program = tmp_path / "program"
    subprocess.run(["gcc", "-std=c99", "-O1", tmp_path / "main.c", source, "-o", program], check=True)
    assert b"sheep" in subprocess.run([program], capture_output=True, check=True).stdout


def test_a_classifier_becomes_a_program_and_its_accuracy_is_told(polychron: Command, tmp_path: Path):
    write_idx_folder(tmp_path / "rows")
    done = polychron(
        "train-classifier", tmp_path / "rows", "--preset", "tiny", "--batch", 10, "--steps", 60, "--out", "r"
    )
    assert done.code == 0
    shown = polychron("export", "r", "--out", tmp_path / "rows_model", "--tables", tmp_path / "rows.tables").out
    assert "rows_model.h and" in shown
    assert "12 test examples: accuracy " in shown
    (result,) = polychron("export", "r", "--out", tmp_path / "rows_model", "--json").objects
    assert result["test_accuracy"] > 0.9
    refused = polychron("export", "r", "--to", "web", "--out", tmp_path / "page")
    assert refused.code == 2
    assert "holds a classifier, and a language model is asked for" in refused.err
    refused = polychron("export", "r", "--out", tmp_path / "rows_model", "--top-p", 0.5)
    assert (refused.code, "--top-p is for language models" in refused.err) == (2, True)
    (tmp_path / "rows" / "train-labels-idx1-ubyte").unlink()
    assert "accuracy not measured: " in polychron("export", "r", "--out", tmp_path / "rows_model").out


def test_a_recurrent_model_is_refused_as_c_and_told_what_takes_it(polychron: Command, tmp_path: Path):
    config = RecurrentConfig(vocabulary_size=5, n_neurons=8, n_tables=2, n_comparisons=2, readout_n_tables=2)
    recurrent = save_model(random_model(config), tmp_path / "recurrent")
    for kind in ("c", "web"):
        refused = polychron("export", recurrent, "--to", kind, "--out", tmp_path / "model")
        assert refused.code == 2
        assert refused.err.count("\n") == 1
        assert "this one is recurrent: take --to onnx or --to hf" in refused.err
    assert polychron("export", recurrent, "--to", "onnx", "--out", tmp_path / "model.onnx").code == 0


def test_bad_input_is_one_clear_line(polychron: Command, trained: Path, tmp_path: Path):
    for arguments, message in [
        (["nowhere", "--out", "x"], "nowhere does not exist"),
        ([trained], "--out"),
        ([trained, "--out", "x", "--to", "abacus"], "abacus"),
        ([trained, "--out", "x", "--temperature", 0], "temperature must be above 0"),
        ([trained, "--out", "x", "--to", "web", "--temperature", "nan"], "from 0 to 1.5; got nan"),
        ([trained, "--out", "x", "--to", "web", "--temperature", 2], "from 0 to 1.5; got 2"),
        ([trained, "--out", "1"], "begins with a letter"),
        ([trained, "--out", "x", "--to", "web", "--tables", "t"], "--tables is an option of --to c"),
        ([trained, "--out", ".", "--to", "web"], "is a folder: --out must name a file"),
        ([trained, "--out", "..", "--to", "web"], "is a folder: --out must name a file"),
        ([trained, "--out", "x", "--tables", "x.c"], "--tables must be a file of its own"),
        ([trained, "--out", "x", "--tables", "./x.h"], "--tables must be a file of its own"),
        ([trained, "--out", "x", "--to", "hf", "--temperature", 1], "--temperature is an option of --to c and web"),
        ([trained, "--out", "x", "--to", "onnx", "--top-p", 1], "--top-p is an option of --to c and web"),
        ([trained, "--out", trained / "config.json" / "x"], "cannot write"),
    ]:
        refused = polychron("export", *arguments)
        assert refused.code == 2
        assert refused.err.startswith("error: ")
        assert refused.err.count("\n") == 1
        assert message in refused.err
