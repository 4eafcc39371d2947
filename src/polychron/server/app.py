"""The server's addresses: ``POST /generate``, ``GET /info`` (and ``/``), ``GET /health``."""

from __future__ import annotations

import codecs
import ipaddress
import json
import math
import re
import time
from collections.abc import Iterable
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import polychron
from polychron.runtime import Model
from polychron.server.limits import Limits
from polychron.server.request import Refusal, Wanted, read_wanted
from polychron.server.writing import Writer

# A client that reads nothing holds its place so much longer than the limit, in which the last words may reach others.
_GRACE_SECONDS = 1.0
# localhost, or an address in the one group or the other, with any port.
_HOST = re.compile(r"(?:localhost|([0-9.]+)|\[([0-9a-f]*:[0-9a-f:.]+)\])(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)


def create_app(model: Model, limits: Limits | None = None, *, threads: int = 1, loopback: bool = True) -> Starlette:
    """The ASGI application of a model; ``app.state.writer.stopping = True`` ends its open streams.

    Args:
        model: from `polychron.runtime.load`.
        limits: the defaults of `Limits` where None.
        threads: that compute.
        loopback: answer only requests to ``localhost`` or a loopback address, so that no web page can reach the model
            by way of a name of its own.

    Example:
        >>> import polychron.runtime
        >>> app = create_app(polychron.runtime.load("runs/book"))  # doctest: +SKIP
    """
    limits = limits or Limits()
    writer = Writer(model, limits, threads)
    facts = describe(model, limits)

    async def info(_: Request) -> Response:
        return JSONResponse(facts)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "streams": writer.n_streams, "streams_limit": limits.streams})

    app: Any = Starlette(
        routes=[
            Route("/", info),
            Route("/info", info),
            Route("/health", health),
            Route("/generate", _Generate(writer), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )
    app.state.writer = writer
    if loopback:
        app.add_middleware(_OwnNamesOnly)
    return app


def describe(model: Model, limits: Limits) -> dict[str, Any]:
    """The model's facts and the server's limits, for JSON."""
    entries = [entry for name, entry in model.tensors.entries.items() if name.startswith("model.")]
    return {
        "polychron": polychron.__version__,
        "model": model.settings.kind,
        "precision": model.precision,
        "parameters": sum(math.prod(e.shape) for e in entries if e.dtype in ("F32", "BF16", "I8", "I16")),
        "weights_bytes": sum(e.end - e.begin for e in entries),
        "vocabulary": list(model.vocabulary.byte_values),
        "limits": {
            "streams": limits.streams,
            "bytes": limits.n_bytes,
            "prompt_bytes": limits.prompt_bytes,
            "seconds": limits.seconds,
        },
    }


class _Generate:
    """``POST /generate``, as an ASGI application: a place is held exactly as long as the response lasts."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            wanted = await read_wanted(Request(scope, receive), self._writer.limits)
            self._writer.take_place()
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        sender = _Sender(send)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_when_gone, receive, group.cancel_scope)
                with anyio.move_on_after(self._writer.limits.seconds + _GRACE_SECONDS) as limit:
                    await getattr(self, f"_as_{wanted.format}")(wanted, scope, receive, sender)
                group.cancel_scope.cancel()
        finally:
            self._writer.give_place()
        if limit.cancelled_caught:
            await self._say_late(wanted, scope, receive, sender)

    async def _say_late(self, wanted: Wanted, scope: Scope, receive: Receive, send: _Sender) -> None:
        """Without a place: where the client takes nothing, the connection is what ends it."""
        refusal = self._writer.time_is_up("not all of the answer was sent")
        if not send.begun:
            await refusal.response()(scope, receive, send)
        elif wanted.format == "events":
            await send({"type": "http.response.body", "body": _event("error", error=refusal.reason)})

    async def _as_json(self, wanted: Wanted, scope: Scope, receive: Receive, send: _Sender) -> None:
        began = time.perf_counter()
        try:
            text = b"".join([piece async for piece in self._writer.pieces(wanted)])
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        seconds = time.perf_counter() - began
        done = {"text": text.decode("utf-8", errors="replace"), **_finished(len(text), seconds)}
        await JSONResponse(done)(scope, receive, send)

    async def _as_bytes(self, wanted: Wanted, scope: Scope, receive: Receive, send: _Sender) -> None:
        """The bytes as they are. Where they end early, the connection is closed before Content-Length is reached."""
        body = _Body(send, "application/octet-stream", {"content-length": str(wanted.n_bytes)})
        try:
            async for piece in self._writer.pieces(wanted):
                await body.write(piece)
        except Refusal as refusal:
            if not send.begun:
                await refusal.response()(scope, receive, send)
            return
        await body.end()

    async def _as_events(self, wanted: Wanted, scope: Scope, receive: Receive, send: _Sender) -> None:
        """Server-sent events: {"text"} with whole characters, then the event ``end``, or ``error``."""
        began, n_bytes = time.perf_counter(), 0
        body = _Body(send, "text/event-stream", {"cache-control": "no-store"})
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            async for piece in self._writer.pieces(wanted):
                n_bytes += len(piece)
                text = decoder.decode(piece)
                if text:
                    await body.write(_event(text=text))
        except Refusal as refusal:
            if not send.begun:
                await refusal.response()(scope, receive, send)
                return
            await body.end(_event("error", error=refusal.reason))
        else:
            rest = decoder.decode(b"", final=True)
            if rest:
                await body.write(_event(text=rest))
            await body.end(_event("end", **_finished(n_bytes, time.perf_counter() - began)))


class _Sender:
    """Sends, and knows whether the response has begun: what fails before can still be refused."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def __call__(self, message: Message) -> None:
        await self._send(message)
        self.begun = True


class _Body:
    """A response sent piece by piece, which begins with the first."""

    def __init__(self, send: _Sender, media_type: str, headers: dict[str, str]) -> None:
        self._send = send
        self._headers = {"content-type": media_type, **headers}

    async def write(self, piece: bytes) -> None:
        await self._begin()
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes = b"") -> None:
        await self._begin()
        await self._send({"type": "http.response.body", "body": piece})

    async def _begin(self) -> None:
        if not self._send.begun:
            headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})


def _finished(n_bytes: int, seconds: float) -> dict[str, Any]:
    return {"bytes": n_bytes, "bytes_per_second": n_bytes / max(seconds, 1e-9)}


def _event(name: str | None = None, **fields: Any) -> bytes:
    kind = f"event: {name}\n" if name else ""
    return f"{kind}data: {json.dumps(fields)}\n\n".encode()


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


class _OwnNamesOnly:
    """Refuses requests without one Host that names the loopback: a page's own name may be made to mean this machine.

    The header is compared as it came; what a URL's parser makes of a wrong one may be the server's own name.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _names_loopback(scope["headers"]):
            refusal = Refusal(421, "this server answers to localhost and loopback addresses only")
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _names_loopback(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    hosts = [value for name, value in headers if name.lower() == b"host"]
    match = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    if match is None:
        return False
    address = match[1] or match[2]
    try:
        return address is None or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Refusal(error.status_code, error.detail.lower(), dict(error.headers or {})).response()


async def _failed(_: Request, error: Exception) -> Response:
    return Refusal(500, f"internal error: {type(error).__name__}").response()
