"""A model's folder as the runtime reads it: what ``config.json`` says, and which tensor is which layer's.

The layers follow from the tensors' names and shapes, so the runtime runs any number and size of them; a tensor that it
does not know is refused, for it would be left out of the sum.

Axes: V token, I table, R comparison, J row, K output, n neuron, D distance.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError, UnsupportedModelError
from polychron.limits import require_memory
from polychron.runtime.extension import require_native
from polychron.storage import CONFIG_NAME, WEIGHTS_PATTERN, TensorFile, read_config
from polychron.storage.config_file import reason

if TYPE_CHECKING:
    from polychron.runtime.text_stream import TextStream

PRECISIONS = ("float32", "bfloat16", "int8")
_ROW_DTYPES = {"float32": "F32", "bfloat16": "BF16", "int8": "I8"}
_ELEMENT_BYTES = {"F32": 4, "BF16": 2, "I8": 1}
_ROW_PAD = 32  # numbers of a register, at most
_MODEL = "model."
_ATTEMPTS = 20
_MAXIMUM_BITS = 30
_MAXIMUM_CONTEXT_DEPTH = 7
CONTEXT_LISTS = ("text", "words", "line")  # kinds of counted contexts, as polychron.ops.contexts has them
_MOST_COPIED_CONTEXTS = 256 << 20  # bytes that they may take when they are laid out anew; larger ones stay in the file


@dataclass(frozen=True)
class Settings:
    """What the runtime needs of ``config.json``.

    Attributes:
        kind: ``"delay"``, ``"transformer"`` or ``"recurrent"``.
        context_depth: bytes of the deepest counted contexts; 0: there are none.
        recent: whether tables that are written while a text is read go with them.
        context: of a transformer, the positions of a window when a text is scored; None: a text is one stream.
        vocabulary: byte values and their ids.
        precision: of the tables.
        latency_bits: of an int8 model: latencies count 2^-latency_bits.
        logit_bits: of an int8 model: logits count 2^-logit_bits nats.
        weights: name of the weights file.
        weights_bytes: its size.
    """

    kind: str
    context_depth: int
    recent: bool
    context: int | None
    vocabulary: Vocabulary
    precision: str
    latency_bits: int
    logit_bits: int
    weights: str
    weights_bytes: int


def _bytes_to_load(tensors: TensorFile) -> int:
    """What the file and the layers made of it take: rows padded to whole registers, codes of positions once a table."""
    n_bytes = 2 * tensors.n_bytes
    for name, entry in tensors.entries.items():
        if len(entry.shape) == 3 and name.endswith("synaptic_vectors"):
            n_tables, n_rows, n_outputs = entry.shape
            n_bytes += n_tables * n_rows * (-n_outputs % _ROW_PAD) * _ELEMENT_BYTES.get(entry.dtype, 4)
        elif len(entry.shape) == 3 and name.endswith("position_code"):
            n_bytes += 4 * entry.shape[1] * (entry.shape[0] + _ROW_PAD)
    return n_bytes


class Model:
    """A trained model, its tables laid out for one token at a time. `load` makes one.

    Args:
        settings: from ``config.json``.
        tensors: its weights; they stay mapped as long as the model lives.
        soon: see `load`.

    Raises:
        InputError: the tensors are not such a model's, or there is no memory for them.
    """

    def __init__(self, settings: Settings, tensors: TensorFile, *, soon: bool = False) -> None:
        self.settings = settings
        self.tensors = tensors
        native = require_native()
        require_memory(_bytes_to_load(tensors), f"the weights in {tensors.path}", "close other programs")
        self._unread = {name for name in tensors.entries if name.startswith(_MODEL)}
        try:
            self.native = native.RuntimeModel(
                settings.precision,
                self._take("embedding.latencies", "I16" if settings.precision == "int8" else "F32", 2),
                2.0**-settings.logit_bits,
            )
            if _MODEL + "recurrent.synaptic_vectors" in self._unread:
                rows, shifts = self._rows("recurrent.")
                self.native.add_recurrent(rows, self._take("recurrent.anchors", "I32", 3), shifts)
            layers = 0
            while any(name.startswith(f"{_MODEL}layers.{layers}.") for name in self._unread):
                self._add_layer(f"layers.{layers}.")
                layers += 1
            self.native.set_readout(*self._lookup("readout."))
            if settings.context_depth:
                self._set_contexts(0 if soon else _MOST_COPIED_CONTEXTS)
        except ValueError as error:
            raise self._damaged(str(error)) from None
        except TypeError:
            raise self._damaged("its tensors have impossible shapes") from None
        except MemoryError:
            raise InputError(f"{tensors.path}: there is no memory for it") from None
        if self._unread:
            raise self._damaged(f"the runtime does not know {', '.join(sorted(self._unread)[:3])!a}")
        n_tokens = tensors.entries[_MODEL + "embedding.latencies"].shape[0]
        if n_tokens != settings.vocabulary.size:
            raise self._damaged(f"it has {n_tokens} tokens and the vocabulary {settings.vocabulary.size}")
        require_memory(self.native.stream_bytes, f"what a text needs under {tensors.path}", "close other programs")

    @property
    def vocabulary(self) -> Vocabulary:
        """Byte values and their ids."""
        return self.settings.vocabulary

    @property
    def precision(self) -> str:
        """``"float32"``, ``"bfloat16"`` or ``"int8"``."""
        return self.settings.precision

    def stream(self) -> TextStream:
        """A new position before the first byte of a text."""
        from polychron.runtime.text_stream import TextStream

        return TextStream(self)

    def _add_layer(self, prefix: str) -> None:
        if _MODEL + prefix + "synaptic_vectors" in self._unread:
            self.native.add_lookup(*self._lookup(prefix))
            return
        attention = prefix + "attention."
        rows, shifts = self._rows(attention)
        code = _MODEL + attention + "position_code"
        shape = self.tensors.entries[code].shape if code in self.tensors.entries else ()
        if len(shape) != 3:
            raise ValueError(f"{attention}position_code must have three axes")
        self.native.add_attention(
            rows,
            self._take(attention + "anchors", "I32", 3),
            self._take_optional(attention + "key_anchors", "I32", 3),
            self._take(attention + "position_code", "F32", 3) if shape[2] else None,
            shape[1],
            shifts,
        )
        if shape[2] == 0:
            self._unread.discard(code)
        if _MODEL + prefix + "ffn.synaptic_vectors" in self._unread:
            self.native.add_lookup(*self._lookup(prefix + "ffn."))

    def _set_contexts(self, most_copied: int) -> None:
        value_dtype = "I16" if self.settings.precision == "int8" else "F32"
        dtypes = {
            "symbol": "U8", "first_child": "I32", "first_entry": "I32", "entry_symbol": "U8", "value": value_dtype,
        }  # fmt: skip
        self.native.set_bytes(self._take("contexts.byte", "U8", 1))
        for kind in CONTEXT_LISTS:
            arrays = [self._take(f"contexts.{kind}.{name}", dtype, 1) for name, dtype in dtypes.items()]
            self.native.add_contexts(*arrays, self.settings.context_depth, most_copied)
        if self.settings.recent:
            self.native.set_recent(self._take("contexts.recent", value_dtype, 3))

    def _lookup(self, prefix: str) -> tuple[memoryview, memoryview, memoryview | None, memoryview | None]:
        rows, shifts = self._rows(prefix)
        anchors = self._take(prefix + "anchors", "I32", 3)
        return rows, anchors, self._take_optional(prefix + "delays", "I32", 3), shifts

    def _rows(self, prefix: str) -> tuple[memoryview, memoryview | None]:
        rows = self._take(prefix + "synaptic_vectors", _ROW_DTYPES[self.settings.precision], 3)
        return rows, self._take(prefix + "shifts", "U8", 1) if self.settings.precision == "int8" else None

    def _take_optional(self, name: str, dtype: str, n_axes: int) -> memoryview | None:
        return self._take(name, dtype, n_axes) if _MODEL + name in self.tensors.entries else None

    def _take(self, name: str, dtype: str, n_axes: int) -> memoryview:
        entry = self.tensors.entries.get(_MODEL + name)
        if entry is None or entry.dtype != dtype or len(entry.shape) != n_axes or 0 in entry.shape:
            found = "absent" if entry is None else f"{entry.dtype} of shape {entry.shape}"
            raise ValueError(f"{_MODEL}{name} must be {dtype} with {n_axes} axes and is {found}")
        self._unread.discard(_MODEL + name)
        return self.tensors.view(_MODEL + name)

    def _damaged(self, problem: str) -> InputError:
        return InputError(f"{self.tensors.path} is damaged: {' '.join(problem.split())}")


def load(directory: str | os.PathLike[str], *, soon: bool = False) -> Model:
    """The model in a folder that ``polychron train`` or ``polychron quantize`` wrote.

    A run may be writing to the folder meanwhile: weights that are superseded before they are open are looked up anew.

    Args:
        directory: the folder.
        soon: read counted contexts where they are in the file. The model is ready tenths of a second earlier, and a
            byte takes longer: for up to some ten thousand bytes.

    Raises:
        InputError: no such folder, no model in it, another program's, damaged, larger than memory, of sizes that
            cannot be; or the native extension is missing.

    Example:
        >>> load("nowhere")
        Traceback (most recent call last):
        ...
        polychron.errors.InputError: nowhere does not exist
    """
    folder = Path(directory)
    for _ in range(_ATTEMPTS):
        settings = read_settings(folder)
        path = folder / settings.weights
        try:
            tensors = TensorFile(path)
        except FileNotFoundError:
            time.sleep(0.01)
            continue
        except OSError as error:
            raise InputError(f"cannot read {path}: {reason(error)}") from None
        n_bytes = tensors.n_bytes
        if n_bytes != settings.weights_bytes:
            raise InputError(f"{path} is damaged: it has {n_bytes:,} bytes and should have {settings.weights_bytes:,}")
        return Model(settings, tensors, soon=soon)
    raise InputError(f"{folder} is incomplete: its {CONFIG_NAME} names {settings.weights}, which is not there")


def read_settings(folder: Path) -> Settings:
    """What the runtime needs of ``config.json``, checked field by field.

    Raises:
        InputError: as `load`.
    """
    fields, _ = read_config(folder)
    path = folder / CONFIG_NAME

    def get(of: Any, name: str, kind: type, where: str) -> Any:
        value = of.get(name) if isinstance(of, dict) else None
        if type(value) is not kind:
            raise InputError(f"{path} is damaged: {where} must be {kind.__name__}")
        return value

    if get(fields, "version", int, "version") < 1:
        raise InputError(f"{path} is damaged: version must be at least 1")
    model = get(fields, "model", dict, "model")
    kind = get(model, "kind", str, "model.kind")
    if kind not in ("delay", "transformer", "recurrent"):
        raise UnsupportedModelError(
            f"{path}: the runtime runs delay, transformer and recurrent models; this one is {kind[:64]!a}"
        )
    variant = [f"{name} {model[name]!s:.32}" for name, usual in (("hash", "order"), ("reading", "hard"))
               if model.get(name, usual) != usual]  # fmt: skip
    if variant:
        raise UnsupportedModelError(
            f"{path}: the runtime reads one row a table, addressed by order; this model has {' and '.join(variant)}: "
            "polychron generate and evaluate run it in PyTorch"
        )
    context = get(model, "context", int, "model.context") if kind == "transformer" else None
    if context is not None and not 2 <= context <= 1 << 16:
        raise InputError(f"{path} is damaged: model.context must lie in [2, 65536]")
    context_depth = get(model, "context_depth", int, "model.context_depth") if "context_depth" in model else 0
    if not 0 <= context_depth <= (_MAXIMUM_CONTEXT_DEPTH if kind == "delay" else 0):
        raise InputError(f"{path} is damaged: model.context_depth must lie in [0, {_MAXIMUM_CONTEXT_DEPTH}]")
    recent = get(model, "recent", bool, "model.recent") if "recent" in model else False
    if recent and not context_depth:
        raise InputError(f"{path} is damaged: model.recent goes with counted contexts")
    values = get(fields, "vocabulary", list, "vocabulary")
    if len(values) > 256 or not all(type(value) is int and 0 <= value <= 255 for value in values):
        raise InputError(f"{path} is damaged: vocabulary must be at most 256 byte values")
    weights = get(fields, "weights", dict, "weights")
    name = get(weights, "file", str, "weights.file")
    if not re.fullmatch(WEIGHTS_PATTERN, name):
        raise InputError(f"{path} is damaged: weights.file is no name of weights")
    precision, latency_bits, logit_bits = model.get("table_type", "float32"), 0, 0
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"{path} is damaged: model.table_type must be float32 or bfloat16")
    quantization = fields.get("quantization")
    if quantization is not None:
        precision = get(quantization, "precision", str, "quantization.precision")
        if precision not in PRECISIONS:
            raise InputError(f"{path} is damaged: quantization.precision must be one of {', '.join(PRECISIONS)}")
    if precision == "int8":
        latency_bits = get(quantization, "latency_bits", int, "quantization.latency_bits")
        logit_bits = get(quantization, "logit_bits", int, "quantization.logit_bits")
        if not (0 <= latency_bits <= _MAXIMUM_BITS and 0 <= logit_bits <= _MAXIMUM_BITS):
            raise InputError(f"{path} is damaged: quantization's bits must lie in [0, {_MAXIMUM_BITS}]")
    return Settings(
        kind=kind,
        context_depth=context_depth,
        recent=recent,
        context=context,
        vocabulary=Vocabulary(bytes(values)),
        precision=precision,
        latency_bits=latency_bits,
        logit_bits=logit_bits,
        weights=name,
        weights_bytes=get(weights, "bytes", int, "weights.bytes"),
    )
