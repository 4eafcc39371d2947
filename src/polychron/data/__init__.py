"""Text as bytes: where it comes from, what is held out, which bytes occur, which windows a step reads."""

from __future__ import annotations

from polychron.data.corpus import Corpus, load_corpus
from polychron.data.holdout import HOLDOUT_KINDS, Holdout, hold_out
from polychron.data.vocabulary import Vocabulary
from polychron.data.windows import Windows

__all__ = ["HOLDOUT_KINDS", "Corpus", "Holdout", "Vocabulary", "Windows", "hold_out", "load_corpus"]
