"""`polychron export --to hf`: what it writes, what it refuses, and what it leaves behind when it cannot write."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from polychron import hub
from polychron.errors import InputError
from polychron.export.huggingface import export_hf

from ..cli.conftest import Command, polychron, text, trained  # noqa: F401 - fixtures
from ..cli.test_classify import classifier, images  # noqa: F401
from ..runtime.conftest import MODELS, random_model, save_model
from ..runtime.test_quantized import quantized
from ..training.test_checkpoint import files_limited_to


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_model(random_model(MODELS["delay"]), tmp_path / "run")


def test_a_language_model_becomes_a_folder_for_transformers(polychron: Command, trained: Path, tmp_path: Path):  # noqa: F811
    out = tmp_path / "deep" / "flock-hf"
    done = polychron("export", trained, "--to", "hf", "--out", out)
    assert done.code == 0
    assert done.err == ""
    assert done.out.startswith(f"{out}: ")
    assert "for transformers.AutoModelForCausalLM.from_pretrained" in done.out
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "modeling_polychron.py",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert 'from_pretrained("flock-hf")' in (out / "README.md").read_text()
    (result,) = polychron("export", trained, "--to", "hf", "--out", tmp_path / "again", "--json").objects
    assert result["bytes"] == sum(path.stat().st_size for path in (tmp_path / "again").iterdir())
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size > 20
    assert list(Path().iterdir()) == []
    assert polychron("export", trained, "--to", "hf", "--out", ".").code == 0  # an empty folder may be given


@pytest.mark.parametrize("name", ["delay", "transformer"])
def test_a_model_trained_in_bfloat16_keeps_its_bits(name: str, tmp_path: Path):
    model = random_model(replace(MODELS[name], table_type="bfloat16"))
    export_hf(save_model(model, tmp_path / "run"), tmp_path / "hub")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hub")
    tokens = torch.randint(27, (2, 30), generator=torch.manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens))


def test_a_classifier_becomes_a_folder_for_the_hub(polychron: Command, classifier: Path, tmp_path: Path):  # noqa: F811
    out = tmp_path / "rows-hf"
    done = polychron("export", classifier, "--to", "hf", "--out", out)
    assert done.code == 0
    assert "for polychron.hub.DeepClassifier.from_pretrained" in done.out
    loaded, expected = hub.DeepClassifier.from_pretrained(out), hub.from_checkpoint(classifier)
    inputs = torch.rand(7, expected.config.n_pixels)
    assert torch.equal(loaded(inputs), expected(inputs))
    assert loaded.class_names == expected.class_names


def test_bad_input_is_one_clear_line(polychron: Command, saved: Path, tmp_path: Path):  # noqa: F811
    torn = Path(shutil.copytree(saved, tmp_path / "torn"))
    for path in torn.glob("weights-*"):
        path.write_bytes(path.read_bytes()[:-1])
    small = quantized(saved, "int8")
    (tmp_path / "file").write_text("mine")
    for arguments, message in [
        (["nowhere", "--out", "x"], "nowhere does not exist"),
        ([torn, "--out", "x"], "is truncated"),
        ([small, "--out", "x"], "is quantised to int8 and models of the hub are float32"),
        ([saved], "--out"),
        ([saved, "--out", tmp_path], "is there already"),
        ([saved, "--out", tmp_path / "file"], "is there already"),
        ([saved, "--out", tmp_path / "file" / "x"], "cannot write"),
    ]:
        refused = polychron("export", "--to", "hf", *arguments)
        assert refused.code == 2
        assert refused.out == ""
        assert refused.err.startswith("error: ")
        assert refused.err.count("\n") == 1
        assert message in refused.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("n_bytes", [0, 100, 10_000])
def test_a_full_disk_leaves_nothing_behind(saved: Path, tmp_path: Path, n_bytes: int):
    with files_limited_to(n_bytes), pytest.raises(InputError, match="cannot write"):
        export_hf(saved, tmp_path / "out" / "hf")
    assert list((tmp_path / "out").iterdir()) == []
    export_hf(saved, tmp_path / "out" / "hf")


def test_without_its_packages_it_says_how_to_get_them(saved: Path, tmp_path: Path):
    program = (
        "import sys; sys.modules['transformers'] = None\nfrom polychron.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "export", saved, "--to", "hf", "--out", tmp_path / "hf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: export --to hf needs transformers, which is missing: pip install 'polychron[transformers]'\n"
    )
