"""The server as a process: its socket, its signals, its end."""

from __future__ import annotations

import errno
import faulthandler
import functools
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from polychron.errors import InputError
from polychron.server.connection import PatientProtocol

_SECONDS_TO_END = 3  # for requests that are open when the server is asked to stop
_LONGEST_END = 30  # seconds after which a server that was asked to stop says where it hangs, and ends
_BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        InputError: the port is in use, not allowed, or the host is no address of this machine.

    Example:
        >>> with listen("127.0.0.1", 0) as listener:
        ...     is_loopback(listener)
        True
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {host} is in use, perhaps by another server: give another --port, or 0 for a free one"
            ) from None
        # An errno's own words: to those of an exception, create_server adds the address once more.
        known = isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno is not None
        text = os.strerror(error.errno) if known else getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen on port {port} of {host!a}: {text}") from None


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def address_of(listener: socket.socket) -> str:
    """Where it can be reached: a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: Starlette, listener: socket.socket, *, log: bool = False, started: Callable[[], None] = lambda: None
) -> None:
    """Serve until SIGINT or SIGTERM: then nothing new is taken, open streams end, and it returns.

    Args:
        app: from `polychron.server.create_app`.
        listener: from `listen`; closed in the end.
        log: write a line a request to standard error.
        started: called once requests are answered and signals are heeded.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("uvicorn.access").setLevel(logging.INFO if log else logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_unexpected)
    writer = app.state.writer
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=log,
        lifespan="off",
        ws="none",
        http=functools.partial(
            PatientProtocol, seconds=writer.limits.body_seconds, answer_seconds=writer.limits.seconds
        ),
        loop="asyncio",
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        # Beyond these, idle and slow ones included, connections are answered 503 by uvicorn itself.
        limit_concurrency=4 * writer.limits.streams + 64,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    with listener:
        try:
            _Server(config, started, writer).run(sockets=[listener])
        finally:
            faulthandler.cancel_dump_traceback_later()


class _Server(uvicorn.Server):
    """Ends with the writer's texts, and as a program that did what it was asked to."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], writer: object) -> None:
        super().__init__(config)
        self._tell_started = started
        self._writer = writer

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal does not wait for open requests. Uvicorn's own would raise the signal again in the end.

        Whatever a thread or a task waits for, the process does not outlive its signal by more than half a minute.
        """
        self.force_exit = self.should_exit
        self.should_exit = True
        self._writer.stopping = True
        if sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(_LONGEST_END, exit=True, file=sys.__stderr__)


_EXPECTED = (
    "ASGI callable returned without completing response",  # a text that ends early
    "Cancel ",  # a request that outlasts the server
    "Invalid HTTP request received",
    "Unsupported upgrade request",
    "No supported WebSocket library",
    "Exceeded concurrency limit",
)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """What clients do wrong, and what the server does on purpose, is no news."""
    return not record.getMessage().startswith(_EXPECTED)
