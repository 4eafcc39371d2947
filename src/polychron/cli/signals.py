"""A run that is asked to stop: saved first, then ended."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Yield a list that receives the first SIGINT or SIGTERM; a second one does what it usually does."""
    noted: list[int] = []
    usual = {}

    def note(number: int, _: FrameType | None) -> None:
        noted.append(number)
        restore()

    def restore() -> None:
        while usual:
            signal.signal(*usual.popitem())

    for number in (signal.SIGINT, signal.SIGTERM):
        usual[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
