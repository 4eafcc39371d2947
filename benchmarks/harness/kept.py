"""Runs that are kept in a file as they finish, so that a benchmark can stop and go on; and a text in two parts."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import polychron
from polychron.data import hold_out, load_corpus

HOLDOUT = ("tail", 0.1)


class KeptRuns(list):
    """Results of finished runs, dictionaries: those in the file, if there is one, and those added since.

    Args:
        path: of the file, a JSON object a line; None: nothing is kept.
        key: fields that tell runs apart.
    """

    def __init__(self, path: Path | None, key: Sequence[str]):
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        super().__init__(json.loads(line) for line in lines)
        self._path = path
        self._key = key

    def has(self, *key: object) -> bool:
        """Whether the run of these fields is finished."""
        return self.get(*key) is not None

    def get(self, *key: object) -> dict | None:
        """The result of the run of these fields; None: it is not finished."""
        return next((result for result in self if tuple(result[name] for name in self._key) == key), None)

    def add(self, result: dict) -> None:
        """Keeps a result, and prints it."""
        self.append(result)
        line = json.dumps(result)
        print(line, flush=True)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(line + "\n")


class Text:
    """A text's part to train on and the beginning of its last tenth, to score, as bytes."""

    def __init__(self, path: Path | None, score_bytes: int):
        corpus = load_corpus(path)
        segments = hold_out(corpus.data.size, *HOLDOUT)
        self.name = corpus.name
        self.train = np.concatenate(segments.training_of(corpus.data))
        self.held_out = segments.held_out_of(corpus.data)[:score_bytes]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark whose runs are kept."""
    parser.add_argument("--score-bytes", type=int, default=1 << 17, help="of the held-out tenth")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--results", type=Path, help="file of finished runs, read and added to")


def conditions(n_seeds: int) -> str:
    """What stands under every table."""
    return (
        f"{n_seeds} seeds, {torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}, "
        f"polychron {polychron.__version__}"
    )


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean and half the range; nothing of nothing."""
    if not values:
        return ""
    return f"{statistics.mean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}"
