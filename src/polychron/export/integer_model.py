"""A language model in int8, quantised on the way where its folder holds float32: what C and web pages are made of."""

from __future__ import annotations

import os
from pathlib import Path

from polychron.errors import InputError, UnsupportedModelError
from polychron.export.network import Network, language_network
from polychron.quantization import quantize
from polychron.runtime import load
from polychron.training.checkpoint import open_checkpoint


def read_integer_model(directory: str | os.PathLike[str]) -> Network:
    """The int8 model of a folder; one in float32 is quantised on the way.

    Raises:
        InputError: no model, a damaged one, or one in bfloat16.
        UnsupportedModelError: a recurrent one, or layers that do more than compare, index, read a row and add.
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
    return language_network(folder, checkpoint, tensors, "int8", int(logit_bits or 0))
