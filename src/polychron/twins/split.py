"""The text, cut into what is trained on and what is scored; all contestants see the same ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from polychron.data import Vocabulary, hold_out, load_corpus

HELD_OUT_FRACTION = 0.1
TUNING_FRACTION = 0.05


@dataclass(frozen=True)
class Split:
    """Token ids to train on and to score.

    Attributes:
        name: of the text, for titles.
        sha256: of the whole text that was read, hexadecimal.
        vocabulary: of the bytes that occur in the training part.
        training: (N,) uint8 ids.
        held_out: (M,) uint8 ids; every one after the first is scored.
        text: (N + M,) uint8, the bytes of both parts, for what codes bytes.
    """

    name: str
    sha256: str
    vocabulary: Vocabulary
    training: np.ndarray
    held_out: np.ndarray
    text: np.ndarray

    @classmethod
    def of(cls, path: Path | None) -> Split:
        """A file or folder, its last tenth held out: exactly what ``polychron train --holdout tail`` divides.

        Without a path it is Python's standard library.

        Raises:
            InputError: the text cannot be read or is too short.
        """
        corpus = load_corpus(path)
        parts = hold_out(corpus.data.size, "tail", HELD_OUT_FRACTION)
        (training,) = parts.training_of(corpus.data)
        vocabulary = Vocabulary.of(training)
        held_out = vocabulary.encode(parts.held_out_of(corpus.data))
        return cls(corpus.name, corpus.sha256, vocabulary, vocabulary.encode(training), held_out, corpus.data)

    def for_tuning(self) -> Split:
        """The training part divided again: rates are chosen on its end, never on what is scored in the end."""
        parts = hold_out(self.training.size, "tail", TUNING_FRACTION)
        (training,) = parts.training_of(self.training)
        held_out = parts.held_out_of(self.training)
        return replace(self, training=training, held_out=held_out, text=self.text[: self.training.size])
