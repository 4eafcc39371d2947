"""A safetensors file mapped into memory: its header checked, its tensors as typed views of the map.

The format: 8 bytes, the header's length in little-endian order; the header, JSON, from a tensor's name to its
``dtype``, ``shape`` and ``data_offsets`` behind the header; the tensors' bytes, in one piece without holes. The
safetensors package reads it too, but gives tensors of a framework, never the places in the file that a map needs.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polychron.errors import InputError
from polychron.storage.config_file import reason
from polychron.storage.regular_file import open_regular

_MAXIMUM_HEADER_BYTES = 2**22
_MAXIMUM_AXES = 8

# Bytes of a number, and its letter in the buffer protocol. bfloat16 has none: it is seen as 16 bits.
_DTYPES = {
    "F64": (8, "d"), "I64": (8, "q"), "U64": (8, "Q"),
    "F32": (4, "f"), "I32": (4, "i"), "U32": (4, "I"),
    "F16": (2, "H"), "BF16": (2, "H"), "I16": (2, "h"), "U16": (2, "H"),
    "I8": (1, "b"), "U8": (1, "B"), "BOOL": (1, "B"),
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A tensor's line in the header: what it is, and where in the file it stands, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """An open, mapped safetensors file; it outlives its name in the folder.

    Writing to a view changes this process' copy, never the file.

    Args:
        path: the file.

    Attributes:
        entries: name to `Entry`, every one of them inside the file, aligned, of the size that its shape asks for.
        n_bytes: size of the file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be opened.
        InputError: it is a pipe or a device, damaged, or no safetensors file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with open_regular(self.path) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if n_bytes < 8:
                raise self._damaged(f"it has {n_bytes} bytes")
            n_header = int.from_bytes(file.read(8), "little")
            if n_header > _MAXIMUM_HEADER_BYTES:
                raise InputError(f"{self.path} is damaged: a header of {n_header:,} bytes is impossible")
            header = file.read(n_header)
            if len(header) < n_header:
                raise self._damaged("it ends within its header")
            self.entries = self._entries(header, 8 + n_header, n_bytes)
            self.n_bytes = n_bytes
            try:
                self._map = mmap.mmap(file.fileno(), n_bytes, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise InputError(f"cannot map {self.path}: {reason(error)}") from None

    def view(self, name: str) -> memoryview:
        """A tensor's numbers, C-contiguous, in its shape; no copy. BF16 and F16 are seen as unsigned 16 bits.

        Raises:
            ValueError: a tensor without numbers, of which there is no view.
        """
        entry = self.entries[name]
        if entry.begin == entry.end or not entry.shape:
            raise ValueError(f"{name} of shape {entry.shape} has no view")
        piece = memoryview(self._map)[entry.begin : entry.end]
        return piece.cast(_DTYPES[entry.dtype][1], entry.shape)

    def bytes_of(self, name: str) -> memoryview:
        """A tensor's bytes; no copy."""
        entry = self.entries[name]
        return memoryview(self._map)[entry.begin : entry.end]

    def _entries(self, header: bytes, start: int, n_bytes: int) -> dict[str, Entry]:
        try:
            fields = json.loads(header)
        except (ValueError, RecursionError):
            raise self._damaged("its header is not JSON") from None
        if not isinstance(fields, dict):
            raise self._damaged("its header is no object")
        fields.pop("__metadata__", None)
        entries = {name: self._entry(name, field, start) for name, field in fields.items()}
        at = start
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != at:
                raise self._damaged(f"{_shown(name)} does not begin where the tensor before it ends")
            at = entry.end
        if at != n_bytes:
            raise self._damaged(f"its header accounts for {at:,} bytes and it has {n_bytes:,}")
        return entries

    def _entry(self, name: str, field: Any, start: int) -> Entry:
        if not isinstance(field, dict) or field.keys() != {"dtype", "shape", "data_offsets"}:
            raise self._damaged(f"{_shown(name)} has no dtype, shape and data_offsets")
        dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise self._damaged(f"{_shown(name)} has an unknown dtype")
        if not _counts(shape) or len(shape) > _MAXIMUM_AXES or not _counts(offsets) or len(offsets) != 2:
            raise self._damaged(f"{_shown(name)} has an impossible shape or place")
        begin, end = offsets
        size = _DTYPES[dtype][0]
        if end - begin != size * math.prod(shape):
            raise self._damaged(f"{_shown(name)} takes other than {size} bytes for each of its numbers")
        if (start + begin) % size:
            raise self._damaged(f"{_shown(name)} is not aligned to its numbers")
        return Entry(dtype, tuple(shape), start + begin, start + end)

    def _damaged(self, problem: str) -> InputError:
        return InputError(f"{self.path} is damaged or no safetensors file: {problem}")


def _counts(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and 0 <= number < 2**48 for number in numbers)


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 100 else name[:100] + "...")
