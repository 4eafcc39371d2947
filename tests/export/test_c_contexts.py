"""Counted contexts in the C export: the runtime's bits, no multiplication, and files that were made to do harm."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from polychron import runtime
from polychron.errors import InputError
from polychron.export import export_c, read_integer_model
from polychron.export.contexts import reachable
from polychron.ops.contexts import LISTS, ContextRows
from polychron.runtime import SamplingOptions
from polychron.storage import TensorFile

from ..runtime.conftest import MODELS, random_model, random_text, save_model
from ..runtime.integer_model import IntegerModel
from ..runtime.test_quantized import quantized, streamed_units
from .counted import LINE_BYTES, counted_model, text_of_lines
from .test_c import ARM, COMPILERS, SANITIZERS, WARNINGS, X86, check_functions, compiled, replayed, sanitizing_compiler
from .test_tables import FINE, OPEN, OUTSIDE, answer, signed

__all__ = ["sanitizing_compiler"]


def defined_units(folder: Path, ids: bytes) -> np.ndarray:
    """Units of the logits of an int8 folder after each token, by the slow definition."""
    return IntegerModel(TensorFile(next(folder.glob("weights*")))).units(ids)


@pytest.mark.parametrize(
    ("name", "depth", "in_file", "recent"),
    [
        ("delay", 1, False, False),
        ("two delay layers", 4, True, False),
        ("readout alone", 7, False, False),
        ("two delay layers", 4, False, True),
        ("readout alone", 7, True, True),
    ],
)
def test_it_says_what_the_runtime_says_bit_for_bit(
    name: str, depth: int, in_file: bool, recent: bool, sanitizing_compiler: str, tmp_path: Path
):
    folder = quantized(save_model(counted_model(name, depth, recent=recent), tmp_path / "run"), "int8")
    model, text = runtime.load(folder), random_text(800)
    tables = tmp_path / "model.tables" if in_file else None
    done = export_c(read_integer_model(folder), tmp_path / "out" / "model.c", temperature=0.7, tables=tables)
    program = compiled(sanitizing_compiler, done.source, "-O1", *SANITIZERS, *(["-DTABLES"] if in_file else []))
    logits, likeliest, written = replayed(program, text, 28, 800, tables)
    expected = defined_units(folder, model.vocabulary.ids_of(text))
    assert np.array_equal(logits, expected)
    assert likeliest == model.vocabulary.decode(expected[:, :-1].argmax(axis=1))
    without = runtime.load(quantized(save_model(random_model(MODELS[name]), tmp_path / "b" / "run"), "int8"))
    changed = (expected != streamed_units(without, text)).any(axis=1)
    assert changed.mean() > 0.9
    assert np.array_equal(logits, streamed_units(model, text))
    stream = model.stream()
    stream.read(text)
    assert written == stream.generate(800, SamplingOptions(temperature=0.7, top_p=0.95, seed=7))


def test_lines_and_words_of_any_kind_are_read_as_defined(sanitizing_compiler: str, tmp_path: Path):
    text = text_of_lines(6000)
    lengths = [len(line) for line in text.split(b"\n")]
    assert min(lengths) == 0
    assert any(128 <= length < 255 for length in lengths)
    assert max(lengths) > 256
    trained = counted_model("readout alone", 7, text, LINE_BYTES, recent=True)
    folder = quantized(save_model(trained, tmp_path / "run", LINE_BYTES), "int8")
    model = read_integer_model(folder)
    done = export_c(model, tmp_path / "out" / "model", temperature=0.7)
    program = compiled(sanitizing_compiler, done.source, "-O1", *SANITIZERS)
    for read in (text[:4000], b"\na", b"\n\na", b"a\na", text_of_lines(1000, seed=1)):
        logits, _, _ = replayed(program, read, model.vocabulary.size, 0)
        assert np.array_equal(logits, defined_units(folder, model.vocabulary.ids_of(read)))


@pytest.mark.skipif(not COMPILERS, reason="no C compiler")
def test_more_contexts_than_16_bits_count(tmp_path: Path):
    text = random_text(60_000)
    folder = quantized(save_model(counted_model("readout alone", 5, text), tmp_path / "run"), "int8")
    model = read_integer_model(folder)
    done = export_c(model, tmp_path / "out" / "model", temperature=0.7, tables=tmp_path / "model.tables")
    assert "text_first_child ((const uint32_t *)" in done.source.read_text()
    assert "line_first_child ((const uint16_t *)" in done.source.read_text()
    program = compiled(COMPILERS[0], done.source, "-DTABLES")
    logits, _, _ = replayed(program, text[-300:], 28, 0, tmp_path / "model.tables")
    assert np.array_equal(logits, defined_units(folder, model.vocabulary.ids_of(text[-300:])))


@pytest.mark.parametrize("in_file", [False, True], ids=["arrays", "file"])
@pytest.mark.parametrize("optimization", ["-O2", "-O3", "-Os"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_function_multiplies_divides_or_uses_floating_point(
    compiler: str, optimization: str, in_file: bool, tmp_path: Path
):
    folder = save_model(counted_model("two delay layers", recent=True), tmp_path / "run")
    done = export_c(read_integer_model(folder), tmp_path / "model", tables=tmp_path / "t" if in_file else None)
    subprocess.run([compiler, *WARNINGS, optimization, "-c", done.source, "-o", tmp_path / "o"], check=True)
    shown = subprocess.run(["objdump", "-d", tmp_path / "o"], capture_output=True, text=True, check=True)
    check_functions(shown.stdout, X86)


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="no compiler for Cortex-M")
@pytest.mark.parametrize("cpu", ["cortex-m0", "cortex-m4"])
def test_nor_does_any_on_a_microcontroller(cpu: str, tmp_path: Path):
    trained = counted_model("delay", recent=True)
    done = export_c(read_integer_model(save_model(trained, tmp_path / "run")), tmp_path / "model")
    command = ["arm-none-eabi-gcc", *WARNINGS, "-ffreestanding", "-mthumb", f"-mcpu={cpu}", "-Os"]
    subprocess.run([*command, "-c", done.source, "-o", tmp_path / "o"], check=True)
    shown = subprocess.run(["arm-none-eabi-objdump", "-d", tmp_path / "o"], capture_output=True, text=True, check=True)
    check_functions(shown.stdout, ARM)


def test_the_sizes_it_gives_count_recent_tables(tmp_path: Path):
    done, without = (
        export_c(
            read_integer_model(save_model(counted_model("delay", recent=recent), tmp_path / name)), tmp_path / name
        )
        for recent, name in ((True, "a"), (False, "b"))
    )
    assert done.flash_bytes - without.flash_bytes == 256 + 2 * 80  # the bytes' tokens, the cells
    assert done.ram_bytes - without.ram_bytes == 5 * (4 + 8 * 2**15)  # keys, places


def test_the_sizes_it_gives_count_the_contexts(tmp_path: Path):
    model = read_integer_model(save_model(counted_model("delay"), tmp_path / "run"))
    plain = read_integer_model(save_model(random_model(MODELS["delay"]), tmp_path / "plain"))
    done = export_c(model, tmp_path / "a" / "model", tables=tmp_path / "a.tables")
    without = export_c(plain, tmp_path / "b" / "model", tables=tmp_path / "b.tables")
    # Places of 16 bits, a byte of symbol each, values of 16 bits, and what contexts know the 256 bytes as.
    added = 256
    for arrays in model.contexts.kinds.values():
        added += len(arrays.symbol) + 2 * (len(arrays.first_child) + len(arrays.first_entry)) + 3 * len(arrays.value)
    assert done.flash_bytes - without.flash_bytes == added
    assert done.ram_bytes - without.ram_bytes == 128 + 1 + 2 * 2 + 3 * 4  # bytes, the latest's place, a line, words
    assert abs(done.tables.stat().st_size - without.tables.stat().st_size - added) < 64


def test_too_many_contexts_for_arrays_are_refused(tmp_path: Path, monkeypatch):
    model = read_integer_model(save_model(counted_model("readout alone"), tmp_path / "run"))
    rows = sum(layer.rows.nbytes for layer in model.layers)
    monkeypatch.setattr("polychron.export.c_source._MAXIMUM_TABLE_BYTES", rows)
    with pytest.raises(InputError, match=r"C arrays are limited to .*: put them into a file \(--tables FILE\)"):
        export_c(model, tmp_path / "model")
    export_c(model, tmp_path / "model", tables=tmp_path / "model.tables")


@pytest.mark.parametrize("kind", LISTS)
def test_only_what_a_reading_reaches_is_exported(kind: str):
    """A trie may be deeper than what is read of it."""
    rows = ContextRows(*(part.numpy() for part in getattr(counted_model("delay", 3).contexts, kind).rows))
    whole, part = reachable(kind, 3, *rows), reachable(kind, 2, *rows)
    assert len(whole.symbol) == len(rows.symbol)
    assert len(whole.value) == len(rows.value)
    assert whole.n_parents == len(part.symbol)
    assert part.n_parents == rows.first_child[1]  # the empty context and those of one byte
    assert len(part.value) == rows.first_entry[len(part.symbol)]
    assert reachable(kind, 7, *rows).depth == LISTS[kind]
    empty = np.zeros_like(rows.first_entry)
    assert len(reachable(kind, 2, *rows._replace(first_entry=empty)).value) == 1  # C has no arrays of nothing


def test_numbers_that_point_outside_are_refused_whoever_signs_them(tmp_path: Path):
    model = read_integer_model(save_model(counted_model("readout alone"), tmp_path / "run"))
    done = export_c(model, tmp_path / "model", tables=tmp_path / "model.tables")
    (tmp_path / "open.c").write_text(OPEN)
    subprocess.run(["gcc", "-std=c99", tmp_path / "open.c", done.source, "-o", tmp_path / "open"], check=True)
    opener, content = (tmp_path / "open", done), done.tables.read_bytes()
    place = {line.split()[1]: int(line.rsplit(" + ", 1)[1].rstrip(")")) for line in done.source.read_text().splitlines()
             if line.startswith("#define ") and "tables +" in line}  # fmt: skip
    for kind, arrays in model.contexts.kinds.items():
        n_contexts, n_entries = len(arrays.symbol), len(arrays.value)
        middle = 2 * (n_contexts // 2)
        for name, at, number, expected in [
            ("first_child", 0, 0, FINE),  # the root's own child: a reading ends all the same
            ("first_child", 0, n_contexts + 1, OUTSIDE),
            ("first_child", 2, 0, OUTSIDE),
            ("first_child", 2 * arrays.n_parents, n_contexts + 1, OUTSIDE),
            ("first_entry", middle, 0, OUTSIDE),
            ("first_entry", middle, n_entries, OUTSIDE),
            ("first_entry", 2 * n_contexts, n_entries + 1, OUTSIDE),
            ("token", n_entries - 1, 28, OUTSIDE),
            ("byte", 5, 255, FINE),
        ]:
            hostile = bytearray(content)
            size, begin = 1 if name in ("token", "byte") else 2, place[f"{kind}_{name}"] + at
            hostile[begin : begin + size] = number.to_bytes(size, "little")
            assert answer(opener, signed(bytes(hostile)), tmp_path) == expected, (kind, name, at)
