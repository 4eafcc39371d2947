"""Files that belong together, written all or none."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from polychron.analysis.files import written_beside
from polychron.errors import InputError
from polychron.storage.config_file import reason


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write every file beside its old one, and rename them when all are there; what did not fit is taken away.

    Args:
        contents: of each path; folders are made.

    Raises:
        InputError: the system refused, or a path is a folder's; the old files are as they were.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_files({folder / "a.h": b"one", folder / "a.c": b"two"})
        >>> sorted(path.name for path in folder.iterdir())
        ['a.c', 'a.h']
    """
    with ExitStack() as stack:
        for path, content in contents.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot write {path}: {reason(error)}") from None
            stack.enter_context(written_beside(path)).write_bytes(content)
