"""An int8 model as arrays, in the order in which a token meets them: what every export writes down.

Axes: V token, I table, R comparison, J row, K output, n neuron, D distance.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError, UnsupportedModelError
from polychron.quantization import quantize
from polychron.runtime import load
from polychron.training.checkpoint import open_checkpoint


@dataclass(frozen=True)
class IntegerLayer:
    """A layer of tables, and where its comparisons look.

    Attributes:
        rows: (I, J, K) int8; of attention J = 2^(query bits + key bits + code bits).
        shifts: (I,) uint8.
        anchors: (I, R, 2) int32.
        delays: (I, R, 2) int32, or None: none.
        key_anchors: of attention, (I, R, 2) int32; the query's where they are shared. None: no attention.
        code: of attention, (I, D) bits of the relative position.
        n_code: how many bits those are.
    """

    rows: np.ndarray
    shifts: np.ndarray
    anchors: np.ndarray
    delays: np.ndarray | None = None
    key_anchors: np.ndarray | None = None
    code: np.ndarray | None = None
    n_code: int = 0


@dataclass(frozen=True)
class IntegerModel:
    """All of it.

    Attributes:
        vocabulary: byte values and ids.
        embedding: (V, n) int16.
        layers: residual layers, then the readout.
        logit_bits: logits count 2^-logit_bits nats.
    """

    vocabulary: Vocabulary
    embedding: np.ndarray
    layers: tuple[IntegerLayer, ...]
    logit_bits: int


def read_integer_model(directory: str | os.PathLike[str]) -> IntegerModel:
    """The int8 model of a folder; one in float32 is quantised on the way.

    Raises:
        InputError: no model, a damaged one, or one in bfloat16.
        UnsupportedModelError: a recurrent one.
    """
    folder = Path(directory)
    checkpoint = open_checkpoint(folder)
    quantization = checkpoint.record.quantization
    if quantization is not None and quantization.precision != "int8":
        raise InputError(
            f"{folder} is quantised to {quantization.precision}, which takes floating point: export the folder that "
            "it was made from, or quantise that to int8"
        )
    if checkpoint.config.kind == "recurrent":
        raise UnsupportedModelError(
            f"{folder} cannot be exported as C, which delay and transformer models can; this one is recurrent: take "
            "--to onnx or --to hf"
        )
    load(folder)  # refuses whatever does not fit together
    tensors, logit_bits = checkpoint.load_tensors(), quantization and quantization.logit_bits
    if quantization is None:
        small = quantize(tensors, "int8")
        tensors, logit_bits = small.tensors, small.logit_bits
    arrays = {name.removeprefix("model."): tensor.numpy() for name, tensor in tensors.items()}
    layers: list[IntegerLayer] = []
    at = 0
    while any(name.startswith(f"layers.{at}.") for name in arrays):
        prefix = f"layers.{at}."
        if prefix + "synaptic_vectors" in arrays:
            layers.append(_lookup(arrays, prefix))
        else:
            layers.append(_attention(arrays, prefix + "attention."))
            if prefix + "ffn.synaptic_vectors" in arrays:
                layers.append(_lookup(arrays, prefix + "ffn."))
        at += 1
    layers.append(_lookup(arrays, "readout."))
    return IntegerModel(checkpoint.vocabulary, arrays["embedding.latencies"], tuple(layers), int(logit_bits or 0))


def _lookup(arrays: dict[str, np.ndarray], prefix: str) -> IntegerLayer:
    return IntegerLayer(
        rows=arrays[prefix + "synaptic_vectors"],
        shifts=arrays[prefix + "shifts"],
        anchors=arrays[prefix + "anchors"],
        delays=arrays.get(prefix + "delays"),
    )


def _attention(arrays: dict[str, np.ndarray], prefix: str) -> IntegerLayer:
    position_code = arrays[prefix + "position_code"]
    n_code = position_code.shape[2]
    return IntegerLayer(
        rows=arrays[prefix + "synaptic_vectors"],
        shifts=arrays[prefix + "shifts"],
        anchors=arrays[prefix + "anchors"],
        key_anchors=arrays.get(prefix + "key_anchors", arrays[prefix + "anchors"]),
        code=((position_code > 0).astype(np.int64) << np.arange(n_code)).sum(axis=2),
        n_code=n_code,
    )
