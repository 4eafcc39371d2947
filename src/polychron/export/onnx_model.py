"""A network as an ONNX file of standard operators: compare, index, gather, add, in the order of our own sums.

Axes: B batch, T position, V token, K output, n neuron.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper

import polychron
from polychron.errors import InputError
from polychron.export.files import write_files
from polychron.export.network import Network
from polychron.export.onnx_graph import FLOAT, INT64, IR_VERSION, OPSET, Graph
from polychron.export.onnx_layers import LayerNodes
from polychron.limits import format_bytes, require_memory
from polychron.storage.config_file import reason

_MAXIMUM_BYTES = 2**31 - 2**20  # of one file in Google's protocol buffers


@dataclass(frozen=True)
class ExportedOnnx:
    """What was written.

    Attributes:
        file: where.
        n_bytes: its size.
        inputs: name, element type and shape of the input.
        outputs: the same of the output.
    """

    file: Path
    n_bytes: int
    inputs: str
    outputs: str


def export_onnx(network: Network, out: str | os.PathLike[str]) -> ExportedOnnx:
    """Write a network as an ONNX file.

    A language model takes ``tokens`` (batch, sequence) int64, ids of the vocabulary, and gives ``logits`` (batch,
    sequence, V) float32 of the next token at every position; both axes are free. A classifier takes ``inputs`` (batch,
    n_pixels) float32, brightness in [0, 1], and gives ``logits`` (batch, classes). The file's metadata has the
    vocabulary's ``byte_values`` or the ``class_names`` as JSON.

    Args:
        network: from `polychron.export.network.read_network`.
        out: path of the file.

    Raises:
        InputError: tables of more than 2 GB, too little memory, or the system refused to write.
    """
    path = Path(out)
    if network.contexts is not None:
        raise InputError(
            "an ONNX file cannot hold counted contexts, which are searched for: train without (polychron train "
            "--contexts 0), or take --to c, web or hf"
        )
    if network.table_bytes > _MAXIMUM_BYTES:
        raise InputError(
            f"the model has {format_bytes(network.table_bytes)} of tables and an ONNX file holds at most 2.1 GB: "
            "quantise it first, or train a smaller preset"
        )
    require_memory(3 * network.table_bytes, "the tables and the file", "close other programs")
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name too long, or a folder that may not be entered
        raise InputError(f"cannot write {path}: {reason(error)}") from None
    if is_folder:
        raise InputError(f"{path} is a folder: --out must name a file")
    model = onnx_model(network)
    data = model.SerializeToString()
    write_files({path: data})
    inputs, outputs = (_described(values[0]) for values in (model.graph.input, model.graph.output))
    return ExportedOnnx(path, len(data), inputs, outputs)


def onnx_model(network: Network) -> ModelProto:
    """The network as a model in memory, checked by onnx."""
    graph = Graph()
    writer = LayerNodes(graph, network.precision, network.n_neurons)
    n_outputs = network.layers[-1].rows.shape[2]
    if network.kind == "deep":
        inputs = helper.make_tensor_value_info("inputs", FLOAT, ["batch", network.n_pixels])
        outputs = helper.make_tensor_value_info("logits", FLOAT, ["batch", n_outputs])
        _classifier(network, writer)
    else:
        inputs = helper.make_tensor_value_info("tokens", INT64, ["batch", "sequence"])
        outputs = helper.make_tensor_value_info("logits", FLOAT, ["batch", "sequence", n_outputs])
        _language_model(network, writer)
    model = helper.make_model(
        graph.finished(f"polychron_{network.kind}", [inputs], [outputs]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="polychron",
        producer_version=polychron.__version__,
    )
    facts = {"kind": network.kind, "precision": network.precision}
    if network.vocabulary is not None:
        facts["byte_values"] = json.dumps(list(network.vocabulary.byte_values))
    if network.class_names:
        facts["class_names"] = json.dumps(network.class_names)
    helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    return model


def _language_model(network: Network, writer: LayerNodes) -> None:
    """Tokens to logits."""
    graph = writer.graph
    z = graph.add("Gather", graph.constant(network.embedding, writer.dtype, "embedding"), "tokens", axis=0)
    *hidden, readout = network.layers
    for layer in hidden:
        z = writer.recurrent(z, layer) if network.kind == "recurrent" else writer.residual(z, layer)
    logits = writer.readout(z, readout)
    if network.precision == "int8":
        unit = graph.constant(2.0**-network.logit_bits, np.float32)
        graph.add("Mul", graph.add("Cast", logits, to=FLOAT), unit, outputs=["logits"])
    else:
        graph.add("Identity", logits, outputs=["logits"])


def _classifier(network: Network, writer: LayerNodes) -> None:
    """Brightness to logits; an example is a sequence of one position."""
    graph = writer.graph
    assert network.references is not None
    x = graph.add("Sub", graph.constant([1.0], np.float32), "inputs")
    n_references = len(network.references)
    if n_references:
        shape = writer.shape_of(x, slice(0, 1), [n_references])
        references = graph.add("Expand", graph.constant(network.references, np.float32, "references"), shape)
        x = graph.add("Concat", x, references, axis=1)
    axis = graph.constant([1], np.int64)
    z = graph.add("Unsqueeze", x, axis)
    *hidden, readout = network.layers
    for layer in hidden:
        z = writer.residual(z, layer)
    graph.add("Squeeze", writer.readout(z, readout), axis, outputs=["logits"])


def _described(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    axes = ", ".join(axis.dim_param or str(axis.dim_value) for axis in kind.shape.dim)
    return f"{value.name} ({axes}) {onnx.TensorProto.DataType.Name(kind.elem_type).lower()}"
