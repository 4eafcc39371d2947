"""A text as it is written, in pieces short enough to stop between two of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from polychron.errors import InputError
from polychron.runtime import Model
from polychron.server.limits import Limits
from polychron.server.request import Refusal, Wanted

_T = TypeVar("_T")
_SHORT, _LONG = 0.01, 0.04  # seconds of one piece: in between its size is right
_LARGEST = 1 << 14


class Writer:
    """Writes what requests ask for: so many at once, each for so long, on as many threads as compute well.

    Args:
        model: one for all.
        limits: of a request, and of their number.
        threads: pieces that are computed at the same time; streams take turns.

    Attributes:
        n_streams: texts being written now.
        stopping: set, every text ends with its next piece.
    """

    def __init__(self, model: Model, limits: Limits, threads: int) -> None:
        self.model = model
        self.limits = limits
        self.n_streams = 0
        self.stopping = False
        self._threads = threads
        self._turns: anyio.CapacityLimiter | None = None

    def take_place(self) -> None:
        """Count one more text; `give_place` ends it.

        Raises:
            Refusal: as many as may be are being written, or the server is stopping.
        """
        self._check_stopping()
        if self.n_streams >= self.limits.streams:
            raise Refusal(503, f"{self.n_streams} texts are being written: try again later", {"Retry-After": "1"})
        self.n_streams += 1

    def give_place(self) -> None:
        """One text less."""
        self.n_streams -= 1

    async def pieces(self, wanted: Wanted) -> AsyncIterator[bytes]:
        """The bytes of ``polychron generate`` with the same options; the prompt is not among them.

        Raises:
            Refusal: time is up, the server is stopping, or the model's logits are not finite.
        """
        stream = self.model.stream()
        sampler = stream.sampler(wanted.options)
        prompt = wanted.prompt_bytes
        deadline = time.monotonic() + self.limits.seconds
        pace = _Pace(64)
        read = pace.size
        await self._compute(pace, lambda: stream.start(prompt[:read]), deadline, "nothing of the prompt was read")
        while read < len(prompt):
            done = f"{read:,} of {len(prompt):,} bytes of the prompt were read"
            piece = prompt[read : read + pace.size]
            await self._compute(pace, lambda piece=piece: stream.read(piece), deadline, done)
            read += len(piece)
        pace = _Pace(1)
        written = 0
        while written < wanted.n_bytes:
            done = f"{written:,} of {wanted.n_bytes:,} bytes were written"
            size = min(pace.size, wanted.n_bytes - written)
            yield await self._compute(pace, lambda size=size: stream.write(size, sampler), deadline, done)
            written += size

    def time_is_up(self, done: str) -> Refusal:
        """What a request is answered that took longer than it may; ``done``: what was reached until then."""
        return Refusal(503, f"the {self.limits.seconds:g} s of a request were over when {done}: ask for less")

    async def _compute(self, pace: _Pace, function: Callable[[], _T], deadline: float, done: str) -> _T:
        """One piece, begun before the deadline: a turn is not waited for any longer, and ``done`` says what was."""
        self._check_stopping()
        seconds = deadline - time.monotonic()
        if seconds < 0:
            raise self.time_is_up(done)
        if self._turns is None:  # made within the event loop that it belongs to
            self._turns = anyio.CapacityLimiter(self._threads)
        try:
            with anyio.fail_after(seconds):
                return await anyio.to_thread.run_sync(pace.timed, function, limiter=self._turns)
        except TimeoutError:
            raise self.time_is_up(done) from None
        except InputError as error:
            raise Refusal(500, str(error)) from None

    def _check_stopping(self) -> None:
        if self.stopping:
            raise Refusal(503, "the server is stopping")


class _Pace:
    """The size of the next piece, from how long the last one took."""

    def __init__(self, size: int) -> None:
        self.size = size

    def timed(self, function: Callable[[], _T]) -> _T:
        began = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - began
        if seconds < _SHORT:
            self.size = min(2 * self.size, _LARGEST)
        elif seconds > _LONG:
            self.size = max(1, self.size // 2)
        return result
