"""How much of a server one request may take, and how many at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polychron.errors import InputError

_SECONDS_FOR_A_BODY = 10.0
_MAXIMUM = 2**40


@dataclass(frozen=True)
class Limits:
    """What is refused, with status 413, 400 or 503 and the reason.

    Attributes:
        streams: texts written at the same time; one more is answered 503.
        n_bytes: bytes that a request may ask for.
        prompt_bytes: bytes of a prompt.
        seconds: time that a request may take, from its last byte read to its last byte written.

    Raises:
        InputError: one is out of range.

    Example:
        >>> Limits(prompt_bytes=1000).body_bytes
        10096
    """

    streams: int = 8
    n_bytes: int = 1_000_000
    prompt_bytes: int = 1 << 16
    seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("streams", "n_bytes", "prompt_bytes"):
            if not 1 <= getattr(self, name) <= _MAXIMUM:
                raise InputError(f"{name} must lie in [1, 2^40]; got {getattr(self, name)}")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise InputError(f"seconds must be above 0 and finite; got {self.seconds}")

    @property
    def body_bytes(self) -> int:
        """Bytes of a request's body: JSON takes six for a byte at worst, and something for the other fields."""
        return 6 * self.prompt_bytes + 4096

    @property
    def body_seconds(self) -> float:
        """Time for a body to arrive; a connection on which no request comes is closed after twice that."""
        return min(self.seconds, _SECONDS_FOR_A_BODY)
