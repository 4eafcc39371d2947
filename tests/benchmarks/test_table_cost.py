from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.context_cost import context_cost
from harness.table_cost import UnknownCostError, reading_cost, training_operations
from polychron.models import DelayConfig, TransformerConfig, build
from polychron.nn import ContextTables
from polychron.ops.contexts import bytes_of_symbols
from polychron.ops.recent import CELLS_SHAPE


def test_a_delay_model_by_hand():
    config = DelayConfig(vocabulary_size=10, n_neurons=8, n_layers=1, n_tables=5, n_comparisons=3, max_delay=4,
                         readout_n_tables=2, readout_n_comparisons=4)  # fmt: skip
    cost = reading_cost(build(config))
    comparisons = 5 * 3 + 2 * 4
    assert cost.operations == 2 * comparisons + 5 * 8 + 2 * 10 + 5 * 10  # hash, rows, readout's rows, softmax
    # the embedding's row in and out; two latencies and two neurons' numbers a comparison, one delay more in the layer
    layer = 15 * (8 + 4) + 15 * 2 + 4 * (5 * 8 + 8) + 4 * 8
    readout = 8 * (8 + 4) + 4 * (2 * 10 + 10)
    assert cost.bytes == 2 * 4 * 8 + layer + readout + 2 * 4 * 10
    assert training_operations(build(config)) == cost.operations + 5 * (6 * 8 + 8) + 2 * (6 * 10 + 8)


def test_attention_reads_a_row_for_every_table_and_remembered_position():
    def cost(window: int, **fields):
        config = TransformerConfig(vocabulary_size=10, context=20, n_neurons=8, n_layers=1, n_heads=2, n_tables=3,
                                   n_comparisons=2, n_position_bits=1, window=window, ffn=None, **fields)  # fmt: skip
        return reading_cost(build(config))

    rows = 2 * 3  # tables of both heads, for one position more
    assert cost(5).operations - cost(4).operations == rows * (8 + 2)
    assert cost(5).bytes - cost(4).bytes == rows * (4 * 8 + 2 * 4)
    assert cost(4, share_anchors=False).operations - cost(4).operations == 2 * (2 * 3 * 2)


def test_what_cannot_be_counted_is_not_guessed():
    model = build(DelayConfig(vocabulary_size=10, n_tables=2, n_comparisons=2, readout_n_comparisons=2))
    model.extra = torch.nn.Linear(3, 3)
    with pytest.raises(UnknownCostError, match=r"extra\.weight"):
        reading_cost(model)


def test_counted_contexts_by_hand():
    text = np.tile(np.array([0, 1], dtype=np.uint8), 8)
    tables = ContextTables.of_text(text, [(0, 16)], bytes_of_symbols(b"ab"), depth=1)
    cost = context_cost(tables, text[:10])
    # Of each kind two entries after anything, and one after what was met: the last byte, twice, of two, found in two
    # halvings, and the column, one of fifteen, in four.
    assert cost.operations == 3 * (2 + 1) + 2 + 2 + 4
    assert cost.bytes == 3 * (2 + 1) * 5 + 3 * 2 * 16 + 2 + 2 + 4
    nowhere = context_cost(tables, np.array([2]))  # a byte that was never met, in the first column
    assert nowhere.operations == 2 + (2 + 2) + (2 + 2) + 4 + 1


def test_recent_tables_by_hand():
    """Beside all else: five keys of 3, 5, 7, 4 and 3 bytes, a place each written and read, two cells each."""
    text = np.tile(np.array([0, 1], dtype=np.uint8), 8)
    costs = []
    for recent in (False, True):
        tables = ContextTables.of_text(text, [(0, 16)], bytes_of_symbols(b"ab"), depth=1)
        if recent:
            tables.set_recent(torch.zeros(CELLS_SHAPE))
        model = build(DelayConfig(vocabulary_size=3, n_tables=2, n_comparisons=2, readout_n_comparisons=2))
        model.set_contexts(tables)
        costs.append(reading_cost(model, text[:10]))
    assert costs[1].operations - costs[0].operations == 22 * 7 + 5 * 8 + 10 * 8
    assert costs[1].bytes - costs[0].bytes == 5 * 3 * 8 + 10 * 4
