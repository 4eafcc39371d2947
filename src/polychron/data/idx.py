"""The idx format of MNIST and its relatives: a magic number, the sizes, then bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.storage.regular_file import open_regular

_UNSIGNED_BYTES = 0x08


def find_idx(folder: Path, begins: Sequence[str], content: str) -> Path:
    """The one file in a folder whose name begins so and has ``content`` (images, labels) in it.

    Raises:
        InputError: there is none, or more than one.
    """
    try:
        found = sorted(
            path
            for path in folder.iterdir()
            if path.name.startswith(tuple(begins)) and content in path.name and "idx" in path.name
        )
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from None
    if len(found) != 1:
        wanted = f"{begins[0]}-{content}-idx{3 if content == 'images' else 1}-ubyte[.gz]"
        raise InputError(
            f"{folder} must have one file like {wanted}; got {', '.join(path.name for path in found) or 'none'}"
        )
    return found[0]


def read_idx(path: Path, n_dimensions: int) -> np.ndarray:
    """The array of an idx file of unsigned bytes, gzipped if its name ends in .gz.

    The sizes that the file declares are compared with memory before any is taken, and with its content.

    Raises:
        InputError: unreadable, a pipe or a device, no idx file, of another type or number of dimensions, truncated, or
            too large.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels-idx1-ubyte")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
        ...     read_idx(path, 1)
        array([7, 9], dtype=uint8)
    """
    try:
        with open_regular(path) as stored, gzip.open(stored) if path.name.endswith(".gz") else stored as file:
            head = file.read(4 + 4 * n_dimensions)
            if len(head) < 4 + 4 * n_dimensions or head[:2] != b"\0\0":
                raise InputError(f"{path} is no idx file: it must begin with two zero bytes and its sizes")
            kind, dimensions = head[2], head[3]
            if kind != _UNSIGNED_BYTES or dimensions != n_dimensions:
                raise InputError(
                    f"{path} must hold unsigned bytes (type 8) in {n_dimensions} dimensions; "
                    f"got type {kind} in {dimensions}"
                )
            shape = struct.unpack(f">{n_dimensions}I", head[4:])
            size = math.prod(shape)
            require_memory(2 * size, f"the {size:,} bytes that {path} declares", "take a smaller set")
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) != size:
        problem = "has fewer" if len(content) < size else "has more"
        raise InputError(f"{path} is damaged: it declares {size:,} bytes of content and {problem}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
