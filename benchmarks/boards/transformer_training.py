"""Trains the dense transformer that tables are compared with, or reads one that was kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from polychron.errors import InputError
from polychron.twins.learning import learn, of_twin
from polychron.twins.split import Split
from polychron.twins.training import Settings
from polychron.twins.transformer import Transformer, TransformerSize
from polychron.twins.twin import Recipe

WINDOWS = 8  # of a step


def kept_transformer(
    path: Path, split: Split, size: TransformerSize, rate: float, n_bytes: int, seed: int
) -> Transformer:
    """The transformer in a safetensors file, whatever its size; or trained on so many bytes, and written there.

    Raises:
        InputError: the file is no transformer for this text.
    """
    if path.exists():
        with safe_open(path, "pt") as file:
            about = (file.metadata() or {}).get("size")
        if about is None:
            raise InputError(f"{path} says no size: it is not what this benchmark writes")
        twin = Transformer(split.vocabulary.size, TransformerSize(**json.loads(about)))
        twin.load_state_dict(load_file(path))
        return twin.eval()
    recipe = Recipe(path.stem, lambda k, dropout: Transformer(k, size, dropout), WINDOWS, rate)
    learner = of_twin(recipe, Settings(rate, compiled=True), split, seed)
    learn(learner, split.held_out[:1000], n_bytes=n_bytes)
    keep(learner.network, path)
    return learner.network.eval()


def keep(twin: torch.nn.Module, path: Path) -> None:
    """The file that `kept_transformer` reads."""
    save_file(twin.state_dict(), path, {"size": json.dumps(asdict(twin.size))})
