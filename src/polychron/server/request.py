"""What a client asks for: JSON of at most so many bytes, checked field by field; and how a request is refused."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Annotated, Literal

import anyio
import pydantic
from pydantic import Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from polychron.errors import InputError
from polychron.runtime import SamplingOptions
from polychron.runtime.options import USUAL
from polychron.server.limits import Limits


@dataclass
class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A request that is not answered, and why.

    Attributes:
        status: of HTTP.
        reason: one line.
        headers: that go with it.
    """

    status: int
    reason: str
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> JSONResponse:
        """As JSON."""
        return JSONResponse({"error": self.reason}, self.status, self.headers)


class Wanted(pydantic.BaseModel):
    """The body of ``POST /generate``; defaults are those of ``polychron generate``.

    Example:
        >>> Wanted.model_validate_json('{"prompt": "It was"}').n_bytes
        500
    """

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)

    prompt: str = ""
    prompt_base64: str | None = None
    n_bytes: Annotated[int, Field(alias="bytes", ge=0)] = 500
    temperature: float = USUAL.temperature
    top_p: float = USUAL.top_p
    seed: int = USUAL.seed
    format: Literal["json", "bytes", "events"] = "json"

    @property
    def options(self) -> SamplingOptions:
        """How bytes are drawn."""
        return SamplingOptions(temperature=self.temperature, top_p=self.top_p, seed=self.seed)

    @property
    def prompt_bytes(self) -> bytes:
        """What to continue."""
        if self.prompt_base64 is None:
            return self.prompt.encode()
        try:
            return base64.b64decode(self.prompt_base64, validate=True)
        except (binascii.Error, ValueError):
            raise InputError("prompt_base64 must be base64") from None


async def read_wanted(request: Request, limits: Limits) -> Wanted:
    """The body of a request.

    Raises:
        Refusal: it is no JSON of the right fields, too large, too slow, or asks for too much.
    """
    # Not a form that any web page could send to this machine without asking.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the body must be JSON with Content-Type: application/json (curl --json does it)")
    body = await _read_body(request, limits)
    try:
        wanted = Wanted.model_validate_json(body)
        prompt = wanted.prompt_bytes
        wanted.options  # noqa: B018 - they check themselves
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise Refusal(400, " ".join(f"{where}{first['msg']}".split())[:500]) from None
    except InputError as error:
        raise Refusal(400, str(error)) from None
    if wanted.prompt_base64 is not None and wanted.prompt:
        raise Refusal(400, "prompt and prompt_base64 exclude each other")
    if len(prompt) > limits.prompt_bytes:
        raise Refusal(413, f"prompt has {len(prompt):,} bytes and this server takes {limits.prompt_bytes:,}")
    if wanted.n_bytes > limits.n_bytes:
        raise Refusal(400, f"bytes must be at most {limits.n_bytes:,} on this server; got {wanted.n_bytes:,}")
    return wanted


async def _read_body(request: Request, limits: Limits) -> bytes:
    too_large = Refusal(413, f"the body must have at most {limits.body_bytes:,} bytes", {"Connection": "close"})
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        with anyio.fail_after(limits.body_seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"the body took more than {limits.body_seconds:g} s", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refusal(400, "the client went away") from None
    return bytes(body)
