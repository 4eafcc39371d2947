"""The ONNX export in onnxruntime: the bits of our own forward pass, standard operators only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from polychron import models, runtime
from polychron.errors import InputError, UnsupportedModelError
from polychron.export.network import read_network
from polychron.export.onnx_model import export_onnx
from polychron.models.deep import DeepClassifier, DeepConfig
from polychron.training import Checkpoint, open_checkpoint

from ..cli.conftest import Command, polychron, text, trained  # noqa: F401 - fixtures
from ..runtime.conftest import COUNTED, MODELS, random_model, random_text, save_model
from ..runtime.test_quantized import quantized, streamed_units
from ..runtime.test_runtime import streamed_logits
from ..training.test_checkpoint import files_limited_to
from .saved_classifier import save_classifier

NETWORKS = {
    **MODELS,
    "recurrent": models.RecurrentConfig(
        vocabulary_size=28, n_neurons=12, n_tables=9, n_comparisons=5, readout_n_tables=7, readout_n_comparisons=5
    ),
    "no delays": models.DelayConfig(
        vocabulary_size=28, n_neurons=9, n_tables=5, n_comparisons=4, max_delay=0, readout_n_comparisons=4
    ),
    **{f"{name}, bfloat16 tables": replace(MODELS[name], table_type="bfloat16") for name in ("delay", "transformer")},
}


def session(file: Path, optimize: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(file, options)


def exported(folder: Path) -> Path:
    return export_onnx(read_network(folder), folder.with_name("model.onnx")).file


def same_bits(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return np.array_equal(ours.astype(np.float32).view(np.int32), theirs.view(np.int32))


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_forward_pass_bit_for_bit(name: str, optimize: bool, tmp_path: Path):
    model = random_model(NETWORKS[name])
    loaded = session(exported(save_model(model, tmp_path / "run")), optimize)
    for shape in ((1, 1), (3, 2), (2, 13), (1, 70)):
        tokens = torch.randint(28, shape, generator=torch.manual_seed(1))
        (logits,) = loaded.run(None, {"tokens": tokens.numpy()})
        expected = model(tokens).detach().numpy()
        assert logits.shape == (*shape, 28)
        assert same_bits(expected, logits)
    assert np.unique(logits).size > 50


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_quantised_models_say_what_the_runtime_says(name: str, precision: str, tmp_path: Path):
    folder = quantized(save_model(random_model(MODELS[name]), tmp_path / "run"), precision)
    model = runtime.load(folder)
    sample = random_text(getattr(MODELS[name], "context", 60))
    tokens = model.vocabulary.encode(sample).astype(np.int64)[None]
    (logits,) = session(exported(folder)).run(None, {"tokens": tokens})
    assert same_bits(streamed_logits(model, sample), logits[0])
    if precision == "int8":
        assert np.array_equal(streamed_units(model, sample), np.ldexp(logits[0], model.settings.logit_bits))


def test_states_of_int8_saturate_as_the_runtimes_do(tmp_path: Path):
    model = random_model(NETWORKS["recurrent"])
    with torch.no_grad():
        model.layers_in_order()[0].synaptic_vectors.mul_(40.0)
    folder = quantized(save_model(model, tmp_path / "run"), "int8")
    loaded = runtime.load(folder)
    tokens = loaded.vocabulary.encode(random_text(60)).astype(np.int64)[None]
    (logits,) = session(exported(folder)).run(None, {"tokens": tokens})
    assert same_bits(streamed_logits(loaded, random_text(60)), logits[0])


@pytest.mark.parametrize(
    "config",
    [
        DeepConfig(n_pixels=24, n_classes=3, width=6, n_layers=2, n_tables=5, readout_n_tables=7),
        DeepConfig(n_pixels=9, n_classes=4, n_references=0, n_layers=0, n_comparisons=3, readout_n_tables=300),
        DeepConfig(n_pixels=24, n_classes=3, width=6, n_tables=5, readout_n_tables=7, table_type="bfloat16"),
    ],
    ids=["two layers", "readout alone", "bfloat16 tables"],
)
def test_a_classifier_says_what_it_says(config: DeepConfig, tmp_path: Path):
    model = DeepClassifier(config, seed=2)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.manual_seed(i)))
    names = save_classifier(model, tmp_path / "run")
    file = exported(tmp_path / "run")
    inputs = torch.rand(50, config.n_pixels)
    inputs[::2] = (inputs[::2] * 4).round() / 4  # ties
    (logits,) = session(file).run(None, {"inputs": inputs.numpy()})
    assert same_bits(model(inputs).detach().numpy(), logits)
    facts = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(facts["class_names"]) == names


def operators(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from operators(attribute.g)


@pytest.mark.parametrize("name", ["two delay layers", "transformer", "recurrent"])
def test_the_operators_are_the_standards_and_nothing_is_a_matrix_product(name: str, tmp_path: Path):
    model = onnx.load(exported(save_model(random_model(NETWORKS[name]), tmp_path / "run")))
    onnx.checker.check_model(model, full_check=True)
    assert [(domain.domain, domain.version) for domain in model.opset_import] == [("", 17)]
    nodes = list(operators(model.graph))
    assert {node.domain for node in nodes} == {""}
    assert {node.op_type for node in nodes} <= {
        "Add", "Cast", "Concat", "ConstantOfShape", "Gather", "Greater", "Identity", "Mul", "Pad", "Range", "ReduceSum",
        "Reshape", "Scan", "Shape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
    }  # fmt: skip
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["kind"] == NETWORKS[name].kind
    assert bytes(json.loads(facts["byte_values"])) == open_checkpoint(tmp_path / "run").vocabulary.byte_values


def test_a_trained_model_writes_the_bytes_of_polychron_generate(polychron: Command, trained: Path, tmp_path: Path):  # noqa: F811
    out = tmp_path / "deep" / "sheep.onnx"
    done = polychron("export", trained, "--to", "onnx", "--out", out)
    assert done.code == 0
    assert "tokens (batch, sequence) int64 -> logits (batch, sequence, " in done.out
    (result,) = polychron("export", trained, "--to", "onnx", "--out", out, "--json").objects
    assert result["bytes"] == out.stat().st_size
    loaded, vocabulary = session(out), open_checkpoint(trained).vocabulary
    written = b"In field"
    for _ in range(40):
        (logits,) = loaded.run(None, {"tokens": vocabulary.encode(written[-64:]).astype(np.int64)[None]})
        written += vocabulary.decode([int(logits[0, -1, :-1].argmax())])
    assert polychron("generate", trained, "In field", "--bytes", 40, "--temperature", 0).out.encode() == written


def test_bad_input_is_one_clear_line(polychron: Command, tmp_path: Path):  # noqa: F811
    saved = save_model(random_model(MODELS["delay"]), tmp_path / "run")
    torn = Path(shutil.copytree(saved, tmp_path / "torn"))
    for path in torn.glob("weights-*"):
        path.write_bytes(path.read_bytes()[:-1])
    for arguments, message in [
        (["nowhere", "--out", "x"], "nowhere does not exist"),
        ([torn, "--out", "x"], "is truncated"),
        ([saved], "--out"),
        ([saved, "--out", tmp_path], "is a folder: --out must name a file"),
        ([saved, "--out", "x" * 300], "File name too long"),
        ([saved, "--out", saved / "config.json" / "x"], "cannot write"),
    ]:
        refused = polychron("export", "--to", "onnx", *arguments)
        assert refused.code == 2
        assert refused.out == ""
        assert refused.err.startswith("error: ")
        assert refused.err.count("\n") == 1
        assert message in refused.err


def test_what_a_graph_would_leave_out_is_refused(tmp_path: Path, monkeypatch):
    saved = save_model(random_model(MODELS["delay"]), tmp_path / "run")
    load_tensors = Checkpoint.load_tensors
    with monkeypatch.context() as patched:
        more = {"model.layers.0.directions": torch.zeros(1)}
        patched.setattr(Checkpoint, "load_tensors", lambda self: {**load_tensors(self), **more})
        with pytest.raises(
            UnsupportedModelError, match=r"addressed by order, and this model has layers\.0\.directions"
        ):
            read_network(saved)
    monkeypatch.setattr("polychron.export.network._PLAIN", {"anchors": "covering"})
    with pytest.raises(UnsupportedModelError, match="and this model has anchors random"):
        read_network(saved)


def test_counted_contexts_are_refused_with_what_to_do(tmp_path: Path):
    network = read_network(save_model(random_model(COUNTED["contexts"]), tmp_path / "run"))
    with pytest.raises(InputError, match=r"cannot hold counted contexts.*: train without .*--contexts 0"):
        export_onnx(network, tmp_path / "x.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_what_no_file_holds_is_refused_before_it_is_made(tmp_path: Path, monkeypatch):
    network = read_network(save_model(random_model(MODELS["delay"]), tmp_path / "run"))
    monkeypatch.setattr("polychron.export.onnx_model._MAXIMUM_BYTES", network.table_bytes - 1)
    with pytest.raises(InputError, match=r"an ONNX file holds at most 2\.1 GB: quantise it"):
        export_onnx(network, tmp_path / "x.onnx")


@pytest.mark.parametrize("n_bytes", [0, 100, 10_000])
def test_a_full_disk_leaves_the_old_file(n_bytes: int, tmp_path: Path):
    network = read_network(save_model(random_model(MODELS["delay"]), tmp_path / "run"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_text("the last one")
    with files_limited_to(n_bytes), pytest.raises(InputError, match="cannot write"):
        export_onnx(network, out / "model.onnx")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"model.onnx": b"the last one"}


def test_without_its_packages_it_says_how_to_get_them(tmp_path: Path):
    saved = save_model(random_model(MODELS["delay"]), tmp_path / "run")
    program = "import sys; sys.modules['onnx'] = None\nfrom polychron.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "export", saved, "--to", "onnx", "--out", tmp_path / "x.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: export --to onnx needs onnx, which is missing: pip install 'polychron[onnx]'\n"
