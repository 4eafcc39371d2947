from __future__ import annotations

import numpy as np
import pytest
import torch

from polychron.analysis.context_report import ContextsShown, context_section
from polychron.analysis.recent_usage import RUNS, inspect_recent
from polychron.cli.inspect import recent_lines
from polychron.models import DelayConfig, DelayLM, RecurrentConfig, build
from polychron.nn import ContextTables
from polychron.ops.contexts import bytes_of_symbols
from polychron.ops.recent import CELLS_SHAPE

BYTES = b"abcdefg"


def model_of(*, recent: bool) -> DelayLM:
    model = build(DelayConfig(vocabulary_size=8, n_neurons=8, n_tables=2, n_comparisons=3, readout_n_comparisons=2))
    contexts = ContextTables.of_text(np.arange(70, dtype=np.uint8) % 7, [(0, 70)], bytes_of_symbols(BYTES), 2)
    if recent:
        contexts.set_recent(torch.arange(80.0).view(CELLS_SHAPE))
    model.set_contexts(contexts)
    return model


def test_what_was_found_and_what_was_right_is_counted():
    """Seven letters in turn: from the second round on each context is met, and what followed it follows again."""
    tokens = torch.tensor([[*(t % 7 for t in range(70)), 0, 0]])
    usage = inspect_recent(model_of(recent=True), tokens)
    assert usage.n_positions == 71
    three = usage.n_found[0]  # of the last three bytes
    # Seven contexts of three letters, each met for the first time, then after runs of 1, 2, ... 9; at last an a where
    # a b had followed nine times, and after two of them nothing is known.
    assert three.tolist() == [[7, 7, 7, 7, 14, 20, 0, 0], [0] * len(RUNS)]
    assert usage.n_right[0].tolist() == [[7, 7, 7, 7, 14, 19, 0, 0], [0] * len(RUNS)]
    assert usage.met[0] == pytest.approx(62 / 71)
    assert usage.right(0)[0] == pytest.approx(61 / 62)
    assert usage.right(1)[0] is None
    assert usage.right_by_run(0)[0] == 1.0
    assert usage.cells[4, 1, 7] == 79.0
    assert usage.summary()["tables"][0]["table"] == "text 3"


def test_models_without_recent_tables_have_none():
    tokens = torch.tensor([[0, 1, 2]])
    assert inspect_recent(model_of(recent=False), tokens) is None
    without_contexts = build(RecurrentConfig(vocabulary_size=8, n_neurons=8, n_tables=2, n_comparisons=2))
    assert inspect_recent(without_contexts, tokens) is None


def test_lines_and_section_say_the_shares():
    usage = inspect_recent(model_of(recent=True), torch.tensor([[t % 7 for t in range(70)]]))
    lines = recent_lines(usage)
    assert len({len(line) for line in lines[2:-2]}) == 1  # columns stand below their heads
    assert lines[3].split()[:4] == ["text", "3", "87.0%", "100.0%"]
    section = context_section(ContextsShown([], [], (), usage))
    assert section.count("<tr>") == 6
    assert "<h2>recent tables</h2>" in section
