"""The dense transformer with int8 weights, in PyTorch as a definition and in C for the processor at hand.

What enters a matrix is rounded to 255 steps of its largest number, each output of a matrix has a unit of its own.
"""

# D width, H output, K class, N position in the text

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from boards.dense_int8 import HERE
from polychron.twins.transformer import MIXED_BYTES, Transformer, rotation

COMPILER = ("cc", "-std=gnu11", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")
LARGEST = 127
LANES = 16


class Int8Linear(nn.Module):
    """Inputs and weights (H, n) rounded to int8: inputs in units of their own largest, weights of each output's."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.unit = weight.abs().amax(dim=1).clamp_min(1e-20) / LARGEST
        self.weight = torch.round(weight / self.unit[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) to (..., H)."""
        unit = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-20) / LARGEST
        return (torch.floor(x / unit + 0.5) @ self.weight.T) * self.unit * unit


class Int8Transformer(Transformer):
    """A trained transformer with int8 weights: what the C computes. Norms' weights go into the matrices behind them."""

    def __init__(self, twin: Transformer):
        super().__init__(twin.embedding.num_embeddings, twin.size)
        self.load_state_dict(twin.state_dict())
        with torch.no_grad():
            for block in self.blocks:
                block.query_key_value = Int8Linear(block.query_key_value.weight * block.attention_norm.weight)
                block.attention_out = Int8Linear(block.attention_out.weight)
                block.up = Int8Linear(block.up.weight * block.perceptron_norm.weight)
                block.down = Int8Linear(block.down.weight)
                block.attention_norm.weight.fill_(1.0)
                block.perceptron_norm.weight.fill_(1.0)
            self.last = Int8Linear(self.embedding.weight * self.norm.weight)
            self.norm.weight.fill_(1.0)
        self.eval()

    def readout(self, x: Tensor) -> Tensor:
        """Logits by the int8 matrix."""
        return self.last(x)


class CompiledTransformer:
    """An `Int8Transformer` as a shared library; it has one state.

    Args:
        twin: trained; width a multiple of 32, heads of 16, a window of a multiple of 16.
        folder: where the program goes.

    Raises:
        subprocess.CalledProcessError: the compiler failed.
    """

    def __init__(self, twin: Int8Transformer, folder: Path):
        size, n_tokens = twin.size, twin.embedding.num_embeddings
        self.n_tokens, self.n_classes = n_tokens, -(-n_tokens // (2 * LANES)) * 2 * LANES
        values = {
            "WIDTH": size.width, "LAYERS": size.n_layers, "HEADS": size.n_heads, "WINDOW": size.window,
            "TOKENS": n_tokens, "CLASSES": self.n_classes, "BEFORE": MIXED_BYTES,
        }  # fmt: skip
        source = re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), (HERE / "transformer.c.in").read_text())
        stem = folder / "transformer"
        stem.with_suffix(".c").write_text(source)
        command = [*COMPILER, "-o", str(stem.with_suffix(".so")), str(stem.with_suffix(".c"))]
        subprocess.run(command, check=True, capture_output=True)
        self._library = ctypes.CDLL(str(stem.with_suffix(".so")))
        self._library.size_of_network.restype = ctypes.c_uint64
        content = _content(twin, self.n_classes)
        if len(content) != self._library.size_of_network():
            raise AssertionError("the C lays the network out in another way")
        self._library.open_network(content)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """After each byte of a text: (N,) uint8 to (N, K) float32."""
        out = np.empty((len(tokens), self.n_classes), dtype=np.float32)
        tokens = np.ascontiguousarray(tokens)
        self._library.reset()
        self._library.read_text(_pointer(tokens), ctypes.c_int64(len(tokens)), _pointer(out))
        return out[:, : self.n_tokens]

    def write(self, prompt: np.ndarray, n: int, seed: int, temperature: float = 1.0) -> np.ndarray:
        """The n tokens that it draws behind a prompt."""
        text, prompt = np.empty(n, dtype=np.uint8), np.ascontiguousarray(prompt)
        self._library.write_text(_pointer(prompt), ctypes.c_int64(len(prompt)), _pointer(text), ctypes.c_int64(n),
                                 ctypes.c_float(temperature), ctypes.c_uint64(seed + 1))  # fmt: skip
        return text


def _content(twin: Int8Transformer, n_classes: int) -> bytes:
    """The C's network, as it lies in memory."""
    with torch.no_grad():
        embedding = twin.embedding.weight
        rows = [embedding @ matrix.T for matrix in twin.mix.weight.split(twin.size.width, dim=1)]
        content = [nn.functional.pad(torch.stack([*rows, embedding]), (0, 0, 0, 1)).numpy().tobytes()]
        for block in twin.blocks:
            for layer in (block.query_key_value, block.attention_out, block.up, block.down):
                content.append(_matrix(layer, len(layer.unit)))
        content.append(_matrix(twin.last, n_classes))
    half = twin.size.width // twin.size.n_heads // 2
    cosine, sine = rotation(torch.ones(1, dtype=torch.int64), half, torch.float64)
    return b"".join([*content, cosine.numpy().tobytes(), sine.numpy().tobytes()])


def _matrix(layer: Int8Linear, n_outputs: int) -> bytes:
    """Weights in the order of the C's instructions, units, and what bytes around 128 add too much."""
    missing = n_outputs - len(layer.unit)
    weights = np.pad(layer.weight.numpy().astype(np.int8), ((0, missing), (0, 0)))
    unit = np.pad(layer.unit.numpy(), (0, missing))
    blocks = next(blocks for blocks in (6, 4, 2) if n_outputs % (blocks * LANES) == 0)
    in_order = weights.reshape(-1, blocks, LANES, weights.shape[1] // 4, 4).transpose(0, 3, 1, 2, 4)
    offset = 128 * weights.sum(axis=1, dtype=np.int32)
    return in_order.tobytes() + unit.astype(np.float32).tobytes() + offset.tobytes()


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
