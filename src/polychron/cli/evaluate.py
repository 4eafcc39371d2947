"""``polychron evaluate``: what a text costs under a trained model."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from polychron import runtime
from polychron.cli.console import StatusLine, make_console, say
from polychron.cli.output import print_json
from polychron.data import hold_out, load_corpus
from polychron.data.corpus import Corpus
from polychron.errors import InputError
from polychron.runtime import text_stream
from polychron.training.adapt import score_while_learning
from polychron.training.checkpoint import Checkpoint, open_checkpoint
from polychron.training.evaluate import Score, score_progressively
from polychron.training.records import Record


def run_evaluate(directory: Path, text: Path | None, *, adapt: float | None, threads: int | None, json: bool) -> None:
    """Score a text, or without one what was held out from training; ``adapt``: the rate of learning from it."""
    if threads is not None:
        torch.set_num_threads(threads)
    if adapt is not None and not (math.isfinite(adapt) and adapt > 0):
        raise InputError(f"--adapt must be positive and finite; got {adapt:g}")
    checkpoint = open_checkpoint(directory)
    record = checkpoint.record
    if text is None:
        corpus = load_recorded_corpus(record)
        holdout = hold_out(corpus.data.size, record.corpus.holdout, record.corpus.holdout_fraction)
        data = holdout.held_out_of(corpus.data)
        source = f"the held-out part of {corpus.source}"
    else:
        corpus = load_corpus(text, minimum_bytes=2, minimum_distinct=1)
        data, source = corpus.data, corpus.source
    console = make_console()
    with StatusLine(console) as status:
        for so_far in _scores(checkpoint, data, adapt):
            if not json:
                status.show(f"scoring: {so_far.n_bytes / (data.size - 1):.0%}")
    if json:
        print_json(
            {
                "nats_per_byte": so_far.nats_per_byte,
                "bits_per_byte": so_far.bits_per_byte,
                "bytes": so_far.n_bytes,
                "bytes_per_second": so_far.bytes_per_second,
                "adapt": adapt,
            }
        )
        return
    learnt = "" if adapt is None else " and learnt from afterwards"
    say(console, f"{source}: {so_far.n_bytes:,} bytes scored{learnt}, {so_far.bytes_per_second:,.0f} bytes/s")
    say(console, f"{so_far.nats_per_byte:.4f} nats/byte = {so_far.bits_per_byte:.4f} bits/byte", style="bold")


def _scores(checkpoint: Checkpoint, data: np.ndarray, adapt: float | None) -> Iterator[Score]:
    """The score of all so far, after every piece of the text: by the training model, or the runtime if quantised."""
    if adapt is not None:
        torch.manual_seed(checkpoint.record.training.seed)  # rounds tables of bfloat16
        tokens, vocabulary = checkpoint.vocabulary.encode(data), checkpoint.vocabulary
        training = checkpoint.record.training
        yield from score_while_learning(
            checkpoint.load_model(),
            tokens,
            vocabulary,
            rate=adapt,
            visit_cap=training.visit_cap,
            members=training.members,
        )
        return
    if checkpoint.record.quantization is None:
        yield from score_progressively(
            checkpoint.load_model(), checkpoint.vocabulary.encode(data), checkpoint.vocabulary
        )
        return
    model = runtime.load(checkpoint.directory)
    began = time.perf_counter()
    for nats, n_bytes in text_stream.score_progressively(model, data.tobytes()):
        yield Score(nats, n_bytes, time.perf_counter() - began)


def load_recorded_corpus(record: Record, text: Path | None = None) -> Corpus:
    """The text that a run was trained on, found where it was, or at ``text``.

    Raises:
        InputError: it is not there, or is not the same any more.
    """
    expected = record.corpus
    try:
        corpus = load_corpus(text if text is not None else _from_here(expected.path))
    except InputError as error:
        if text is not None:
            raise
        raise InputError(f"the text that the model was trained on cannot be used: {error}. Give its TEXT") from None
    if corpus.sha256 != expected.sha256:
        cause = (
            "another version of Python has another library" if expected.path is None else "it has changed since then"
        )
        raise InputError(
            f"{corpus.source} is not the text that the model was trained on ({expected.bytes:,} bytes, "
            f"SHA-256 {expected.sha256[:12]}...): {cause}"
        )
    return corpus


def _from_here(path: str | None) -> str | None:
    """A path as people write it: from the working folder on, if it lies there."""
    if path is not None:
        with contextlib.suppress(OSError, ValueError):
            return str(Path(path).relative_to(Path.cwd()))
    return path
