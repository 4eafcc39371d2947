"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from polychron.errors import InputError


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it is renamed to ``path`` when the block ends well, and is gone otherwise.

    Raises:
        InputError: the system refused, or the path is a folder's.
    """
    scratch = path.parent / f".{path.name}.{os.getpid()}.writing"
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder")
        yield scratch
        scratch.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
