"""Tables of fewer bits: int8 rows with a power of two for each table, or bfloat16.

docs/runtime.md defines what the runtime computes with them; here is how the numbers are chosen.

Axes: V token, I table, J row, K output, n neuron.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polychron.errors import InputError
from polychron.ops.contexts import LISTS
from polychron.row_rounding import add_rows, round_together, rows_read

TARGETS = ("int8", "bfloat16")

_LIMIT = 127
_LATENCY_LIMIT = 32767
# Latencies of 16 bits count 2^-bits: as fine as no sum can leave the range, within these. A text that drives a latency
# beyond 32 saturates; no model seen so far comes near.
_LATENCY_BITS = (10, 14)
_MAXIMUM_SHIFT = 15
_READOUT = "model.readout.synaptic_vectors"
_CONTEXTS = (*(f"model.contexts.{kind}.value" for kind in LISTS), "model.contexts.recent")
_VALUE_LIMIT = (-32768, 32767)


@dataclass(frozen=True)
class Quantized:
    """A model's tensors in fewer bits.

    Attributes:
        tensors: by the names that they have in a checkpoint.
        latency_bits: of int8: latencies are int16 and count 2^-latency_bits; None otherwise.
        logit_bits: of int8: sums of the readout's rows, and counted contexts', count 2^-logit_bits nats; None
            otherwise.
    """

    tensors: dict[str, Tensor]
    latency_bits: int | None = None
    logit_bits: int | None = None


def quantize(tensors: Mapping[str, Tensor], to: str, tokens: Tensor | None = None) -> Quantized:
    """Tables of float32 as int8 or bfloat16.

    int8: table i is :math:`S_i \\approx q_i 2^{e_i}` with whole q in [-127, 127] and the exponent of least squared
    error over the table. Embeddings become int16 without changing the order of any token's latencies, so that the rows
    of a first layer are those of the float model. With a text, hidden rows are chosen together, so that the latencies
    that it meets come near the float model's (:func:`polychron.row_rounding.round_together`), and latencies are as fine
    as 16 bits allow for it; layers from the first attention on are rounded row by row all the same. Values of counted
    contexts and cells of recent ones become int16 in the logits' unit. bfloat16: to nearest, ties to even; embeddings
    and contexts stay float32.

    Args:
        tensors: of a checkpoint; those that are not ``model.*`` are left out.
        to: ``"int8"`` or ``"bfloat16"``.
        tokens: (T,) ids of a text like those to come, 100,000 or more; best what the model was trained on. None: none.

    Raises:
        InputError: an unknown target; numbers that are not finite; tables too different in size for shifts of 15.

    Example:
        >>> rows = torch.tensor([[[0.5, -0.25], [1.0, 0.0]]])
        >>> small = quantize({"model.embedding.latencies": torch.tensor([[0.5, -0.5]]),
        ...                   "model.readout.synaptic_vectors": rows}, "int8")
        >>> small.tensors["model.readout.synaptic_vectors"].tolist(), small.logit_bits
        ([[[32, -16], [64, 0]]], 6)
    """
    if to not in TARGETS:
        raise InputError(f"a model is quantised to one of {', '.join(TARGETS)}; got {to!r}")
    model = {
        name: tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        for name, tensor in tensors.items()
        if name.startswith("model.")
    }
    for name, tensor in model.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{name} has numbers that are not finite: the training diverged (lower --rate)")
    if to == "bfloat16":
        return Quantized(
            {
                name: tensor.to(torch.bfloat16) if name.endswith("synaptic_vectors") else tensor
                for name, tensor in model.items()
            }
        )
    return _to_int8(model, tokens)


def dequantize(tensors: Mapping[str, Tensor], latency_bits: int | None, logit_bits: int | None) -> dict[str, Tensor]:
    """The float model whose numbers are those of a quantised one: what :func:`quantize` wrote, as float32.

    Every number and every sum of rows is exact, so that rows are those of the integer model as long as no latency
    saturates at 16 bits.

    Args:
        tensors: ``model.*`` of a quantised checkpoint.
        latency_bits: of it; None of a bfloat16 model.
        logit_bits: of it.

    Example:
        >>> rows = torch.tensor([[[0.5, -0.25], [1.0, 0.0]]])
        >>> small = quantize({"model.embedding.latencies": torch.tensor([[0.5, -0.5]]),
        ...                   "model.readout.synaptic_vectors": rows}, "int8")
        >>> dequantize(small.tensors, small.latency_bits, small.logit_bits)["model.readout.synaptic_vectors"].tolist()
        [[[0.5, -0.25], [1.0, 0.0]]]
    """
    result = {}
    for name, tensor in tensors.items():
        if name.endswith(".shifts"):
            continue
        if tensor.dtype == torch.bfloat16:
            result[name] = tensor.float()
        elif tensor.dtype == torch.int8:
            unit = -(logit_bits if name == _READOUT else latency_bits)
            shifts = tensors[name.replace("synaptic_vectors", "shifts")].int() + unit
            result[name] = torch.ldexp(tensor.float(), shifts[:, None, None])
        elif tensor.dtype == torch.int16:
            bits = logit_bits if name in _CONTEXTS else latency_bits
            result[name] = torch.ldexp(tensor.float(), torch.tensor(-bits))
        else:
            result[name] = tensor
    return result


def _to_int8(model: dict[str, Tensor], tokens: Tensor | None) -> Quantized:
    embedding = model["model.embedding.latencies"]
    layers = [] if tokens is None else _layers_before_attention(model)
    met = [embedding[tokens]] if layers else []  # latencies of the float model after each layer
    for prefix in layers:
        met.append(met[-1] + add_rows(model[prefix + "synaptic_vectors"], _rows(model, prefix, met[-1])))
    latency_bits = _bits_for(max(float(z.abs().max()) for z in met) if met else _largest_latency(model))
    result: dict[str, Tensor] = {}
    logit_bits = 0
    for name, tensor in model.items():
        if name == "model.embedding.latencies":
            result[name] = torch.from_numpy(keep_order(embedding.numpy(), latency_bits))
        elif name.endswith("synaptic_vectors"):
            is_readout = name == _READOUT
            tables, exponents = quantize_tables(tensor.numpy(), None if is_readout else -latency_bits)
            unit = int(exponents.min()) if is_readout else -latency_bits
            if is_readout:
                logit_bits = -unit
                if not 0 <= logit_bits <= 30:
                    raise InputError(f"{name} has numbers up to {tensor.abs().max():g}, which int8 logits do not reach")
            shifts = exponents - unit
            if shifts.max() > _MAXIMUM_SHIFT:
                raise InputError(f"{name} has tables too different in size: shifts up to {shifts.max()}, at most 15")
            result[name] = torch.from_numpy(tables)
            result[name.replace("synaptic_vectors", "shifts")] = torch.from_numpy(shifts.astype(np.uint8))
        else:
            result[name] = tensor
    for name in model.keys() & set(_CONTEXTS):
        whole = torch.ldexp(model[name], torch.tensor(logit_bits)).round().clamp(*_VALUE_LIMIT)
        result[name] = whole.to(torch.int16)
    if layers:
        z = torch.ldexp(result["model.embedding.latencies"][tokens].float(), torch.tensor(-latency_bits))
    for prefix, wanted in zip(layers, met[1:], strict=True):
        name, rows = prefix + "synaptic_vectors", _rows(model, prefix, z)
        exponents = result[prefix + "shifts"].long() - latency_bits
        result[name] = round_together(model[name], exponents, rows, wanted - z)
        z = z + add_rows(torch.ldexp(result[name].float(), exponents[:, None, None]), rows)
    return Quantized(result, latency_bits, logit_bits)


def _layers_before_attention(model: Mapping[str, Tensor]) -> list[str]:
    """The beginnings of the names of the layers of a delay model, or of those that a text meets before attention."""
    prefixes: list[str] = []
    while (prefix := f"model.layers.{len(prefixes)}.") + "synaptic_vectors" in model:
        prefixes.append(prefix)
    return prefixes


def _rows(model: Mapping[str, Tensor], prefix: str, z: Tensor) -> Tensor:
    return rows_read(z, model[prefix + "anchors"], model.get(prefix + "delays"))


def _bits_for(largest: float) -> int:
    """The finest unit at which a latency so large does not leave 16 bits, within `_LATENCY_BITS`."""
    lowest, highest = _LATENCY_BITS
    return min(highest, max(lowest, math.floor(math.log2(_LATENCY_LIMIT / max(largest, 1e-9)))))


def _largest_latency(model: Mapping[str, Tensor]) -> float:
    """What no latency can exceed: every table's largest number at once."""
    bound = float(model["model.embedding.latencies"].abs().max())
    for name, tensor in model.items():
        if name.endswith("synaptic_vectors") and name != _READOUT:
            code = model.get(name.replace("synaptic_vectors", "position_code"))
            n_reads = 1 if code is None else code.shape[1] - 1
            bound += n_reads * float(tensor.abs().amax(dim=1).sum(dim=0).max())
    return bound


def keep_order(latencies: np.ndarray, bits: int) -> np.ndarray:
    """Latencies in units of 2^-bits, (V, n) float32 to int16: rounded, and moved apart where rounding made a tie.

    Each token's latencies keep their order, strictly where it was strict.

    Raises:
        InputError: they do not fit 16 bits.

    Example:
        >>> keep_order(np.array([[0.1, 0.11, -0.2]]), bits=3).tolist()
        [[1, 2, -2]]
    """
    order = np.argsort(latencies, axis=1, kind="stable")
    ascending = np.take_along_axis(latencies.astype(np.float64), order, axis=1)
    whole = np.rint(np.ldexp(ascending, bits)).astype(np.int64)
    # In ascending order each must exceed the last by 1, or by 0 where they are equal: a running maximum of what is left
    # when those steps are taken away.
    steps = np.cumsum(np.diff(ascending, axis=1, prepend=ascending[:, :1]) > 0, axis=1)
    whole = np.maximum.accumulate(whole - steps, axis=1) + steps
    if np.abs(whole).max() > _LATENCY_LIMIT:
        raise InputError(f"the embedding has latencies up to {np.abs(latencies).max():g}, which 16 bits do not hold")
    result = np.empty(latencies.shape, dtype=np.int16)
    np.put_along_axis(result, order, whole.astype(np.int16), axis=1)
    return result


def quantize_tables(tables: np.ndarray, lowest: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Tables (I, J, K) float32 as int8 and an exponent each, (I,): of the three smallest that may do, the best.

    Args:
        tables: finite.
        lowest: no exponent may be below; None: any may.
    """
    rows = np.empty(tables.shape, dtype=np.int8)
    exponents = np.empty(len(tables), dtype=np.int64)
    for i, table in enumerate(tables):
        largest = float(np.abs(table).max())
        # Of a table of zeros, nothing; else the smallest exponent that clips nothing, or one or two below it, which
        # clip the largest numbers and round all others more finely.
        whole = math.ceil(math.log2(largest / _LIMIT)) if largest > 0 else (lowest or 0)
        candidates = {max(whole - k, -30 if lowest is None else lowest) for k in range(3)}
        best = math.inf
        for exponent in sorted(candidates, reverse=True):
            scaled = np.clip(np.rint(np.ldexp(table, -exponent)), -_LIMIT, _LIMIT)
            error = float(np.square(np.ldexp(scaled, exponent) - table, dtype=np.float64).sum())
            if error < best:
                best, rows[i], exponents[i] = error, scaled, exponent
    return rows, exponents
