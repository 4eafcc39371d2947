"""How the next byte is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polychron.errors import InputError


@dataclass(frozen=True)
class SamplingOptions:
    """Settings of `polychron.runtime.sampling.Sampler`, which says what they mean.

    Attributes:
        temperature: 0 or above; below 1 is more careful than the model, above 1 bolder.
        top_p: above 0, at most 1; 1 keeps every token. It counts as the nearest 65,536th.
        seed: in [0, 2^64).

    Raises:
        InputError: one is out of range.

    Example:
        >>> SamplingOptions(temperature=0.8).top_p
        1.0
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature must be 0 or above and finite; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p must be above 0 and at most 1; got {self.top_p}")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed must be at least 0 and below 2^64; got {self.seed}")

    @property
    def left_out(self) -> int:
        """1 - top_p in 65,536ths, a whole number, so that every machine cuts the nucleus at the same token."""
        return min(round((1 - self.top_p) * 65536), 65535)


# How commands, the server, C and pages draw unless told otherwise.
USUAL = SamplingOptions(top_p=0.95)
