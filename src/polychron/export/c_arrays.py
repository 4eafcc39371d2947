"""Numbers of a model as constant arrays of C, or in a file of tables that C is given a pointer to.

A file of tables is little-endian: the header's words (`HEADER_WORDS`), then every array from a multiple of 4 on, in the
order of the source. docs/exports.md says what the reader checks.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from importlib import resources

import numpy as np

from polychron.errors import InputError

MAGIC = 0x54435950  # "PYCT"
VERSION = 1
HEADER_WORDS = 5  # magic, version, size in bytes, layout, checksum


@dataclass
class Arrays:
    """The arrays of one source file, in order.

    Attributes:
        in_file: they stand in a file of tables; the source has their places.
        n_bytes: of all numbers so far.
        sizes: numbers of each array.
        text: their C.
    """

    in_file: bool
    n_bytes: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    _pieces: list[bytes] = field(default_factory=list)
    _layout: list[str] = field(default_factory=list)

    def add(self, c_type: str, name: str, values: np.ndarray) -> None:
        """One more.

        Raises:
            InputError: a number that the type does not hold: the model is too large.
        """
        flat = np.ascontiguousarray(values).reshape(-1)
        dtype = np.dtype(c_type.removesuffix("_t"))
        if flat.min() < np.iinfo(dtype).min or flat.max() > np.iinfo(dtype).max:
            raise InputError(f"the model is too large for C: {name} has numbers that {c_type} does not hold")
        self.n_bytes += flat.size * dtype.itemsize
        self.sizes[name] = flat.size
        self._layout.append(f"{c_type} {name}[{flat.size}]")
        if self.in_file:
            self.text.append(f"#define {name} ((const {c_type} *)(const void *)(tables + {self.file_bytes}))\n")
            content = flat.astype(dtype.newbyteorder("<")).tobytes()
            self._pieces.append(content + bytes(-len(content) % 4))
            return
        words = [f"0x{word:x}" for word in flat.tolist()] if c_type == "uint32_t" else flat.astype(str).tolist()
        per_line = 11 if c_type == "uint32_t" else 24
        lines = "\n".join("  " + ",".join(words[at : at + per_line]) + "," for at in range(0, len(words), per_line))
        self.text.append(f"static const FLASH {c_type} {name}[{flat.size}] = {{\n{lines}\n}};\n")

    @property
    def file_bytes(self) -> int:
        """Of the file so far."""
        return 4 * HEADER_WORDS + sum(map(len, self._pieces))

    def layout(self, fixed: str) -> int:
        """A number that tells files of one source from those of another; ``fixed``: what else the source relies on."""
        return zlib.crc32("\n".join([*self._layout, fixed]).encode())

    def file(self, fixed: str) -> bytes:
        """The file of tables."""
        content = b"".join(self._pieces)
        header = np.array([MAGIC, VERSION, self.file_bytes, self.layout(fixed), checksum(content)], dtype="<u4")
        return header.tobytes() + content


def checksum(content: bytes) -> int:
    """Fletcher's, over words of 32 bits.

    Example:
        >>> hex(checksum(bytes([1, 0, 0, 0, 2, 0, 0, 0])))
        '0x40003'
    """
    words = np.frombuffer(content, dtype="<u4").astype(np.uint32)
    one = np.cumsum(words, dtype=np.uint32)
    other = int(np.sum(one, dtype=np.uint32))
    return (int(one[-1]) ^ (other << 16 | other >> 16)) & 0xFFFFFFFF


def fill(template: str, **values: object) -> str:
    """A file beside this one with @NAME@ replaced."""
    text = resources.files("polychron.export").joinpath(template).read_text(encoding="ascii")
    return re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), text)
