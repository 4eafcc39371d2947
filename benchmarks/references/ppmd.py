"""PPMd: what a text compressor of 2001 makes of the held-out part when it has read the training part.

It goes on learning while it codes; no network here does, unless said so.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from polychron.errors import InputError

try:
    import pyppmd
except ImportError:
    pyppmd = None

MEMORY = 1 << 30  # at most; the model must never have to forget
MEMORY_PER_BYTE = 128


@dataclass(frozen=True)
class Coded:
    """The held-out part as PPMd codes it.

    Attributes:
        nats_per_byte: of the held-out bytes.
        scored_bytes: how many that are.
        seconds: to code the whole text, training part and held-out part.
    """

    nats_per_byte: float
    scored_bytes: int
    seconds: float


def code_held_out(training: np.ndarray, held_out: np.ndarray, order: int) -> Coded:
    """Size of the code of both parts less the size of the code of the training part.

    Args:
        training: (N,) uint8.
        held_out: (M,) uint8, M >= 1.
        order: longest context, 2 to 64 bytes.
    """
    n_alone = coded_bytes(training.tobytes(), order)
    began = time.perf_counter()
    n_both = coded_bytes(training.tobytes() + held_out.tobytes(), order)
    seconds = time.perf_counter() - began
    return Coded((n_both - n_alone) * 8 * math.log(2) / held_out.size, held_out.size, seconds)


def coded_bytes(text: bytes, order: int) -> int:
    """Length of a text coded by PPMd variant H, the one of the 7z format.

    Raises:
        InputError: pyppmd is not installed.
    """
    if pyppmd is None:
        raise InputError("PPMd needs pyppmd: pip install 'polychron[bench]', or leave ppmd out of --models")
    memory = min(MEMORY, max(1 << 24, MEMORY_PER_BYTE * len(text)))
    encoder = pyppmd.Ppmd7Encoder(order, memory)
    return len(encoder.encode(text)) + len(encoder.flush())
