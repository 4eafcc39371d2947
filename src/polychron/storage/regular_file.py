"""Opening a file that somebody gave, where something else may stand in its place."""

from __future__ import annotations

import os
import stat
from typing import IO

from polychron.errors import InputError

_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # a pipe is opened without waiting for who writes to it


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file, open to be read as bytes; what is no file is refused at once, where reading it could wait for ever.

    Raises:
        OSError: it cannot be opened, or is a folder.
        InputError: a pipe or a device.

    Example:
        >>> open_regular("/dev/null")
        Traceback (most recent call last):
        ...
        polychron.errors.InputError: cannot read /dev/null: it is a pipe or a device, and a regular file is needed
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AT_ONCE))  # noqa: SIM115 - handed on
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f"cannot read {path}: it is a pipe or a device, and a regular file is needed")
    return file
