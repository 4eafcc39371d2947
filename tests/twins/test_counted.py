"""A twin beside counted and recent tables: what is trained on, and what is scored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from polychron.data import Vocabulary
from polychron.errors import InputError
from polychron.twins.counted import train_counted
from polychron.twins.split import Split
from polychron.twins.training import Settings
from tests.twins.conftest import TINY


def test_logits_say_what_is_scored(split: Split):
    torch.manual_seed(0)
    twin = TINY["transformer"].build(split.vocabulary.size, 0.0).eval()
    tokens = torch.from_numpy(split.held_out[:500].astype(np.int64))
    nats = F.cross_entropy(twin.logits(tokens), tokens[1:], reduction="none")
    torch.testing.assert_close(nats, twin.score(tokens), rtol=1e-5, atol=1e-5)


def test_tables_beside_a_twin_help_and_are_added_to_its_scaled_logits(split: Split):
    found = train_counted(TINY["transformer"], Settings(rate=1e-2), split, 1.0, seed=0)
    assert found.nats_per_byte < found.trained.nats_per_byte
    assert found.contexts.recent is not None
    assert found.seconds >= 1.0
    tokens = torch.from_numpy(split.held_out.astype(np.int64))
    with torch.no_grad():
        logits = found.belief.scale * found.trained.twin.logits(tokens) + found.contexts(tokens[None, :-1])[0]
    nats = F.cross_entropy(logits.double(), tokens[1:], reduction="none")
    n_unseen = int((tokens[1:] == split.vocabulary.unseen_id).sum())
    expected = (nats.sum().item() + n_unseen * split.vocabulary.unseen_nats) / len(nats)
    assert found.nats_per_byte == pytest.approx(expected, rel=1e-5)


def test_a_text_of_all_bytes_or_too_short_to_set_some_aside_is_refused(split: Split):
    every = replace(split, vocabulary=Vocabulary.of(np.arange(256, dtype=np.uint8)))
    with pytest.raises(InputError, match="know 256 symbols, the text has all bytes"):
        train_counted(TINY["transformer"], Settings(rate=1e-2), every, 1.0, 0)
    with pytest.raises(InputError, match="too short to set bytes aside"):
        train_counted(TINY["transformer"], Settings(rate=1e-2), replace(split, training=split.training[:5000]), 1.0, 0)
