import html.parser

import numpy as np
import pytest
import torch

from polychron.analysis.context_report import ContextsShown, context_section
from polychron.analysis.context_usage import PARTS, inspect_contexts
from polychron.models import DelayConfig, RecurrentConfig, build
from polychron.nn import ContextTables
from polychron.ops.contexts import MAX_DEPTH, advance_reference, context_of, letters, start_state

BYTES = b" ab\n"
K = len(BYTES) + 1
TEXT = np.random.default_rng(0).integers(0, len(BYTES), 400).astype(np.uint8)
HELD_OUT = torch.from_numpy(np.random.default_rng(1).integers(0, K, 90))[None]


def contexts_along(text):
    """The context before each symbol but the first, as tuples."""
    [state] = start_state(1).tolist()
    adds = letters(BYTES).tolist()
    found = []
    for symbol in text[:-1]:
        state = advance_reference(state, symbol, adds[symbol])
        found.append(context_of(state))
    return found


def model_of(depth):
    config = DelayConfig(vocabulary_size=K, n_neurons=8, n_tables=2, n_comparisons=3, readout_n_comparisons=2)
    model = build(config)
    model.set_contexts(ContextTables.of_text(TEXT, [(0, len(TEXT))], letters(BYTES), depth))
    return model


@pytest.mark.parametrize("depth", [1, 3, 5, MAX_DEPTH])
def test_walks_go_as_deep_as_a_context_was_met(depth):
    usage = inspect_contexts(model_of(depth), HELD_OUT)
    met = [{context[:k] for context in contexts_along(TEXT.tolist()) if len(context) == MAX_DEPTH}
           for k in range(depth + 1)]  # fmt: skip
    followed = [{(context[:k], after) for context, after in zip(contexts_along(TEXT.tolist()), TEXT[1:], strict=True)
                 if len(context) == MAX_DEPTH} for k in range(depth + 1)]  # fmt: skip
    expected, added = [], []
    for context in contexts_along(HELD_OUT[0].tolist()):
        own = [context[:k] for k in range(min(depth, len(context)) + 1)]
        own = own[: next((k for k, some in enumerate(own) if some not in met[k]), len(own))]
        expected.append(len(own) - 1)
        added.append(sum(row == some for k, some in enumerate(own) for row, _ in followed[k]))
    assert usage.depth.tolist() == expected
    assert usage.n_added.tolist() == added
    assert usage.n_contexts.tolist() == [len(level) for level in met]
    assert usage.n_entries.tolist() == [len(level) for level in followed]
    assert usage.ends.sum() == usage.arrivals[0] == HELD_OUT.shape[1] - 1
    for k in range(depth + 1):
        reached = {c[:k] for c, d in zip(contexts_along(HELD_OUT[0].tolist()), expected, strict=True) if d >= k}
        assert usage.n_read[k] == len(reached)
        assert usage.arrivals[k] == sum(d >= k for d in expected)


def test_nats_are_the_models_own_divided_by_depth():
    model = model_of(4)
    usage = inspect_contexts(model, HELD_OUT)
    torch.testing.assert_close(torch.from_numpy(usage.nats).float(), model.nats(HELD_OUT[:, :-1], HELD_OUT[:, 1:])[0])
    by_depth = usage.nats_by_depth
    assert sum(n * nats for n, nats in zip(usage.ends.tolist(), by_depth, strict=True) if n) == pytest.approx(
        usage.nats.sum()
    )
    assert all((n == 0) == (nats is None) for n, nats in zip(usage.ends.tolist(), by_depth, strict=True))


def test_where_only_the_empty_context_is_stored_every_walk_ends_there():
    model = model_of(2)
    model.set_contexts(ContextTables(2, K, 1, 1))
    usage = inspect_contexts(model, HELD_OUT)
    assert usage.n_contexts.tolist() == [1, 0, 0]
    assert not usage.depth.any()


def test_a_model_without_contexts_has_none():
    model = build(RecurrentConfig(vocabulary_size=K, n_neurons=8, n_tables=2, n_comparisons=2))
    assert inspect_contexts(model, HELD_OUT) is None


def test_the_section_says_what_was_seen():
    usage = inspect_contexts(model_of(3), HELD_OUT)
    shown = inspect_contexts(model_of(3), HELD_OUT[:, :12])
    section = context_section(ContextsShown(usage, shown, tuple("<b> & is it!")))
    assert section.count("<svg") == 3
    assert f"{usage.depth.mean():.2f} bytes deep" in section
    assert "<b>" not in section
    assert all(part in section for part in PARTS[:4])
    html.parser.HTMLParser().feed(section)
