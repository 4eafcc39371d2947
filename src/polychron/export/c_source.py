"""A language model as two files of C99: constant tables, and functions that compare, index, shift and add.

The functions take no memory but a struct of the caller's, use no floating point, multiply and divide nothing. What they
compute is docs/runtime.md's int8 model, bit for bit.

Axes: V token, I table, R comparison, J row, K output, n neuron, D distance.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np

from polychron.errors import InputError
from polychron.export.integer_model import IntegerLayer, IntegerModel
from polychron.limits import format_bytes
from polychron.runtime.extension import require_native
from polychron.runtime.options import SamplingOptions

_MAXIMUM_TABLE_BYTES = 64 << 20  # beyond this compilers take many minutes and gigabytes
_SMALLEST_BLOCK = 2  # columns beyond the last whole block of 2^2 are padded
_C_TYPES = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t"}


@dataclass(frozen=True)
class ExportedC:
    """What was written.

    Attributes:
        source: the .c file.
        header: the .h file.
        flash_bytes: of constant arrays, addresses counted as 4 bytes.
        ram_bytes: of the state, without padding.
    """

    source: Path
    header: Path
    flash_bytes: int
    ram_bytes: int


def export_c(model: IntegerModel, out: str | os.PathLike[str], temperature: float = 0.8) -> ExportedC:
    """Write ``out.c`` and ``out.h``, whose names begin with the file's.

    Args:
        model: from `polychron.export.integer_model.read_integer_model`.
        out: path without suffix (``.c`` or ``.h`` is taken off); the folder is made.
        temperature: of the draws; it goes into a constant table, for the functions cannot divide.

    Raises:
        InputError: a name that is no C identifier; tables of more than 64 MB; a temperature of 0 or out of range; the
            system refused to write.
    """
    path = Path(out)
    if path.suffix in (".c", ".h"):
        path = path.with_suffix("")
    name = path.name
    if not re.fullmatch(r"[A-Za-z]\w*", name, flags=re.ASCII):
        raise InputError(
            "--out must end in a name that begins with a letter and has letters, digits and _ only, for C's sake; "
            f"got {name!r}"
        )
    if temperature == 0:
        raise InputError("temperature must be above 0 in C; the function that takes the likeliest byte needs none")
    SamplingOptions(temperature=temperature)
    table_bytes = sum(layer.rows.size for layer in model.layers)
    if table_bytes > _MAXIMUM_TABLE_BYTES:
        raise InputError(
            f"the model has {format_bytes(table_bytes)} of tables and C arrays are limited to "
            f"{format_bytes(_MAXIMUM_TABLE_BYTES)}: train a smaller preset"
        )
    writer = _Writer(model, name, temperature)
    source, header = path.with_suffix(".c"), path.with_suffix(".h")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, text in ((header, writer.header()), (source, writer.source())):
            temporary = file.with_name(f".{file.name}.writing")
            temporary.write_text(text, encoding="ascii")
            temporary.replace(file)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    return ExportedC(source, header, writer.flash_bytes, writer.ram_bytes)


class _Writer:
    """Turns a model into text; counts the bytes of the arrays that it writes."""

    def __init__(self, model: IntegerModel, name: str, temperature: float) -> None:
        self.model = model
        self.name = name
        self.temperature = temperature
        self.flash_bytes = 0
        weights, self.weight_shift = require_native().runtime_weight_table(2.0**-model.logit_bits, temperature)
        self.weights = np.array(weights, dtype=np.uint32)
        self.n_neurons = model.embedding.shape[1]
        self.n_tokens = model.vocabulary.size
        self.slot_bits = [_bits(_longest_delay(layer)) for layer in model.layers]
        self.key_bits = [0 if layer.code is None else _bits(layer.code.shape[1] - 1) for layer in model.layers]

    @property
    def ram_bytes(self) -> int:
        """Bytes of the state's arrays."""
        latencies = sum(2 * self.n_neurons << bits for bits in self.slot_bits)
        keys = sum(
            2 * len(layer.rows) << bits
            for layer, bits in zip(self.model.layers, self.key_bits, strict=True)
            if layer.code is not None
        )
        return latencies + keys + 4 * (_width(self.n_neurons) + _width(self.n_tokens) + 4 + 2)

    def header(self) -> str:
        """The .h file."""
        members = []
        for at, (layer, slots) in enumerate(zip(self.model.layers, self.slot_bits, strict=True)):
            members.append(f"  int16_t latencies_{at}[{self.n_neurons << slots}];")
            if layer.code is not None:
                members.append(f"  uint16_t keys_{at}[{len(layer.rows) << self.key_bits[at]}];")
        return _fill(
            "model.h.in",
            NAME=self.name,
            GUARD=self.name.upper() + "_H",
            MEMBERS="\n".join(members),
            N_NEURONS=str(_width(self.n_neurons)),
            N_LOGITS=str(_width(self.n_tokens)),
            N_TOKENS=str(self.n_tokens),
            LOGIT_BITS=str(self.model.logit_bits),
            TEMPERATURE=f"{self.temperature:g}",
        )

    def source(self) -> str:
        """The .c file."""
        vocabulary = self.model.vocabulary
        arrays = [
            _array("uint8_t", "token_of", np.frombuffer(vocabulary.ids_of(bytes(range(256))), dtype=np.uint8)),
            _array("uint8_t", "byte_of", np.frombuffer(vocabulary.byte_values, dtype=np.uint8)),
            _array("int16_t", "embedding", self.model.embedding),
            self._embedding_rows(),
            _array("uint32_t", "weight_of", self.weights),
        ]
        steps = []
        for at, layer in enumerate(self.model.layers):
            arrays += self._layer(at, layer)
            is_readout = at == len(self.model.layers) - 1
            target = "state->logit" if is_readout else "state->latency"
            keys = "NULL" if layer.code is None else f"state->keys_{at}"
            steps.append(f"  keep(state, state->latencies_{at}, {self.slot_bits[at]});")
            if is_readout:
                steps.append(f"  for (k = 0; k < {_width(self.n_tokens)}; ++k) state->logit[k] = 0;")
            add = "add_rows" if layer.code is None else "attend"
            arguments = f"&layer_{at}, state->latencies_{at}, state->position"
            arguments += f", {target}" if layer.code is None else f", state->n_read, {keys}, {target}"
            steps.append(f"  {add}({arguments});")
            if not is_readout:
                steps.append("  saturate(state->latency);")
        with_attention = any(layer.code is not None for layer in self.model.layers)
        self.flash_bytes = sum(array.n_bytes for array in arrays)
        return _fill(
            "model.c.in",
            NAME=self.name,
            ARRAYS="\n".join(array.text for array in arrays),
            ATTENTION=_fill("attention.c.in") if with_attention else "",
            SATURATION=_fill("saturation.c.in", N_PADDED=str(_width(self.n_neurons))) if len(steps) > 3 else "",
            STEPS="\n".join(steps),
            N_NEURONS=str(self.n_neurons),
            N_TOKENS=str(self.n_tokens),
            N_WEIGHTS=str(len(self.weights)),
            WEIGHT_SHIFT=str(self.weight_shift),
        )

    def _embedding_rows(self) -> _Array:
        """Where each token's latencies begin: the only rows that need not be a power of two wide."""
        places = ", ".join(f"embedding + {token * self.n_neurons}" for token in range(self.n_tokens))
        return _Array(f"static const int16_t *const embedding_of[{self.n_tokens}] = {{{places}}};\n", 4 * self.n_tokens)

    def _layer(self, at: int, layer: IntegerLayer) -> list[_Array]:
        n_tables, n_rows, n_outputs = layer.rows.shape
        blocks = list(_blocks(n_outputs))
        padded = np.zeros((n_tables, n_rows, _width(n_outputs)), dtype=np.int8)
        padded[:, :, :n_outputs] = layer.rows
        columns = np.cumsum([0, *(1 << bits for bits in blocks)])
        pieces = [padded[:, :, a:b].reshape(n_tables, -1) for a, b in pairwise(columns)]
        slots = self.slot_bits[at]
        arrays = [
            _array("int8_t", f"rows_{at}", np.concatenate(pieces, axis=1)),
            _array("uint8_t", f"shifts_{at}", layer.shifts),
            _array("uint8_t", f"blocks_{at}", np.array(blocks)),
            _array("uint16_t", f"anchors_{at}", layer.anchors.astype(np.int64) << slots),
        ]
        fields = {"rows": f"rows_{at}", "shifts": f"shifts_{at}", "blocks": f"blocks_{at}", "anchors": f"anchors_{at}"}
        fields["delays"] = fields["key_anchors"] = fields["codes"] = "NULL"
        if slots:
            arrays.append(_array("uint16_t", f"delays_{at}", layer.delays))
            fields["delays"] = f"delays_{at}"
        n_key = 0
        if layer.code is not None and layer.key_anchors is not None:
            n_key = layer.key_anchors.shape[1]
            arrays.append(_array("uint16_t", f"key_anchors_{at}", layer.key_anchors))
            codes = np.zeros((n_tables, 1 << self.key_bits[at]), dtype=np.int64)
            codes[:, : layer.code.shape[1]] = layer.code
            arrays.append(_array("uint16_t", f"codes_{at}", codes))
            fields["key_anchors"], fields["codes"] = f"key_anchors_{at}", f"codes_{at}"
        fields |= {
            "n_tables": n_tables,
            "row_bits": int(n_rows).bit_length() - 1,
            "n_comparisons": layer.anchors.shape[1],
            "n_blocks": len(blocks),
            "slot_bits": slots,
            "n_key": n_key,
            "n_code": layer.n_code,
            "window": 0 if layer.code is None else layer.code.shape[1] - 1,
            "window_bits": self.key_bits[at],
        }
        text = ", ".join(str(value) for value in fields.values())
        arrays.append(_Array(f"static const layer layer_{at} = {{{text}}};\n", 0))
        return arrays


@dataclass(frozen=True)
class _Array:
    text: str
    n_bytes: int


def _array(c_type: str, name: str, values: np.ndarray) -> _Array:
    """A constant array; what does not fit the type is a mistake of this module's."""
    flat = np.ascontiguousarray(values).reshape(-1)
    dtype = np.dtype(c_type.removesuffix("_t"))
    if flat.min() < np.iinfo(dtype).min or flat.max() > np.iinfo(dtype).max:
        raise InputError(f"the model is too large for C: {name} has numbers that {c_type} does not hold")
    words = flat.astype(str).tolist()
    lines = "\n".join("  " + ",".join(words[at : at + 24]) + "," for at in range(0, len(words), 24))
    return _Array(f"static const {c_type} {name}[{flat.size}] = {{\n{lines}\n}};\n", flat.size * dtype.itemsize)


def _longest_delay(layer: IntegerLayer) -> int:
    return 0 if layer.delays is None else int(layer.delays.max())


def _bits(n: int) -> int:
    """Bits of an index that n steps back need: 2^bits > n."""
    return n.bit_length()


def _blocks(width: int) -> Iterator[int]:
    """Exponents of the powers of two that a row is cut into, descending: a row begins at its index shifted left."""
    left = width
    while left > 0:
        bits = max(_SMALLEST_BLOCK, left.bit_length() - 1)
        yield bits
        left -= 1 << bits


def _width(width: int) -> int:
    return sum(1 << bits for bits in _blocks(width))


def _fill(template: str, **values: str) -> str:
    """A file beside this one with @NAME@ replaced."""
    text = resources.files("polychron.export").joinpath(template).read_text(encoding="ascii")
    return re.sub(r"@(\w+)@", lambda match: values[match[1]], text)
