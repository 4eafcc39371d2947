"""A classifier as C: it says what its int8 definition says, bit for bit, and neither multiplies nor divides."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polychron.cli import main
from polychron.data.batches import brightness
from polychron.data.examples import load_labelled
from polychron.errors import InputError, UnsupportedModelError
from polychron.export import export_c, read_integer_classifier
from polychron.export.integer_classifier import IntegerClassifier, accuracy, quantize_classifier
from polychron.models.deep import DeepClassifier, DeepConfig
from polychron.training.classify import open_classifier

from .test_c import ARM, COMPILERS, SANITIZERS, WARNINGS, X86, check_functions, sanitizing_compiler

__all__ = ["sanitizing_compiler"]

TEMPLATE = Path(__file__).with_name("classify.c.in")
CONFIGS = {
    "two layers": DeepConfig(n_pixels=21, n_classes=3, n_references=3, n_layers=2, n_tables=9, n_comparisons=4,
                             readout_n_tables=11, readout_n_comparisons=5),
    "readout alone": DeepConfig(n_pixels=30, n_classes=6, n_layers=0, readout_n_tables=300, readout_n_comparisons=4),
    "no references": DeepConfig(n_pixels=16, n_classes=10, n_references=0, reference_share=0.0, n_layers=1,
                                n_tables=5, n_comparisons=7, readout_n_tables=7, readout_n_comparisons=6),
}  # fmt: skip
PUBLIC = {"model_classify", "model_logit"}


def random_classifier(name: str, **variant: str) -> DeepClassifier:
    model = DeepClassifier(replace(CONFIGS[name], **variant), seed=1)
    generator = torch.manual_seed(0)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1 * 2 ** (i % 2))
    return model


def integers(name: str) -> IntegerClassifier:
    return quantize_classifier(random_classifier(name), tuple(f"class {k}" for k in range(CONFIGS[name].n_classes)))


def random_inputs(n: int, n_pixels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, n_pixels)).astype(np.uint8)


def replayed(
    source: Path, inputs: np.ndarray, n_classes: int, compiler: str, tables: Path | None = None
) -> tuple[np.ndarray, list]:
    """Logits (B, K) and classes that the compiled source gives."""
    harness = source.with_name("classify.c")
    harness.write_text(TEMPLATE.read_text().replace("@NAME@", source.stem))
    program = source.with_name(f"classify-{compiler}")
    options = ["-DTABLES"] if tables else []
    command = [compiler, *WARNINGS, "-O1", *SANITIZERS, *options, source, harness, "-o", program]
    subprocess.run(command, check=True)
    done = subprocess.run([program, *filter(None, [tables])], input=inputs.tobytes(), capture_output=True, check=True)
    lines = np.frombuffer(done.stdout, dtype=np.uint8).reshape(len(inputs), 4 * n_classes + 1)
    return np.ascontiguousarray(lines[:, :-1]).view(np.int32), lines[:, -1].tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_definition_written_out_in_single_numbers(name: str):
    model = integers(name)
    inputs = random_inputs(4, model.n_pixels)
    for example, logits in zip(inputs.tolist(), model.logits(inputs).tolist(), strict=True):
        z = [(255 - pixel) << model.latency_bits for pixel in example] + model.references.tolist()
        for layer in model.layers:
            total = [0] * layer.rows.shape[2]
            for rows, shift, anchors in zip(layer.rows.tolist(), layer.shifts.tolist(), layer.anchors, strict=True):
                row = sum(int(z[a] > z[b]) << r for r, (a, b) in enumerate(anchors.tolist()))
                total = [so_far + (number << shift) for so_far, number in zip(total, rows[row], strict=True)]
            if layer is not model.layers[-1]:
                z = [max(-32767, min(32767, old + change)) for old, change in zip(z, total, strict=True)]
        assert logits == total


@pytest.mark.parametrize(
    ("name", "in_file"),
    [*((name, False) for name in CONFIGS), ("two layers", True)],
    ids=lambda value: value if isinstance(value, str) else ("arrays", "file")[value],
)
def test_c_says_what_the_definition_says_bit_for_bit(
    name: str, in_file: bool, sanitizing_compiler: str, tmp_path: Path
):
    model = integers(name)
    tables = tmp_path / "model.tables" if in_file else None
    done = export_c(model, tmp_path / "c" / "model", tables=tables)
    inputs = random_inputs(200, model.n_pixels)
    logits, classes = replayed(done.source, inputs, len(model.class_names), sanitizing_compiler, tables)
    expected = model.logits(inputs)
    assert np.unique(expected).size > 100
    assert np.array_equal(logits, expected)
    assert classes == expected.argmax(axis=1).tolist()


def test_the_first_layer_reads_the_rows_of_the_float_model():
    """Every grey level beside every reference, of which one lies at a level exactly."""
    for n_references in range(1, 17):
        model = DeepClassifier(DeepConfig(n_pixels=2, n_classes=2, n_layers=0, n_references=n_references,
                                          readout_n_tables=1, readout_n_comparisons=1))  # fmt: skip
        references = quantize_classifier(model, ("a", "b")).references
        bits = quantize_classifier(model, ("a", "b")).latency_bits
        levels = np.arange(256, dtype=np.uint8)
        x = (1 - brightness(levels))[:, None].numpy()
        z = ((255 - levels.astype(np.int64)) << bits)[:, None]
        assert np.array_equal(z > references, x > model.references.numpy())
        assert np.array_equal(z < references, x < model.references.numpy())


def test_int8_is_near_the_float_model():
    model = random_classifier("readout alone")
    inputs = random_inputs(300, 30)
    exact = model(brightness(inputs)).detach().numpy()
    small = quantize_classifier(model, tuple("abcdef"))
    difference = small.logits(inputs) * 2.0**-small.logit_bits - exact
    assert difference.std() < 0.03 * exact.std()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("digits") / "run"
    command = ["train-classifier", "digits", "--preset", "tiny", "--steps", "150", "--threads", "1"]
    assert main([*command, "--out", str(folder), "--json"]) == 0
    return folder


def test_a_whole_test_set_is_classified_as_defined(digits: Path, sanitizing_compiler: str, tmp_path: Path):
    model = read_integer_classifier(digits)
    labelled = load_labelled("digits")
    done = export_c(model, tmp_path / "digits")
    logits, classes = replayed(done.source, labelled.test_inputs, 10, sanitizing_compiler)
    assert np.array_equal(logits, model.logits(labelled.test_inputs))
    right = np.mean(np.array(classes) == labelled.test_labels)
    assert right == accuracy(model, labelled.test_inputs, labelled.test_labels)
    trained = open_classifier(digits).record.metrics.test_correct / len(classes)
    assert right > 0.9
    assert abs(right - trained) < 0.02


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_function_multiplies_divides_or_uses_floating_point(compiler: str, tmp_path: Path):
    for name in ("two layers", "readout alone"):
        done = export_c(integers(name), tmp_path / "model")
        for options in (["-Os"], ["-O2"], ["-O3", "-mavx2"]):
            subprocess.run([compiler, *WARNINGS, *options, "-c", done.source, "-o", tmp_path / "o"], check=True)
            shown = subprocess.run(["objdump", "-d", tmp_path / "o"], capture_output=True, text=True, check=True)
            check_functions(shown.stdout, X86, PUBLIC)
        symbols = subprocess.run(["nm", "-u", tmp_path / "o"], capture_output=True, text=True, check=True).stdout
        assert set(symbols.split()) <= {"U", "memset", "memcpy", "_GLOBAL_OFFSET_TABLE_"}


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="no compiler for Cortex-M")
@pytest.mark.parametrize("cpu", ["cortex-m0", "cortex-m4"])
def test_nor_does_any_on_a_microcontroller(cpu: str, tmp_path: Path):
    done = export_c(integers("two layers"), tmp_path / "model")
    for optimization in ("-Os", "-O2"):
        command = ["arm-none-eabi-gcc", *WARNINGS, "-ffreestanding", "-mthumb", f"-mcpu={cpu}", optimization]
        subprocess.run([*command, "-c", done.source, "-o", tmp_path / "o"], check=True)
        shown = subprocess.run(
            ["arm-none-eabi-objdump", "-d", tmp_path / "o"], capture_output=True, text=True, check=True
        )
        check_functions(shown.stdout, ARM, PUBLIC)


def test_tables_of_bfloat16_are_read_as_what_they_are():
    model = random_classifier("two layers")
    small = DeepClassifier(replace(model.config, table_type="bfloat16"))
    small.load_state_dict(model.state_dict())
    with torch.no_grad():
        model.load_state_dict(small.state_dict())  # the same numbers in float32
    inputs = random_inputs(20, model.config.n_pixels)
    names = tuple("abcdef")[: model.config.n_classes]
    assert np.array_equal(
        quantize_classifier(small, names).logits(inputs), quantize_classifier(model, names).logits(inputs)
    )


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"hash": "zero"}, "hash zero and reading hard"),
        ({"hash": "hyperplane"}, "hash hyperplane and reading hard"),
        ({"hash": "bins"}, "hash bins and reading hard"),
        ({"reading": "soft"}, "hash order and reading soft"),
        ({"reading": "confidence"}, "hash order and reading confidence"),
    ],
)
def test_another_hash_or_reading_is_refused(variant: dict[str, str], message: str):
    with pytest.raises(UnsupportedModelError, match=f"addressed by order, and this one has {message}: .* --to hf"):
        quantize_classifier(random_classifier("two layers", **variant), ("a", "b", "c"))


def test_how_a_classifier_was_differentiated_is_not_asked():
    small = quantize_classifier(random_classifier("two layers", gradient="scalar"), ("a", "b", "c"))
    inputs = random_inputs(20, small.n_pixels)
    assert np.array_equal(small.logits(inputs), integers("two layers").logits(inputs))


def test_numbers_that_int8_does_not_reach_are_refused():
    model = random_classifier("two layers")
    with torch.no_grad():
        model.readout.synaptic_vectors[0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite: the training diverged"):
        quantize_classifier(model, ("a", "b", "c"))
    with torch.no_grad():
        model.readout.synaptic_vectors[:] = 1e6
    with pytest.raises(InputError, match="which int8 logits do not reach"):
        quantize_classifier(model, ("a", "b", "c"))
