"""The references' figures as results of the benchmark."""

from __future__ import annotations

import time

from harness.results import Result
from polychron.twins.split import Split
from references.kneser_ney import KneserNey
from references.ppmd import code_held_out

PPMD, KNESER_NEY = "ppmd", "kneser-ney"
NAMES = (PPMD, KNESER_NEY)


def run_reference(name: str, order: int, split: Split) -> Result:
    """PPMd or Kneser-Ney of an order on the held-out part of a text."""
    return (run_ppmd if name == PPMD else run_kneser_ney)(order, split)


def run_ppmd(order: int, split: Split) -> Result:
    """It knows all 256 byte values from the start, and goes on learning while it codes the held-out part."""
    n = split.training.size
    coded = code_held_out(split.text[:n], split.text[n:], order)
    return Result(f"PPMd, order {order}", None, None, coded.nats_per_byte, coded.scored_bytes, coded.seconds, n)


def run_kneser_ney(order: int, split: Split) -> Result:
    """Counted on the training part; it does not learn while it reads."""
    began = time.perf_counter()
    model = KneserNey(split.training, split.vocabulary.size, order)
    seconds = time.perf_counter() - began
    n_scored = split.held_out.size - 1
    n_unseen = int((split.held_out[1:] == split.vocabulary.unseen_id).sum())
    nats = (model.score(split.held_out).sum() + n_unseen * split.vocabulary.unseen_nats) / n_scored
    return Result(f"Kneser-Ney {order}-gram", None, None, float(nats), n_scored, seconds, split.training.size)
