"""A dense network of bytes, the peer on the boards: quantised from a trained one, in numpy and as C.

Inputs and hidden units are bytes without a sign, weights int8 with a power of two for each layer, sums 32 bits.

Axes: B example, n input, H unit, K class.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


@dataclass(frozen=True)
class DenseLayer:
    """Sums of one layer.

    Attributes:
        weights: (H, n) int8.
        bias: (H,) int32, in units of the sums.
        shift: a hidden layer's sums are shifted by so many bits to bytes; None: the readout.
    """

    weights: np.ndarray
    bias: np.ndarray
    shift: int | None

    def sums(self, x: np.ndarray) -> np.ndarray:
        """(B, n) uint8 to (B, H) int64."""
        return x.astype(np.int64) @ self.weights.T.astype(np.int64) + self.bias


@dataclass(frozen=True)
class DenseInt8:
    """Layers, and what a unit of the logits is."""

    layers: tuple[DenseLayer, ...]
    logit_unit: float

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(B, n) uint8 to (B, K) int64."""
        *hidden, readout = self.layers
        for layer in hidden:
            x = np.clip(layer.sums(x) >> layer.shift, 0, 255).astype(np.uint8)
        return readout.sums(x)

    @property
    def n_weights(self) -> int:
        """Multiplications of an inference."""
        return sum(layer.weights.size for layer in self.layers)


def quantize_dense(layers: list[tuple[np.ndarray, np.ndarray]], unit: float, examples: np.ndarray) -> DenseInt8:
    """Layers of (weights (H, n), bias (H,)) float, rectified in between, as int8.

    Args:
        layers: the readout last; n and H even (`even` pads).
        unit: what 1 of the inputs counts.
        examples: inputs (B, n) uint8 that tell how large hidden sums become.
    """
    made: list[DenseLayer] = []
    for at, (weights, bias) in enumerate(layers):
        bits = math.floor(math.log2(127 / np.abs(weights).max()))
        whole = np.clip(np.rint(np.ldexp(weights, bits)), -127, 127).astype(np.int8)
        sum_unit = unit * 2.0**-bits
        layer = DenseLayer(whole, np.rint(bias / sum_unit).astype(np.int32), None)
        if at < len(layers) - 1:
            x = examples
            for before in made:
                x = np.clip(before.sums(x) >> before.shift, 0, 255).astype(np.uint8)
            highest = float(np.quantile(layer.sums(x), 0.9999))
            shift = max(0, math.ceil(math.log2(max(highest, 1.0) / 255)))
            layer = DenseLayer(layer.weights, layer.bias, shift)
            unit = sum_unit * 2.0**shift
        made.append(layer)
    return DenseInt8(tuple(made), sum_unit)


def even(weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With a unit of zeros more where there is an odd number."""
    odd = len(weights) % 2
    return np.pad(weights, ((0, odd), (0, 0))), np.pad(bias, (0, odd))


def write_classifier(network: DenseInt8, n_classes: int, path: Path) -> None:
    """``path.c`` and ``path.h`` with the functions of our C: classify, logit."""
    name, n_inputs = path.name, network.layers[0].weights.shape[1]
    _write(
        path,
        network,
        members=[],
        arrays=[],
        declarations=f"unsigned {name}_classify({name}_state *state, const uint8_t *input);",
        enum=f"{name}_inputs = {n_inputs}, {name}_classes = {n_classes}",
        functions=(
            f"unsigned {name}_classify({name}_state *state, const uint8_t *input) {{\n"
            "  unsigned k, best = 0;\n  network(state, input);\n"
            f"  for (k = 1; k < {n_classes}; ++k) {{\n"
            "    if (state->logit[k] > state->logit[best]) best = k;\n  }\n  return best;\n}\n"
        ),
    )


def write_language_model(network: DenseInt8, token_of: bytes, embedding: np.ndarray, context: int, path: Path) -> None:
    """``path.c`` and ``path.h`` with our C's reset, read and logit; embedding (V, E) uint8."""
    name, (n_tokens, width) = path.name, embedding.shape
    _write(
        path,
        network,
        members=[f"uint8_t window[{2 * context * width}];", "unsigned at;"],
        arrays=[
            _array("uint8_t", "token_of", np.frombuffer(token_of, dtype=np.uint8)),
            _array("uint8_t", "embedding", embedding),
        ],
        declarations=f"void {name}_reset({name}_state *state);\nvoid {name}_read({name}_state *state, uint8_t byte);",
        enum=f"{name}_tokens = {n_tokens}",
        functions=(
            f"void {name}_reset({name}_state *state) {{\n  unsigned k;\n"
            f"  for (k = 0; k < {2 * context * width}; ++k) state->window[k] = 128;\n  state->at = 0;\n}}\n\n"
            f"void {name}_read({name}_state *state, uint8_t byte) {{\n"
            f"  const uint8_t *from = embedding + {width} * token_of[byte];\n"
            f"  uint8_t *one = state->window + state->at, *other = one + {context * width};\n  unsigned k;\n"
            f"  for (k = 0; k < {width}; ++k) one[k] = other[k] = from[k];\n"
            f"  network(state, one + {width});\n"
            f"  state->at = state->at == {(context - 1) * width} ? 0 : state->at + {width};\n}}\n"
        ),
    )


def _write(
    path: Path,
    network: DenseInt8,
    *,
    members: list[str],
    arrays: list[str],
    declarations: str,
    enum: str,
    functions: str,
) -> None:
    steps, x = [], "x"
    widest = max([2, *(len(layer.bias) for layer in network.layers[:-1])])
    for at, layer in enumerate(network.layers):
        n_units, n = layer.weights.shape
        blocks = [layer.weights[a : a + 4].T.ravel() for a in range(0, n_units, 4)]
        arrays.append(_array("uint8_t", f"weights_{at}", np.concatenate(blocks).astype(np.int16) + 128))
        arrays.append(_array("int32_t", f"bias_{at}", layer.bias))
        to = "state->logit" if layer.shift is None else "state->sums"
        steps.append(f"  sums({x}, {n}, weights_{at}, bias_{at}, {n_units}, {to});")
        if layer.shift is not None:
            x = f"state->hidden_{at}"
            members.append(f"uint8_t hidden_{at}[{n_units}];")
            steps.append(f"  rectify(state->sums, {n_units}, {layer.shift}, {x});")
    members += [f"int32_t sums[{widest}];", f"int32_t logit[{len(network.layers[-1].bias)}];"]
    values = {
        "NAME": path.name,
        "GUARD": path.name.upper() + "_H",
        "ARRAYS": "\n".join(arrays),
        "STEPS": "\n".join(steps),
        "INPUT": functions,
        "ENUM": enum,
        "MEMBERS": "\n".join(f"  {member}" for member in members),
        "DECLARATIONS": declarations,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".c", ".h"):
        text = re.sub(r"@(\w+)@", lambda match: values[match[1]], (HERE / f"dense{suffix}.in").read_text())
        path.with_suffix(suffix).write_text(text)


def _array(c_type: str, name: str, values: np.ndarray) -> str:
    words = np.asarray(values).ravel().astype(str).tolist()
    lines = "\n".join("  " + ",".join(words[at : at + 24]) + "," for at in range(0, len(words), 24))
    return f"static const {c_type} {name}[{len(words)}] = {{\n{lines}\n}};\n"
