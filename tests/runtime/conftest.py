"""Models of random tables in folders, and both sides of them: the training model and the runtime's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polychron import models
from polychron.data.vocabulary import Vocabulary
from polychron.nn import ContextTables
from polychron.ops.contexts import bytes_of_symbols
from polychron.ops.recent import CELLS_SHAPE
from polychron.training import CheckpointWriter
from polychron.training.checkpoint import checkpoint_tensors
from polychron.training.records import CorpusRecord, Record, TrainingRecord

BYTE_VALUES = b"\n abcdefghijklmnopqrstuvwxyz"

MODELS = {
    "delay": models.DelayConfig(vocabulary_size=28, n_tables=20, n_comparisons=6, readout_n_comparisons=7),
    "two delay layers": models.DelayConfig(
        vocabulary_size=28, n_neurons=48, n_layers=2, n_tables=17, n_comparisons=5, max_delay=3,
        readout_n_tables=5, readout_n_comparisons=6, readout_max_delay=2,
    ),
    "three layers of 7 neurons": models.DelayConfig(
        vocabulary_size=28, n_neurons=7, n_layers=3, n_tables=3, n_comparisons=9, max_delay=300,
        delay_distribution="uniform", anchors="covering", readout_n_tables=33, readout_n_comparisons=1,
    ),
    "readout alone": models.DelayConfig(
        vocabulary_size=28, n_layers=0, readout_n_tables=9, readout_n_comparisons=8, readout_max_delay=5
    ),
    "transformer": models.TransformerConfig(
        vocabulary_size=28, context=12, n_neurons=20, n_layers=2, n_heads=2, n_tables=3, n_comparisons=4,
        n_position_bits=2,
    ),
    "attention only": models.TransformerConfig(
        vocabulary_size=28, context=9, n_neurons=33, n_layers=1, n_heads=1, n_tables=18, n_comparisons=3,
        n_position_bits=0, window=4, ffn=None, share_anchors=False,
    ),
    "recurrent": models.RecurrentConfig(
        vocabulary_size=28, context=300, n_neurons=40, n_tables=19, n_comparisons=5, readout_n_tables=5,
        readout_n_comparisons=6,
    ),
}  # fmt: skip


def random_text(n_bytes: int, seed: int = 0) -> bytes:
    """Bytes of the vocabulary, a few of them unknown to it."""
    generator = torch.Generator().manual_seed(seed)
    letters = BYTE_VALUES + b"?"
    return bytes(letters[i] for i in torch.randint(len(letters), (n_bytes,), generator=generator).tolist())


def counted_contexts(depth: int, recent: bool) -> ContextTables:
    """Contexts of the beginning of what `random_text` gives: of a longer one some are known, and then none."""
    ids = Vocabulary(BYTE_VALUES[:27]).encode(random_text(200) + random_text(100, seed=1) * 2).astype(np.uint8)
    contexts = ContextTables.of_text(ids, [(0, len(ids))], bytes_of_symbols(BYTE_VALUES[:27]), depth)
    if recent:
        contexts.set_recent(torch.randn(CELLS_SHAPE, generator=torch.Generator().manual_seed(depth)))
    return contexts


def with_contexts(config: models.DelayConfig, depth: int, *, recent: bool = False) -> models.DelayConfig:
    counted = counted_contexts(depth, recent)
    sizes = {"n_contexts": counted.n_contexts, "n_context_entries": counted.n_entries, "recent": recent}
    return replace(config, context_depth=depth, **sizes)


COUNTED = {
    "contexts": with_contexts(MODELS["two delay layers"], 7),
    "contexts beside a readout alone": with_contexts(MODELS["readout alone"], 3),
    "contexts of two bytes": with_contexts(MODELS["delay"], 2),
    "contexts of one byte": with_contexts(MODELS["delay"], 1),
    "recent contexts": with_contexts(MODELS["two delay layers"], 7, recent=True),
    "recent contexts beside a readout alone": with_contexts(MODELS["readout alone"], 2, recent=True),
}


class NoOptimizer:
    """Stands where a run's optimizer would."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}


def random_model(config: models.ModelConfig, seed: int = 0) -> models.LanguageModel:
    """Tables of normal numbers, so large that a comparison depends on every layer before it; counted contexts."""
    if depth := getattr(config, "context_depth", 0):
        without = replace(config, context_depth=0, n_contexts=(), n_context_entries=(), recent=False)
        model = random_model(without, seed)
        model.set_contexts(counted_contexts(depth, config.recent))
        return model
    model = models.build(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("synaptic_vectors"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def save_model(model: models.LanguageModel, folder: Path, byte_values: bytes = BYTE_VALUES) -> Path:
    """A folder as a run leaves it."""
    record = Record(
        model=model.config.to_dict(),
        preset="none",
        vocabulary=list(byte_values[: model.config.vocabulary_size - 1]),
        corpus=CorpusRecord(
            name="random", path=None, sha256="0" * 64, bytes=1, holdout="tail", holdout_fraction=0.1
        ),
        training=TrainingRecord(
            seed=0, batch=1, length=1, rate=0.1, warmup_steps=0, visit_cap=None, optimizer="sgd", update="batch",
            steps=1, seconds=None,
        ),
    )  # fmt: skip
    with CheckpointWriter(folder) as writer:
        return writer.save(record, checkpoint_tensors(model, NoOptimizer()))


SavedModel = tuple[models.LanguageModel, Path]


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], SavedModel]:
    """saved(name of `MODELS` or `COUNTED`) -> the training model and its folder."""

    def make(name: str) -> SavedModel:
        model = random_model({**MODELS, **COUNTED}[name])
        return model, save_model(model, tmp_path / "run")

    return make
