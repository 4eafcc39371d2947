"""The dense network of bytes compiled for the processor at hand: what plain C and a good compiler make of int8 weights.

Axes: V token, W bytes of context, E numbers of an embedding, H unit, K class.
"""

from __future__ import annotations

import ctypes
import math
import re
import subprocess
from pathlib import Path

import numpy as np

from boards.dense_int8 import HERE, DenseInt8

_ENTRIES = 8192
_LARGEST_WEIGHT = 2**22  # of a draw, as in polychron's runtime
OPTIONS = {
    "products, vectors of 256 bits": (),
    "products, vectors of 512 bits": ("-mprefer-vector-width=512",),
    "rows, vectors of 256 bits": ("-DROWS",),
    "rows, vectors of 512 bits": ("-DROWS", "-mprefer-vector-width=512"),
}
COMPILER = ("cc", "-std=c99", "-O3", "-march=native", "-shared", "-fPIC")


class CompiledWindow:
    """A perceptron over the last bytes, in int8, as a shared library.

    Args:
        network: of two layers.
        embedding: (V, E) uint8; the last token is that of bytes never seen, and is not drawn.
        temperature: of draws.
        folder: where the program goes.
        options: one of `OPTIONS`.

    Raises:
        subprocess.CalledProcessError: the compiler does not know an option.
    """

    def __init__(self, network: DenseInt8, embedding: np.ndarray, temperature: float, folder: Path, options: str):
        first, readout = network.layers
        n_tokens, width = embedding.shape
        self.n_classes, self.context = len(readout.bias), first.weights.shape[1] // width
        reach = 24 * temperature / network.logit_unit  # e^-24 is less than one in 2^22
        fine = max(0, math.ceil(math.log2(reach / _ENTRIES)))
        values = {
            "CONTEXT": self.context, "WIDTH": width, "TOKENS": n_tokens, "HIDDEN": len(first.bias),
            "CLASSES": self.n_classes, "SHIFT": first.shift, "FINE": fine, "ENTRIES": _ENTRIES,
        }  # fmt: skip
        source = re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), (HERE / "window_perceptron.c.in").read_text())
        stem = folder / re.sub(r"\W+", "_", options)
        stem.with_suffix(".c").write_text(source)
        command = [*COMPILER, *OPTIONS[options], "-o", str(stem.with_suffix(".so")), str(stem.with_suffix(".c"))]
        subprocess.run(command, check=True, capture_output=True)
        distance = np.arange(_ENTRIES) * 2.0**fine * network.logit_unit / temperature
        weights = np.rint(_LARGEST_WEIGHT * np.exp(-distance)).astype(np.uint32)
        weights[-1] = 0
        arrays = (embedding, first.weights, first.bias, readout.weights, readout.bias, weights)
        self._library = ctypes.CDLL(str(stem.with_suffix(".so")))
        self._library.open_network(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """After each token that has a whole context: (N,) uint8 to (N - W + 1, K) int32."""
        out = np.empty((len(tokens) - self.context + 1, self.n_classes), dtype=np.int32)
        tokens = np.ascontiguousarray(tokens)
        self._library.read_text(ctypes.c_void_p(tokens.ctypes.data), ctypes.c_int64(len(out)),
                                ctypes.c_void_p(out.ctypes.data))  # fmt: skip
        return out

    def write(self, prompt: np.ndarray, n: int, seed: int) -> np.ndarray:
        """The n tokens that it draws behind a prompt of at least W."""
        text = np.zeros(self.context + n, dtype=np.uint8)
        text[: self.context] = prompt[-self.context :]
        self._library.write_text(ctypes.c_void_p(text.ctypes.data), ctypes.c_int64(n), ctypes.c_uint64(seed + 1))
        return text[self.context :]
