"""How a command ends: exit codes, one line for what cannot be used, silence when nobody reads on."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator

from polychron.cli.output import visible
from polychron.errors import InputError


@contextlib.contextmanager
def quiet_when_nobody_reads() -> Iterator[None]:
    """Let a command end quietly when its reader has gone (``| head``)."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()


def exit_code(run: Callable[[], int | None]) -> int:
    """The exit code of a command, whatever it raises.

    0: done. 2: something given cannot be used, one line on stderr says what. 130, 143: stopped by SIGINT,
    SIGTERM.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller closed it: nobody reads
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        return run() or 0
    except InputError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # A file has a name, and what writes one says so in an InputError.
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _forget_output()
        return _refuse("cannot write to standard output: no space left on the device")
    except Exception as error:
        if _is_out_of_memory(error):
            return _refuse("out of memory: take a smaller preset, batch or length, or close other programs")
        # Wrong usage, in whatever class this version of typer has for it.
        if not hasattr(error, "format_message"):
            raise
        return _refuse(error.format_message())


def _is_out_of_memory(error: Exception) -> bool:
    """Python's own MemoryError, and what PyTorch raises in its place, known without importing it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(some in str(error) for some in words)


def _forget_output() -> None:
    """Python flushes standard output once more at the end; there it must not fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str) -> int:
    line = " ".join(message.split()).rstrip(".")
    print(f"error: {visible(line)}", file=sys.stderr)  # a damaged checkpoint's own words may be in it
    return 2
