"""Any checkpoint as arrays, in the order in which a token or an image meets them, in the precision that it has.

Axes: V token, I table, R comparison, J row, K output, n neuron, D distance.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polychron.data.vocabulary import Vocabulary
from polychron.errors import UnsupportedModelError
from polychron.export.contexts import Contexts, reachable
from polychron.ops.contexts import LISTS, ContextRows
from polychron.runtime import load
from polychron.storage.config_file import LANGUAGE_MODEL, read_config
from polychron.training.checkpoint import Checkpoint, open_checkpoint
from polychron.training.classify import open_classifier

_PLAIN = {"hash": "order", "reading": "hard"}  # of a configuration that names them


@dataclass(frozen=True)
class TableLayer:
    """A layer of tables, and where its comparisons look.

    Attributes:
        rows: (I, J, K): float32, int8, or of bfloat16 the 16 bits as uint16.
        anchors: (I, R, 2) int32.
        delays: (I, R, 2) int32, or None: none.
        shifts: of int8 rows, (I,) uint8.
        key_anchors: of attention, (I, R, 2) int32; the query's where they are shared. None: no attention.
        code: of attention, (I, D) bits of the relative position, D one more than the window.
        n_code: how many bits those are.
    """

    rows: np.ndarray
    anchors: np.ndarray
    delays: np.ndarray | None = None
    shifts: np.ndarray | None = None
    key_anchors: np.ndarray | None = None
    code: np.ndarray | None = None
    n_code: int = 0


@dataclass(frozen=True)
class Network:
    """All of it.

    Attributes:
        kind: ``"delay"``, ``"transformer"``, ``"recurrent"`` or ``"deep"``.
        precision: of the tables: ``"float32"``, ``"bfloat16"`` or ``"int8"``.
        layers: residual (of a recurrent network, the recurrent one), then the readout.
        embedding: of a language model, (V, n) float32 or int16.
        vocabulary: of a language model.
        logit_bits: of an int8 model: logits count 2^-logit_bits nats.
        n_pixels: of a classifier, inputs of an example.
        references: of a classifier, latencies of its reference neurons.
        class_names: of a classifier.
        contexts: counted ones, whose rows are added to the readout's, or None.
    """

    kind: str
    precision: str
    layers: tuple[TableLayer, ...]
    embedding: np.ndarray | None = None
    vocabulary: Vocabulary | None = None
    logit_bits: int = 0
    n_pixels: int = 0
    references: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    contexts: Contexts | None = None

    @property
    def n_neurons(self) -> int:
        """In the latency vector that layers read."""
        if self.embedding is not None:
            return self.embedding.shape[1]
        return self.n_pixels + len(self.references if self.references is not None else ())

    @property
    def table_bytes(self) -> int:
        """Bytes of all rows, and of contexts with what finds them."""
        return sum(layer.rows.nbytes for layer in self.layers) + (self.contexts.n_bytes if self.contexts else 0)


def read_network(directory: str | os.PathLike[str]) -> Network:
    """The model of a checkpoint's folder, quantised or not; tables stay mapped.

    Raises:
        InputError: no checkpoint, or a damaged one.
        UnsupportedModelError: layers that do more than compare, index, read a row and add.

    Example:
        >>> read_network("nowhere")
        Traceback (most recent call last):
        ...
        polychron.errors.InputError: nowhere does not exist
    """
    folder = Path(directory)
    fields, _ = read_config(folder, None)
    is_language_model = fields.get("task", LANGUAGE_MODEL) == LANGUAGE_MODEL
    checkpoint: Any = open_checkpoint(folder) if is_language_model else open_classifier(folder)
    quantization = checkpoint.record.quantization
    if quantization is None:
        checkpoint.load_model()  # checks every tensor
    else:
        load(folder)
    tensors = checkpoint.load_tensors()
    if is_language_model:
        if quantization is None:
            return language_network(folder, checkpoint, tensors, checkpoint.config.table_type, 0)
        return language_network(folder, checkpoint, tensors, quantization.precision, quantization.logit_bits or 0)
    arrays = _arrays(tensors)
    network = Network(
        "deep",
        checkpoint.config.table_type,
        (*_hidden_layers(arrays), _lookup(arrays, "readout.")),
        n_pixels=checkpoint.config.n_pixels,
        references=arrays.pop("references"),
        class_names=tuple(checkpoint.record.data.class_names),
    )
    _require_plain(folder, checkpoint.record.model, arrays)
    return network


def language_network(
    folder: Path, checkpoint: Checkpoint, tensors: dict[str, torch.Tensor], precision: str, logit_bits: int
) -> Network:
    """A language model of these tensors, which were checked.

    Raises:
        UnsupportedModelError: layers that do more than compare, index, read a row and add.
    """
    arrays = _arrays(tensors)
    network = Network(
        checkpoint.config.kind,
        precision,
        (*_hidden_layers(arrays), _lookup(arrays, "readout.")),
        embedding=arrays.pop("embedding.latencies"),
        vocabulary=checkpoint.vocabulary,
        logit_bits=logit_bits,
        contexts=_contexts(arrays, checkpoint.config),
    )
    _require_plain(folder, checkpoint.record.model, arrays)
    return network


def _require_plain(folder: Path, model: dict[str, Any], unread: dict[str, np.ndarray]) -> None:
    """What would be left out of the sums is refused: another hash or reading, tensors that no layer here has."""
    other = [f"{name} {model[name]}" for name, usual in _PLAIN.items() if model.get(name, usual) != usual]
    other += sorted(unread)
    if other:
        raise UnsupportedModelError(
            f"{folder} cannot be exported: a layer there reads one row a table, addressed by order, and this model has "
            f"{', '.join(other)}"
        )


def _hidden_layers(arrays: dict[str, np.ndarray]) -> list[TableLayer]:
    if "recurrent.synaptic_vectors" in arrays:
        return [_lookup(arrays, "recurrent.")]
    layers, at = [], 0
    while any(name.startswith(f"layers.{at}.") for name in arrays):
        prefix = f"layers.{at}."
        if prefix + "synaptic_vectors" in arrays:
            layers.append(_lookup(arrays, prefix))
        else:
            layers.append(_attention(arrays, prefix + "attention."))
            if prefix + "ffn.synaptic_vectors" in arrays:
                layers.append(_lookup(arrays, prefix + "ffn."))
        at += 1
    return layers


def _lookup(arrays: dict[str, np.ndarray], prefix: str) -> TableLayer:
    return TableLayer(
        rows=arrays.pop(prefix + "synaptic_vectors"),
        anchors=arrays.pop(prefix + "anchors"),
        delays=arrays.pop(prefix + "delays", None),
        shifts=arrays.pop(prefix + "shifts", None),
    )


def _attention(arrays: dict[str, np.ndarray], prefix: str) -> TableLayer:
    position_code, anchors = arrays.pop(prefix + "position_code"), arrays.pop(prefix + "anchors")
    n_code = position_code.shape[2]
    return TableLayer(
        rows=arrays.pop(prefix + "synaptic_vectors"),
        anchors=anchors,
        shifts=arrays.pop(prefix + "shifts", None),
        key_anchors=arrays.pop(prefix + "key_anchors", anchors),
        code=((position_code > 0).astype(np.int64) << np.arange(n_code)).sum(axis=2),
        n_code=n_code,
    )


def _contexts(arrays: dict[str, np.ndarray], config: Any) -> Contexts | None:
    byte = arrays.pop("contexts.byte", None)
    if byte is None:
        return None
    kinds = {}
    for kind in LISTS:
        parts = [arrays.pop(f"contexts.{kind}.{name}") for name in ContextRows._fields]
        kinds[kind] = reachable(kind, config.context_depth, *parts)
    return Contexts(byte, kinds, arrays.pop("contexts.recent", None))


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("model."): (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
        for name, tensor in tensors.items()
    }
