"""``polychron quantize``: tables of fewer bits, and what they cost."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polychron.cli.evaluate import load_recorded_corpus
from polychron.cli.output import print_json, print_line
from polychron.data import hold_out, load_corpus
from polychron.errors import InputError
from polychron.limits import format_bytes
from polychron.quantization import quantize
from polychron.runtime import Model, load
from polychron.runtime.model import read_settings
from polychron.runtime.text_stream import score_progressively
from polychron.storage import CONFIG_NAME
from polychron.storage.config_file import reason
from polychron.training.checkpoint import Checkpoint, open_checkpoint
from polychron.training.checkpoint_writer import CheckpointWriter
from polychron.training.evaluate import spread_sample
from polychron.training.records import QuantizationRecord, Record

_SCORED_BYTES = 1 << 20  # of a long text the beginning tells enough
_ROUNDED_FOR_BYTES = 1 << 17  # of the training part: a micro's row is read 500 times on average


def run_quantize(directory: Path, *, to: str, out: Path | None, text: Path | None, json: bool) -> None:
    """Write the quantised model beside the trained one and say what both cost on a text.

    Without a text: on what was held out in training; where that is not to be found, nothing is scored.
    """
    checkpoint = open_checkpoint(directory)
    read_settings(directory)  # refuses what the runtime does not run, before anything is written
    checkpoint.load_model()  # checks every tensor
    target = out if out is not None else _beside(directory, to)
    _require_new(target)
    data, source = _text(checkpoint.record, text)
    quantized = quantize(checkpoint.load_tensors(), to, _training_tokens(checkpoint) if to == "int8" else None)
    record = checkpoint.record.model_copy(
        update={
            "quantization": QuantizationRecord(
                precision=to, latency_bits=quantized.latency_bits, logit_bits=quantized.logit_bits
            )
        }
    )
    with CheckpointWriter(target) as writer:
        writer.save(record, quantized.tensors)

    sizes = [_table_bytes(folder) for folder in (directory, target)]
    result = {"checkpoint": str(target), "precision": to, "bytes_before": sizes[0], "bytes_after": sizes[1]}
    lines = [f"{format_bytes(sizes[0])} of weights -> {format_bytes(sizes[1])} in {target}"]
    if data is None:
        lines.append(f"loss not measured: {source}")
    else:
        before, _ = _score(load(directory), data)
        after, speed = _score(load(target), data)
        result |= {
            "text": source,
            "bytes": len(data) - 1,
            "nats_per_byte_before": before,
            "nats_per_byte_after": after,
            "bytes_per_second_after": speed,
        }
        lines.append(f"{source}: {len(data) - 1:,} bytes scored")
        lines.append(f"{before:.4f} nats/byte before, {after:.4f} after: {after - before:+.4f}")
    if json:
        print_json(result)
    else:
        print_line("\n".join(lines))


def _require_new(target: Path) -> None:
    try:
        exists = (target / CONFIG_NAME).exists()
    except OSError as error:  # a name too long, or a folder that may not be entered
        raise InputError(f"cannot write checkpoints to {target}: {reason(error)}: give another --out") from None
    if exists:
        raise InputError(f"{target} already has a checkpoint: give another --out")


def _beside(directory: Path, to: str) -> Path:
    """Where the result goes: the folder's name with what it becomes, also where it was given as ``.`` or ``..``."""
    named = directory.resolve() if directory.name in ("", "..") else directory
    if not named.name:
        raise InputError(f"{directory} has no name to put -{to} after: give --out")
    return named.with_name(f"{named.name}-{to}")


def _text(record: Record, text: Path | None) -> tuple[bytes | None, str]:
    """What to score, and what to call it; or None, and why."""
    if text is not None:
        corpus = load_corpus(text, minimum_bytes=2, minimum_distinct=1)
        return corpus.data[:_SCORED_BYTES].tobytes(), corpus.source
    try:
        corpus = load_recorded_corpus(record)
    except InputError as error:
        return None, str(error)
    holdout = hold_out(corpus.data.size, record.corpus.holdout, record.corpus.holdout_fraction)
    return holdout.held_out_of(corpus.data)[:_SCORED_BYTES].tobytes(), f"the held-out part of {corpus.source}"


def _training_tokens(checkpoint: Checkpoint) -> Tensor | None:
    """Some of what the model was trained on, for rows to be rounded together; None where that is not to be found."""
    try:
        corpus = load_recorded_corpus(checkpoint.record)
    except InputError:
        return None
    recorded = checkpoint.record.corpus
    holdout = hold_out(corpus.data.size, recorded.holdout, recorded.holdout_fraction)
    training = np.concatenate(holdout.training_of(corpus.data))
    tokens = checkpoint.vocabulary.encode(spread_sample(training, _ROUNDED_FOR_BYTES))
    return torch.from_numpy(tokens.astype(np.int64))


def _score(model: Model, text: bytes) -> tuple[float, float]:
    """Nats a byte, and bytes a second."""
    began = time.perf_counter()
    *_, (nats, n_bytes) = score_progressively(model, text)
    return nats / n_bytes, n_bytes / max(time.perf_counter() - began, 1e-9)


def _table_bytes(directory: Path) -> int:
    """Bytes of the model's own tensors, an optimizer's left out."""
    tensors = load(directory).tensors
    return sum(entry.end - entry.begin for name, entry in tensors.entries.items() if name.startswith("model."))
