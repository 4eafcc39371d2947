"""Runs that begin with a trained model: it grows first, learns another text, and a part of it may stay as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.models import growth
from polychron.optim import FrozenTables, RowOptimizer
from polychron.training.checkpoint import Checkpoint
from polychron.training.records import Record, StartRecord, storable


def grown_model(
    checkpoint: Checkpoint, vocabulary: Vocabulary, add_tables: int, add_comparisons: int, seed: int
) -> torch.nn.Module:
    """A checkpoint's model with bytes, comparisons and tables added, its function as it was.

    Args:
        checkpoint: of a language model in float32.
        vocabulary: of the new run; must hold all bytes of the old one.
        add_tables: to every layer.
        add_comparisons: to every table that was there or is added.
        seed: of what is drawn.

    Raises:
        InputError: the checkpoint cannot be used, or the grown model would be too large.
    """
    model = checkpoint.load_model()
    growth.extend_vocabulary(model, checkpoint.vocabulary, vocabulary, seed=seed)
    if add_comparisons:
        growth.add_comparisons(model, add_comparisons, seed=seed + 1)
    if add_tables:
        growth.add_tables(model, add_tables, seed=seed + 2)
    return model


def start_record(checkpoint: Checkpoint, add_tables: int, add_comparisons: int) -> StartRecord:
    """Where a run began."""
    return StartRecord(
        path=storable(str(Path(checkpoint.directory).absolute())),
        step=checkpoint.record.position.step,
        add_tables=add_tables,
        add_comparisons=add_comparisons,
    )


def train_only_part(optimizer: RowOptimizer, model: torch.nn.Module, record: Record) -> Any:
    """The optimizer of a run, held to the part of the model that it is to train.

    Raises:
        InputError: a part is to be trained online, or the record speaks of more tables than there are.
    """
    only = record.training.only
    if only is None:
        return optimizer
    if optimizer.kind == "online_sgd":
        raise InputError("--only goes with --update batch: online updates change rows while a step reads them")
    n_added = growth.added_tables(model, record.start.add_tables if only == "added" else 0)
    layers = dict(model.named_modules())
    frozen = {name: layers[name].n_tables - n for name, n in n_added.items()}
    if min(frozen.values()) < 0:
        raise InputError(
            f"the record says that {record.start.add_tables} tables were added to every layer, and one has fewer: "
            "config.json is damaged"
        )
    if only == "readout":
        frozen.pop("readout")
    return FrozenTables(optimizer, model, frozen)
