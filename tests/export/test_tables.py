"""A file of tables: what the C reader accepts, what it refuses, and that hostile files do not crash it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polychron.export import export_c, read_integer_model
from polychron.export.c_arrays import HEADER_WORDS, MAGIC, checksum
from polychron.export.c_source import ExportedC

from ..runtime.conftest import MODELS, random_model, save_model
from .fuzz_tables import NAMES, build
from .test_c import sanitizing_compiler

__all__ = ["sanitizing_compiler"]

OPEN = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
int main(int argc, char **argv) {  /* open(file, its bytes, offset in memory) */
  static model_state state;
  FILE *file = fopen(argv[1], "rb");
  const int offset = argc > 2 ? atoi(argv[2]) : 0;
  unsigned char *memory = malloc(1 << 20);
  const size_t n = fread(memory + offset, 1, 1 << 19, file);
  return 10 + model_open(&state, memory + offset, n) + (model_open(&state, 0, n) == 1 ? 0 : 50);
}
"""
FINE, SHORT, ANOTHER, DAMAGED, OUTSIDE = range(10, 15)


def exported(name: str, folder: Path, seed: int = 0) -> ExportedC:
    model = read_integer_model(save_model(random_model(MODELS[name], seed), folder / "run"))
    return export_c(model, folder / "model", tables=folder / "model.tables")


def signed(content: bytes) -> bytes:
    """With the checksum that belongs to it."""
    words = np.frombuffer(content, dtype="<u4").copy()
    words[4] = checksum(content[4 * HEADER_WORDS :])
    return words.tobytes()


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportedC]:
    folder = tmp_path_factory.mktemp("opener")
    done = exported("transformer", folder)
    (folder / "open.c").write_text(OPEN)
    subprocess.run(["gcc", "-std=c99", folder / "open.c", done.source, "-o", folder / "open"], check=True)
    return folder / "open", done


def answer(opener: tuple[Path, ExportedC], content: bytes, tmp_path: Path, *offset: str) -> int:
    (tmp_path / "tables").write_bytes(content)
    return subprocess.run([opener[0], tmp_path / "tables", *offset], check=False).returncode


def test_a_file_says_what_it_is(opener: tuple[Path, ExportedC]):
    content = opener[1].tables.read_bytes()
    words = np.frombuffer(content, dtype="<u4")
    assert content[:4] == b"PYCT"
    assert words[0] == MAGIC
    assert words[2] == len(content)
    assert words[4] == checksum(content[4 * HEADER_WORDS :])
    assert "static const FLASH" not in opener[1].source.read_text()


def test_what_is_not_its_file_is_refused_with_a_reason(opener: tuple[Path, ExportedC], tmp_path: Path):
    content = opener[1].tables.read_bytes()
    changed = lambda at, byte: content[:at] + bytes([content[at] ^ byte]) + content[at + 1 :]  # noqa: E731
    assert answer(opener, content, tmp_path) == FINE
    assert answer(opener, content + b"more", tmp_path) == FINE
    assert answer(opener, content[:-1], tmp_path) == SHORT
    assert answer(opener, b"", tmp_path) == SHORT
    assert answer(opener, content, tmp_path, "2") == SHORT
    assert answer(opener, changed(0, 1), tmp_path) == ANOTHER
    assert answer(opener, changed(4, 1), tmp_path) == ANOTHER
    assert answer(opener, changed(12, 1), tmp_path) == ANOTHER
    assert answer(opener, np.frombuffer(content, dtype="<u4").byteswap().tobytes(), tmp_path) == ANOTHER
    assert answer(opener, changed(len(content) // 2, 1), tmp_path) == DAMAGED


def test_numbers_that_point_outside_are_refused_whoever_signs_them(opener: tuple[Path, ExportedC], tmp_path: Path):
    content = opener[1].tables.read_bytes()
    source = opener[1].source.read_text()
    place = {line.split()[1]: int(line.rsplit(" + ", 1)[1].rstrip(")")) for line in source.splitlines()
             if line.startswith("#define ") and "tables +" in line}  # fmt: skip
    assert answer(opener, signed(content), tmp_path) == FINE
    for name, number in [
        ("place_of", 28 * 20), ("pairs_0", 2 * 20), ("pairs_1", 1), ("key_pairs_0", 40), ("codes_0", 4),
        ("shifts_0", 16), ("shifts_4", 255), ("weight_of", 0),
    ]:  # fmt: skip
        size = 4 if name == "weight_of" else 1 if name.startswith("shifts") else 2
        hostile = bytearray(content)
        hostile[place[name] : place[name] + size] = number.to_bytes(size, "little")
        assert answer(opener, signed(bytes(hostile)), tmp_path) == OUTSIDE, name


def test_another_training_of_the_same_model_fits_the_same_source(tmp_path: Path):
    model = read_integer_model(save_model(random_model(MODELS["delay"]), tmp_path / "run"))
    layers = tuple(replace(layer, rows=-layer.rows, anchors=layer.anchors[:, :, ::-1]) for layer in model.layers)
    one = export_c(model, tmp_path / "a" / "model", tables=tmp_path / "a.tables")
    other = export_c(replace(model, layers=layers), tmp_path / "b" / "model", tables=tmp_path / "b.tables")
    assert one.tables.read_bytes() != other.tables.read_bytes()
    assert one.source.read_text() == other.source.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_hostile_files_do_not_crash_the_reader(name: str, sanitizing_compiler: str, tmp_path: Path):
    """`make fuzz` does so with as many as it is told to."""
    fuzz, tables = build(name, tmp_path, sanitizing_compiler)
    ran = subprocess.run([fuzz, tables, "1500"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    counts = [int(word) for word in ran.stdout.replace(",", "").replace(":", "").split() if word.isdigit()]
    assert counts[0] == 1500 == sum(counts[1:])
    assert all(count > 0 for count in counts)
