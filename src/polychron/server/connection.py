"""A connection that asks for nothing, or takes no answer, is closed: uvicorn by itself waits for either for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that ends a connection after twice ``seconds`` without a request, or when it takes no answer.

    Args:
        seconds: between two looks; a connection found without a request twice in a row, none between, is closed.
        answer_seconds: one that at all looks for so long was full, or closed and not gone, is dropped: the other side
            takes nothing of what is left to send.
        options: of uvicorn's protocol.
    """

    def __init__(self, *, seconds: float, answer_seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = seconds
        self._answer_seconds = answer_seconds
        self._was_idle = False
        self._cycle_seen: object = None
        self._stuck_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self._seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        self._timer = self.loop.call_later(self._seconds, self._look)
        now = self.loop.time()
        if not (self.flow.write_paused or self.transport.is_closing()):
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since > self._answer_seconds:
            self.transport.abort()
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self._was_idle and self.cycle is self._cycle_seen:  # each request has a cycle of its own
            self.transport.close()
        self._was_idle, self._cycle_seen = is_idle, self.cycle
