from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from polychron.errors import InputError
from polychron.storage import TensorFile

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(-3, 3, dtype=np.int8).reshape(3, 1, 2),
    "nothing": np.zeros((2, 0), dtype=np.int32),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tensors.safetensors"
    safetensors.numpy.save_file(TENSORS, path, metadata={"by": "hand"})
    return path


def write(path: Path, fields: Any, n_data: int) -> None:
    header = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    header = header.ljust((len(header) + 7) // 8 * 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(n_data))


def test_it_reads_what_the_library_wrote(path: Path):
    file = TensorFile(path)
    assert {name: entry.shape for name, entry in file.entries.items()} == {n: t.shape for n, t in TENSORS.items()}
    for name in ("a", "b"):
        assert np.array_equal(np.asarray(file.view(name)), TENSORS[name])
        assert bytes(file.bytes_of(name)) == TENSORS[name].tobytes()
    assert bytes(file.bytes_of("nothing")) == b""
    with pytest.raises(ValueError, match="has no view"):
        file.view("nothing")


def test_views_outlive_the_file_and_never_change_it(path: Path):
    before = path.read_bytes()
    view = TensorFile(path).view("a")
    view[0, 0] = 7.0
    assert path.read_bytes() == before
    path.unlink()
    assert view[1, 2] == 5.0


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}

HOSTILE = {
    "hole": ({"a": {**F32, "data_offsets": [4, 8]}}, 8, "does not begin where"),
    "overlap": ({"a": F32, "b": F32}, 4, "does not begin where"),
    "beyond the end": ({"a": {**F32, "shape": [2], "data_offsets": [0, 8]}}, 4, "accounts for"),
    "bytes left over": ({"a": F32}, 5, "accounts for"),
    "end before begin": ({"a": {**F32, "data_offsets": [4, 0]}}, 4, "takes other than 4 bytes"),
    "other size": ({"a": {**F32, "shape": [3]}}, 4, "takes other than 4 bytes"),
    "size that overflows": ({"a": {**F32, "shape": [2**40, 2**40, 2**40]}}, 4, "takes other than"),
    "negative size": ({"a": {**F32, "shape": [-1]}}, 4, "impossible shape"),
    "size of text": ({"a": {**F32, "shape": ["1"]}}, 4, "impossible shape"),
    "size of truth": ({"a": {**F32, "shape": [True]}}, 4, "impossible shape"),
    "fraction": ({"a": {**F32, "data_offsets": [0, 4.0]}}, 4, "impossible shape"),
    "three offsets": ({"a": {**F32, "data_offsets": [0, 2, 4]}}, 4, "impossible shape"),
    "many axes": ({"a": {**F32, "shape": [1] * 9}}, 4, "impossible shape"),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, 4, "has no dtype"),
    "unknown dtype": ({"a": {**F32, "dtype": "F31"}}, 4, "unknown dtype"),
    "list for dtype": ({"a": {**F32, "dtype": ["F32"]}}, 4, "unknown dtype"),
    "not aligned": (
        {"c": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": {**F32, "data_offsets": [1, 5]}},
        5,
        "not aligned",
    ),
    "entry of text": ({"a": "F32"}, 4, "has no dtype"),
    "a list": ([F32], 4, "no object"),
    "no JSON": (b"{", 4, "not JSON"),
    "deep nesting": (b"[" * 100_000, 4, "not JSON"),
    "huge number": (b'{"a": ' + b"9" * 5000 + b"}", 4, "not JSON"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_refused(tmp_path: Path, case: str):
    fields, n_data, message = HOSTILE[case]
    write(tmp_path / "file", fields, n_data)
    with pytest.raises(InputError, match=f"is damaged or no safetensors file: .*{message}"):
        TensorFile(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it has 0 bytes"), (b"1234567", "it has 7 bytes"), (b"\xff" * 9, "is impossible"),
     (b"\x09" + bytes(8), "ends within its header")],
)  # fmt: skip
def test_what_is_too_short_is_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=message):
        TensorFile(tmp_path / "file")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "file")
    with pytest.raises(InputError, match="file: it is a pipe or a device, and a regular file is needed"):
        TensorFile(tmp_path / "file")
    with pytest.raises(InputError, match="/dev/zero: it is a pipe or a device"):
        TensorFile("/dev/zero")
    with pytest.raises(IsADirectoryError):
        TensorFile(tmp_path)


def test_no_file_is_no_damage(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        TensorFile(tmp_path / "file")
