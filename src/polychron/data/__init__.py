"""Text as bytes: where it comes from, what is held out, which bytes occur, which windows a step reads."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polychron.data.corpus import Corpus, load_corpus
    from polychron.data.holdout import HOLDOUT_KINDS, Holdout, hold_out
    from polychron.data.vocabulary import Vocabulary
    from polychron.data.windows import Windows

__all__ = ["HOLDOUT_KINDS", "Corpus", "Holdout", "Vocabulary", "Windows", "hold_out", "load_corpus"]

_MODULES = {
    "Corpus": "corpus",
    "load_corpus": "corpus",
    "HOLDOUT_KINDS": "holdout",
    "Holdout": "holdout",
    "hold_out": "holdout",
    "Vocabulary": "vocabulary",
    "Windows": "windows",
}


def __getattr__(name: str) -> Any:
    """Loads a module with the first name that is asked of it: the runtime's vocabulary needs no PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'polychron.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"polychron.data.{_MODULES[name]}"), name)
