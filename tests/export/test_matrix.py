"""Every kind of model, in every precision, for every target: replayed, or refused on one line; the documented table."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM

from polychron import hub, models, runtime
from polychron.export import read_integer_classifier
from polychron.models.deep import DeepClassifier
from polychron.runtime import SamplingOptions

from ..cli.conftest import Command, polychron  # noqa: F401 - fixture
from ..runtime.conftest import COUNTED, MODELS, random_model, random_text, save_model
from ..runtime.test_quantized import quantized, streamed_units
from ..runtime.test_runtime import streamed_logits
from . import test_c, test_c_classifier, test_web
from .saved_classifier import save_classifier
from .test_onnx import same_bits

CONTEXTS = "delay with contexts"
LANGUAGE_MODELS = {
    "delay": MODELS["two delay layers"],
    CONTEXTS: COUNTED["contexts"],
    "transformer": MODELS["transformer"],
    "recurrent": MODELS["recurrent"],
    "another hash or reading": models.DelayConfig(
        vocabulary_size=28, n_tables=6, n_comparisons=4, readout_n_comparisons=4, hash="zero"
    ),
}
CLASSIFIER, OTHER_CLASSIFIER = "classifier", "classifier of another hash"
CLASSIFIERS: dict[str, dict[str, str]] = {CLASSIFIER: {}, OTHER_CLASSIFIER: {"hash": "hyperplane"}}
PRECISIONS = ("float32", "bfloat16", "int8")
TARGETS = ("c", "c --tables", "web", "hf", "onnx")
# docs/exports.md has this table; what is not in it is refused.
EXPRESSED = {
    ("delay", "float32"): ("c", "c --tables", "web", "hf", "onnx"),
    ("delay", "bfloat16"): ("onnx",),
    ("delay", "int8"): ("c", "c --tables", "web", "onnx"),
    (CONTEXTS, "float32"): ("c", "c --tables", "web", "hf"),
    (CONTEXTS, "bfloat16"): (),
    (CONTEXTS, "int8"): ("c", "c --tables", "web"),
    ("transformer", "float32"): ("c", "c --tables", "web", "hf", "onnx"),
    ("transformer", "bfloat16"): ("onnx",),
    ("transformer", "int8"): ("c", "c --tables", "web", "onnx"),
    ("recurrent", "float32"): ("hf", "onnx"),
    ("recurrent", "bfloat16"): ("onnx",),
    ("recurrent", "int8"): ("onnx",),
    ("another hash or reading", "float32"): ("hf",),
    (CLASSIFIER, "float32"): ("c", "c --tables", "hf", "onnx"),
    (OTHER_CLASSIFIER, "float32"): ("hf",),  # of the table's "another hash or reading"
}
OUT = {"c": "model", "c --tables": "model", "web": "model.html", "hf": "model", "onnx": "model.onnx"}


def documented() -> list[str]:
    rows = []
    for kind in (*LANGUAGE_MODELS, CLASSIFIER):
        found = (EXPRESSED.get((kind, precision), ()) for precision in PRECISIONS)
        cells = (", ".join(f"`{target}`" for target in targets) or "\u2013" for targets in found)
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return rows


def test_the_documentation_has_the_table():
    text = (Path(__file__).parents[2] / "docs" / "exports.md").read_text()
    for row in documented():
        assert row in text, row


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["another hash or reading", *CLASSIFIERS])
def test_what_is_not_quantised_is_refused(kind: str, precision: str, polychron: Command, tmp_path: Path):  # noqa: F811
    saved(kind, "float32", tmp_path)
    done = polychron("quantize", tmp_path / "run", "--to", precision)
    assert done.code == 2
    assert one_line(done.err)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("kind", "precision"), EXPRESSED)
def test_exported_and_replayed_or_refused(
    kind: str, precision: str, target: str, polychron: Command, tmp_path: Path  # noqa: F811
):  # fmt: skip
    if target == "web" and (shutil.which("clang") is None or shutil.which("wasm-ld") is None):
        pytest.skip("no clang and wasm-ld (Debian: clang, lld)")
    model, folder = saved(kind, precision, tmp_path)
    out = tmp_path / "out" / OUT[target]
    options = ["--tables", tmp_path / "out" / "model.tables"] if target == "c --tables" else []
    done = polychron("export", folder, "--to", target.split()[0], "--out", out, *options)
    if target not in EXPRESSED[kind, precision]:
        assert done.code == 2
        assert one_line(done.err)
        assert not out.parent.exists() or list(out.parent.iterdir()) == []
        return
    assert done.code == 0, done.err
    replay = replay_classifier if kind in CLASSIFIERS else REPLAYS[target.split()[0]]
    replay(model, folder, out, target, tmp_path)


def one_line(text: str) -> bool:
    return len(text.strip().splitlines()) == 1 and len(text) > 40


def saved(kind: str, precision: str, tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    """A model of random tables, and its folder in that precision."""
    if kind in CLASSIFIERS:
        model = test_c_classifier.random_classifier("two layers", **CLASSIFIERS[kind])
        save_classifier(model, tmp_path / "run")
        return model, tmp_path / "run"
    model = random_model(LANGUAGE_MODELS[kind])
    folder = save_model(model, tmp_path / "run")
    return model, folder if precision == "float32" else quantized(folder, precision)


def in_int8(folder: Path) -> runtime.Model:
    """What C and the page compute: a model in float32 is quantised on the way."""
    model = runtime.load(folder)
    return model if model.precision == "int8" else runtime.load(quantized(folder, "int8"))


def replay_c(model: models.LanguageModel, folder: Path, out: Path, target: str, tmp_path: Path) -> None:
    if not test_c.COMPILERS:
        pytest.skip("no C compiler")
    tables = tmp_path / "out" / "model.tables" if target == "c --tables" else None
    expected, text = in_int8(folder), random_text(200)
    program = test_c.compiled(test_c.COMPILERS[0], out.with_suffix(".c"), *(["-DTABLES"] if tables else []))
    logits, _, written = test_c.replayed(program, text, expected.vocabulary.size, 200, tables)
    assert np.array_equal(logits, streamed_units(expected, text))
    stream = expected.stream()
    stream.read(text)
    assert written == stream.generate(200, SamplingOptions(top_p=0.95, seed=7))


def replay_web(model: models.LanguageModel, folder: Path, out: Path, target: str, tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("no node")
    core = resources.files("polychron.export").joinpath("web/core.js").read_text()
    about = {**test_web.about(out), "settings": [("ab\n", 1.0, 0.95, 1, 200)]}
    command = ["node", "-e", core + test_web.RUN]
    ran = subprocess.run(command, input=json.dumps(about), capture_output=True, text=True, check=True)
    stream = in_int8(folder).stream()
    stream.start(b"ab\n")
    assert base64.b64decode(json.loads(ran.stdout)[0]) == stream.generate(200, SamplingOptions(top_p=0.95, seed=1))


def replay_hf(model: models.LanguageModel, folder: Path, out: Path, target: str, tmp_path: Path) -> None:
    tokens = torch.randint(28, (2, 40), generator=torch.manual_seed(1))
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(out)(tokens).logits, model(tokens))


def replay_onnx(model: models.LanguageModel, folder: Path, out: Path, target: str, tmp_path: Path) -> None:
    expected, text = runtime.load(folder), random_text(getattr(model.config, "context", 40))
    tokens = expected.vocabulary.encode(text).astype(np.int64)[None]
    (logits,) = onnxruntime.InferenceSession(out).run(None, {"tokens": tokens})
    assert same_bits(streamed_logits(expected, text), logits[0])


REPLAYS = {"c": replay_c, "web": replay_web, "hf": replay_hf, "onnx": replay_onnx}


def replay_classifier(model: DeepClassifier, folder: Path, out: Path, target: str, tmp_path: Path) -> None:
    inputs = test_c_classifier.random_inputs(50, model.config.n_pixels)
    brightness = torch.from_numpy(inputs).float() / 255
    with torch.no_grad():
        if target == "hf":
            assert torch.equal(hub.DeepClassifier.from_pretrained(out)(brightness), model(brightness))
        elif target == "onnx":
            (logits,) = onnxruntime.InferenceSession(out).run(None, {"inputs": brightness.numpy()})
            assert same_bits(model(brightness).numpy(), logits)
        elif test_c.COMPILERS:
            tables = tmp_path / "out" / "model.tables" if target == "c --tables" else None
            integers = read_integer_classifier(folder)
            logits, _ = test_c_classifier.replayed(
                out.with_suffix(".c"), inputs, len(integers.class_names), test_c.COMPILERS[0], tables
            )
            assert np.array_equal(logits, integers.logits(inputs))
