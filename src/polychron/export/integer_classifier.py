"""An int8 classifier: how its numbers are chosen from a trained one's, and what it computes, to the bit.

docs/exports.md has the definition. Latencies count 2^-latency_bits grey levels, of which there are 255 from black to
white; all else is as in an int8 language model.

Axes: B example, I table, R comparison, J row, K output, n neuron.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polychron.data.batches import brightness
from polychron.errors import InputError, UnsupportedModelError
from polychron.export.network import TableLayer
from polychron.models.deep import DeepClassifier
from polychron.quantization import quantize_tables
from polychron.training.classify import open_classifier

_GREY_LEVELS = 255
_LATENCY_LIMIT = 32767
_LATENCY_BITS = (2, 7)  # 255 * 2^7 fills 16 bits; below 2^2 a reference would hardly fit between two levels
_MAXIMUM_SHIFT = 15


@dataclass(frozen=True)
class IntegerClassifier:
    """All of it.

    Attributes:
        n_pixels: inputs, numbers from 0 to 255.
        class_names: one a class.
        references: (n_references,) int64, latencies of the neurons after the inputs'.
        latency_bits: latencies count 2^-latency_bits grey levels.
        layers: residual layers, then the readout.
        logit_bits: logits count 2^-logit_bits nats.
    """

    n_pixels: int
    class_names: tuple[str, ...]
    references: np.ndarray
    latency_bits: int
    layers: tuple[TableLayer, ...]
    logit_bits: int

    @property
    def n_neurons(self) -> int:
        """Inputs and references."""
        return self.n_pixels + len(self.references)

    @property
    def table_bytes(self) -> int:
        """Bytes of all rows."""
        return sum(layer.rows.nbytes for layer in self.layers)

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs (B, n_pixels) uint8 to logits (B, K) int64, which count 2^-logit_bits.

        .. math:: z_k = (255 - \\mathrm{input}_k) 2^b,\\quad
                  z \\leftarrow \\max(-32767, \\min(32767, z + \\sum_i S_{ij} 2^{e_i})),\\quad
                  \\mathrm{logits} = \\sum_i U_{ij} 2^{e_i}
        """
        z = np.empty((len(inputs), self.n_neurons), dtype=np.int64)
        z[:, : self.n_pixels] = (_GREY_LEVELS - inputs.astype(np.int64)) << self.latency_bits
        z[:, self.n_pixels :] = self.references
        *hidden, readout = self.layers
        for layer in hidden:
            z = np.clip(z + _sum_of_rows(layer, z), -_LATENCY_LIMIT, _LATENCY_LIMIT)
        return _sum_of_rows(readout, z)


def _sum_of_rows(layer: TableLayer, z: np.ndarray) -> np.ndarray:
    """Bit r of table i's row: whether z[a] > z[b]; the sum of the rows, each shifted by its table's shift."""
    total = np.zeros((len(z), layer.rows.shape[2]), dtype=np.int64)
    weights = 1 << np.arange(layer.anchors.shape[1])
    for rows, shift, anchors in zip(layer.rows, layer.shifts.tolist(), layer.anchors, strict=True):
        row = (z[:, anchors[:, 0]] > z[:, anchors[:, 1]]) @ weights
        total += rows[row].astype(np.int64) << shift
    return total


def read_integer_classifier(directory: str | os.PathLike[str]) -> IntegerClassifier:
    """The int8 classifier of a folder that `train-classifier` wrote.

    Raises:
        InputError: no classifier, a damaged one, or numbers that int8 tables do not reach.
        UnsupportedModelError: another hash or reading.
    """
    checkpoint = open_classifier(Path(directory))
    return quantize_classifier(checkpoint.load_model(), tuple(checkpoint.record.data.class_names))


def quantize_classifier(model: DeepClassifier, class_names: tuple[str, ...]) -> IntegerClassifier:
    """Tables of float32 as int8 with a power of two each; the first layer reads the rows that the float model reads.

    Raises:
        InputError: numbers that are not finite, or too large.
        UnsupportedModelError: another hash or reading.
    """
    if not model.config.reads_by_order:
        raise UnsupportedModelError(
            "a classifier in int8 reads one row a table, addressed by order, and this one has hash "
            f"{model.config.hash} and reading {model.config.reading}: export it with --to hf"
        )
    tensors = [parameter.detach() for parameter in model.parameters()]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise InputError("the classifier has numbers that are not finite: the training diverged (lower --rate)")
    bits = _latency_bits(model)
    layers = []
    for layer in model.layers:
        rows, exponents = quantize_tables(
            layer.synaptic_vectors.detach().float().numpy() * np.float32(_GREY_LEVELS), -bits
        )
        layers.append(_layer(rows, exponents + bits, layer.anchors.numpy()))
    rows, exponents = quantize_tables(model.readout.synaptic_vectors.detach().float().numpy(), None)
    logit_bits = -int(exponents.min())
    if not 0 <= logit_bits <= 30:
        raise InputError(f"the readout has numbers of 2^{-logit_bits}, which int8 logits do not reach")
    layers.append(_layer(rows, exponents + logit_bits, model.readout.anchors.numpy()))
    references = _references(model.references.numpy(), bits)
    return IntegerClassifier(model.config.n_pixels, class_names, references, bits, tuple(layers), logit_bits)


def _layer(rows: np.ndarray, shifts: np.ndarray, anchors: np.ndarray) -> TableLayer:
    if shifts.max() > _MAXIMUM_SHIFT:
        raise InputError(f"the classifier has tables too different in size: shifts up to {shifts.max()}, at most 15")
    if int((np.int64(127) << shifts.astype(np.int64)).sum()) + _LATENCY_LIMIT >= 1 << 31:
        raise InputError("the classifier has tables whose sums could leave 32 bits")
    return TableLayer(rows=rows, shifts=shifts.astype(np.uint8), anchors=anchors)


def _latency_bits(model: DeepClassifier) -> int:
    """The finest unit at which no latency can leave 16 bits, within `_LATENCY_BITS`."""
    bound = float(_GREY_LEVELS)
    for layer in model.layers:
        bound += _GREY_LEVELS * float(layer.synaptic_vectors.detach().abs().amax(dim=1).sum(dim=0).max())
    lowest, highest = _LATENCY_BITS
    return min(highest, max(lowest, math.floor(math.log2(_LATENCY_LIMIT / bound))))


def _references(references: np.ndarray, bits: int) -> np.ndarray:
    """Latencies of the references: between two grey levels or at one, as in float32."""
    inputs = np.arange(_GREY_LEVELS + 1, dtype=np.uint8)[::-1]
    levels = 1 - brightness(inputs[None])[0].numpy()  # ascending
    whole = np.rint(np.ldexp(references.astype(np.float64) * _GREY_LEVELS, bits)).astype(np.int64)
    below = np.searchsorted(levels, references, side="left")
    equal = np.searchsorted(levels, references, side="right") > below
    between = np.clip(whole, ((below - 1) << bits) + 1, (below << bits) - 1)
    return np.where(equal, below << bits, between)


def accuracy(model: IntegerClassifier, inputs: np.ndarray, labels: np.ndarray) -> float:
    """Part of labelled examples whose class has the highest logit, the first of equals."""
    if len(labels) == 0:
        raise ValueError("labels must not be empty")
    n_correct = 0
    for begin in range(0, len(labels), 1000):
        piece = slice(begin, begin + 1000)
        n_correct += int((model.logits(inputs[piece]).argmax(axis=1) == labels[piece]).sum())
    return n_correct / len(labels)
