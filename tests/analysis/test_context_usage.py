import html.parser
from collections import Counter

import numpy as np
import pytest
import torch

from polychron import limits
from polychron.analysis import context_usage
from polychron.analysis.context_report import ContextsShown, context_section
from polychron.analysis.context_usage import PARTS, inspect_contexts
from polychron.errors import InputError
from polychron.models import DelayConfig, RecurrentConfig, build
from polychron.nn import ContextTables
from polychron.ops.contexts import LISTS, MAX_DEPTH, advance_reference, bytes_of_symbols, context_of, start_state

BYTES = b" ab\n"
K = len(BYTES) + 1
TEXT = np.random.default_rng(0).integers(0, len(BYTES), 400).astype(np.uint8)
HELD_OUT = torch.from_numpy(np.random.default_rng(1).integers(0, K, 90))[None]


def contexts_along(text, kind):
    """The context before each symbol but the first, as tuples."""
    [state] = start_state(1).tolist()
    byte_of = bytes_of_symbols(BYTES).tolist()
    found = []
    for symbol in text[:-1]:
        state = advance_reference(state, byte_of[symbol])
        found.append(context_of(state, kind))
    return found


def model_of(depth):
    config = DelayConfig(vocabulary_size=K, n_neurons=8, n_tables=2, n_comparisons=3, readout_n_comparisons=2)
    model = build(config)
    model.set_contexts(ContextTables.of_text(TEXT, [(0, len(TEXT))], bytes_of_symbols(BYTES), depth))
    return model


@pytest.mark.parametrize("training", [False, True])
def test_a_model_is_left_in_its_mode(training):
    model = model_of(2).train(training)
    inspect_contexts(model, HELD_OUT)
    assert {module.training for module in model.modules()} == {training}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("depth", [1, 3, 5, MAX_DEPTH])
def test_walks_go_as_deep_as_a_context_was_met(depth, kind):
    [usage] = [usage for usage in inspect_contexts(model_of(depth), HELD_OUT) if usage.kind == kind]
    depth = min(depth, LISTS[kind])
    counted = contexts_along(TEXT.tolist(), kind)
    n_met = Counter(context[:k] for context in counted for k in range(depth + 1))
    # A context that was met once has no deeper ones.
    met = {context for context in n_met if not context or n_met[context[:-1]] > 1}
    followed = {(context[:k], after) for context, after in zip(counted, TEXT[1:].tolist(), strict=True)
                for k in range(depth + 1) if context[:k] in met}  # fmt: skip
    expected, added = [], []
    for context in contexts_along(HELD_OUT[0].tolist(), kind):
        own = [context[:k] for k in range(depth + 1)]
        own = own[: next((k for k, some in enumerate(own) if some not in met), len(own))]
        expected.append(len(own) - 1)
        added.append(sum(row in own for row, _ in followed))
    assert usage.depth.tolist() == expected
    assert usage.n_added.tolist() == added
    assert usage.n_contexts.tolist() == [sum(len(context) == k for context in met) for k in range(depth + 1)]
    assert usage.n_entries.tolist() == [sum(len(context) == k for context, _ in followed) for k in range(depth + 1)]
    assert usage.ends.sum() == usage.arrivals[0] == HELD_OUT.shape[1] - 1
    for k in range(depth + 1):
        reached = {c[:k] for c, d in zip(contexts_along(HELD_OUT[0].tolist(), kind), expected, strict=True) if d >= k}
        assert usage.n_read[k] == len(reached)
        assert usage.arrivals[k] == sum(d >= k for d in expected)


def test_nats_are_the_models_own_divided_by_depth():
    model = model_of(4)
    usage = inspect_contexts(model, HELD_OUT)[0]
    torch.testing.assert_close(torch.from_numpy(usage.nats).float(), model.nats(HELD_OUT[:, :-1], HELD_OUT[:, 1:])[0])
    by_depth = usage.nats_by_depth
    assert sum(n * nats for n, nats in zip(usage.ends.tolist(), by_depth, strict=True) if n) == pytest.approx(
        usage.nats.sum()
    )
    assert all((n == 0) == (nats is None) for n, nats in zip(usage.ends.tolist(), by_depth, strict=True))


def test_a_text_is_read_in_stretches_that_go_on_from_one_another(monkeypatch):
    model = model_of(4)
    whole = inspect_contexts(model, HELD_OUT)[0]
    monkeypatch.setattr(context_usage, "_AT_ONCE", 7)
    lengths = []
    extend = model.extend
    monkeypatch.setattr(model, "extend", lambda tokens, state: lengths.append(tokens.shape[1]) or extend(tokens, state))
    np.testing.assert_array_equal(inspect_contexts(model, HELD_OUT)[0].nats, whole.nats)
    assert lengths == [7] * 12 + [5]


def test_more_positions_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 30_000)
    with pytest.raises(InputError, match=r"the contexts at 89 positions need .*: read fewer \(--bytes\)"):
        inspect_contexts(model_of(2), HELD_OUT)


def test_where_only_the_empty_context_is_stored_every_walk_ends_there():
    model = model_of(2)
    model.set_contexts(ContextTables(2, K, [1] * 3, [1] * 3))
    for usage in inspect_contexts(model, HELD_OUT):
        assert usage.n_contexts.tolist() == [1, 0, 0]
        assert not usage.depth.any()


def test_a_model_without_contexts_has_none():
    model = build(RecurrentConfig(vocabulary_size=K, n_neurons=8, n_tables=2, n_comparisons=2))
    assert inspect_contexts(model, HELD_OUT) == []


def test_the_section_says_what_was_seen():
    usages = inspect_contexts(model_of(3), HELD_OUT)
    shown = inspect_contexts(model_of(3), HELD_OUT[:, :12])
    section = context_section(ContextsShown(usages, shown, tuple("<b> & is it!")))
    assert section.count("<svg") == 9
    assert all(f"{usage.depth.mean():.2f} bytes deep" in section for usage in usages)
    assert "<b>" not in section
    assert all(part in section for kind in LISTS for part in PARTS[kind][:4])
    html.parser.HTMLParser().feed(section)
