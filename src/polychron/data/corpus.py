"""Where the bytes come from: a file, a folder of text files, or Python's own standard library."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polychron.data.names import safe_name
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.storage.config_file import CONFIG_NAME, is_checkpoint, reason

# Below this a held-out part says nothing: a tenth of it would be less than two lines of text.
MINIMUM_TRAINING_BYTES = 1024

STANDARD_LIBRARY = "stdlib"
STANDARD_LIBRARY_LIMIT = 16 * 2**20

_LOOKED_AT = 2**20  # bytes of a file in a folder, which tell whether it is text before all of it is read

# Not the library itself: installed packages, test suites, and compiled files.
_NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


@dataclass(frozen=True)
class Corpus:
    """Text to train on or to score.

    Attributes:
        name: short, fit for a folder's name: the file's stem, the folder's name, or ``stdlib``.
        data: (N,) uint8, every byte of the text.
        sha256: of ``data``, hexadecimal; a resumed run demands the same.
        source: one line for people: what was read and how much of it.
        path: absolute path of what was read; None for the standard library.
    """

    name: str
    data: np.ndarray
    sha256: str
    source: str
    path: str | None


def load_corpus(
    path: str | os.PathLike[str] | None = None,
    *,
    minimum_bytes: int = MINIMUM_TRAINING_BYTES,
    minimum_distinct: int = 2,
) -> Corpus:
    """Read a text.

    - A file is taken as it is, any bytes.
    - A folder gives its text files, sorted by path, joined by newlines. Left out, without a word, are hidden
      files and folders, symbolic links to folders, files that may not be read, binary files (those with a
      NUL byte), and polychron's own checkpoints, so that a run may write below the folder that it reads.
    - None gives the ``.py`` files of Python's standard library, without test suites, sorted by path, joined
      by newlines. Should they exceed 16 MiB, files are taken in the order of the SHA-256 of their path, as
      far as each still fits: the same choice on every machine with the same library, and no letter of the
      alphabet is preferred.

    Args:
        path: a file, a folder, or None.
        minimum_bytes: fewer are refused.
        minimum_distinct: fewer different byte values are refused: one value alone leaves nothing to predict.

    Raises:
        InputError: nothing there, not readable, not a file or folder, empty, too short, of one byte value
            only, or larger than memory.

    Example:
        >>> load_corpus().name
        'stdlib'
    """
    if path is None:
        name, absolute = STANDARD_LIBRARY, None
        data, source = _read_standard_library()
    else:
        text_path = Path(path)
        try:
            mode = text_path.stat().st_mode
            absolute = str(text_path.resolve())
        except FileNotFoundError:
            raise InputError(f"no such file or folder: {text_path}") from None
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"cannot read {text_path}: {reason(error)}") from None
        if stat.S_ISDIR(mode):
            data, source = _read_folder(text_path)
        elif stat.S_ISREG(mode):
            data, source = _read_file(text_path)
        else:
            raise InputError(
                f"{text_path} is neither a file nor a folder: a pipe or a device cannot be read again when "
                "a run is resumed, so save its content to a file first"
            )
        name = safe_name(Path(absolute).name if stat.S_ISDIR(mode) else Path(absolute).stem, "text")

    if data.size == 0:
        raise InputError(f"{source} is empty: at least {minimum_bytes:,} bytes are needed")
    if data.size < minimum_bytes:
        raise InputError(f"{source} is too short: at least {minimum_bytes:,} bytes are needed; got {data.size:,}")
    if minimum_distinct > 1 and np.count_nonzero(byte_counts(data)) < minimum_distinct:
        raise InputError(
            f"{source} consists of one byte value only ({int(data[0])}): there is nothing to learn from it"
        )
    data.flags.writeable = False
    return Corpus(name, data, hashlib.sha256(data).hexdigest(), f"{source}, {data.size:,} bytes", absolute)


def byte_counts(data: np.ndarray) -> np.ndarray:
    """How often each byte value occurs in ``data`` (N,) uint8: (256,) int64.

    Piecewise, because numpy's bincount first makes eight bytes of every one.
    """
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, data.size, 2**20):
        counts += np.bincount(data[start : start + 2**20], minlength=256)
    return counts


def _read_file(path: Path) -> tuple[np.ndarray, str]:
    try:
        require_memory(3 * path.stat().st_size, f"the bytes of {path}", "take a smaller text")
        return np.fromfile(path, dtype=np.uint8), str(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None


def _read_folder(folder: Path) -> tuple[np.ndarray, str]:
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise InputError(f"cannot read {folder}: {reason(error)}") from None
    pieces = []
    n_bytes = 0
    for path in _files_below(folder):
        piece = _text_or_none(path)
        if piece is not None:
            n_bytes += len(piece)
            require_memory(3 * n_bytes, f"the text files below {folder}", "take a folder with less text")
            pieces.append(piece)
    if not pieces:
        raise InputError(
            f"{folder} holds no text: there is no readable file without NUL bytes in it (hidden files and checkpoints "
            "are left out)"
        )
    return _joined(pieces), f"{folder} ({len(pieces):,} text files)"


def _read_standard_library() -> tuple[np.ndarray, str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = {}
    for path in _files_below(root, leave_out=_NOT_LIBRARY):
        # _sysconfigdata_* is written when Python is built and describes that machine, not the language.
        if path.suffix == ".py" and not path.name.startswith("_sysconfigdata"):
            piece = _text_or_none(path)
            if piece:
                texts[path.relative_to(root).as_posix()] = piece
    if not texts:
        raise InputError(f"Python's standard library has no .py files below {root}: give a TEXT to train on")

    chosen, n_bytes = [], 0
    for name in sorted(texts, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if n_bytes + len(texts[name]) + 1 <= STANDARD_LIBRARY_LIMIT:
            n_bytes += len(texts[name]) + 1
            chosen.append(name)
    return _joined([texts[name] for name in sorted(chosen)]), f"Python's standard library ({len(chosen):,} files)"


def _files_below(folder: Path, leave_out: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Files in and below a folder that are neither hidden nor a checkpoint's, sorted by the bytes of their path."""
    found = []
    for parent, folders, files in os.walk(folder):
        if CONFIG_NAME in files and is_checkpoint(parent):
            if Path(parent) != folder:
                folders.clear()
                continue
            files.remove(CONFIG_NAME)  # the weights are binary
        folders[:] = [name for name in folders if not name.startswith(".") and name not in leave_out]
        found.extend(Path(parent, name) for name in files if not name.startswith("."))
    yield from sorted(found, key=lambda path: os.fsencode(path.relative_to(folder).as_posix()))


def _text_or_none(path: Path) -> bytes | None:
    """A file's bytes, or None if it is no regular file, cannot be read, or is binary."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            return None
        with path.open("rb") as file:
            begins = file.read(_LOOKED_AT)
            if b"\0" in begins:
                return None
            require_memory(3 * os.fstat(file.fileno()).st_size, f"the bytes of {path}", "leave it out of the folder")
            content = begins + file.read()
    except OSError:
        return None
    return None if b"\0" in content else content


def _joined(pieces: list[bytes]) -> np.ndarray:
    return np.frombuffer(bytearray(b"\n".join(pieces)), dtype=np.uint8)
