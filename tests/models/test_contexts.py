"""Delay models with counted contexts: one definition of their logits, whichever way they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polychron import optim
from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.models import DelayConfig, DelayLM, build, config_from_dict, delay
from polychron.models.growth import add_tables, extend_vocabulary
from polychron.nn import ContextTables
from polychron.ops.contexts import LISTS, bytes_of_symbols, read_contexts_reference, start_state
from polychron.ops.recent import CELLS_SHAPE, add_recent, find_recent_reference, start_recent_state
from polychron.training import evaluate
from polychron.training.adapt import score_while_learning

K = 7
VOCABULARY = b"\n bcde"
TEXT = np.random.default_rng(0).integers(0, 6, 500).astype(np.uint8) // 2 * 2 % 6


def model_with_contexts(depth: int = 4, n_layers: int = 1, *, recent: bool = False) -> DelayLM:
    config = DelayConfig(
        vocabulary_size=K, n_neurons=8, n_layers=n_layers, n_tables=4, n_comparisons=4, max_delay=2,
        readout_n_tables=3, readout_n_comparisons=4,
    )  # fmt: skip
    model = DelayLM(config, seed=1)
    for layer in model.layers_in_order():
        layer.synaptic_vectors.data.normal_(generator=torch.Generator().manual_seed(2))
    contexts = ContextTables.of_text(TEXT, [(0, 500)], bytes_of_symbols(VOCABULARY), depth)
    if recent:
        contexts.set_recent(torch.randn(CELLS_SHAPE, generator=torch.Generator().manual_seed(3)))
    model.set_contexts(contexts)
    return model


def tokens(n: int) -> torch.Tensor:
    return torch.from_numpy(TEXT[100 : 100 + n].astype(np.int64))


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [0, 1])
@pytest.mark.parametrize("depth", [1, 4, 7])
def test_forward_is_the_readout_and_the_rows(depth: int, n_layers: int):
    model = model_with_contexts(depth, n_layers)
    x = torch.stack([tokens(40), tokens(41)[1:]])
    text, words, line = (
        read_contexts_reference(of_kind.rows, model.contexts.byte, kind, min(depth, length), x, start_state(2))[0]
        for (kind, length), of_kind in zip(LISTS.items(), model.contexts.lists, strict=True)
    )
    assert torch.equal(model(x), model.readout(model.latencies(x)) + ((text + words) + line))
    for each, expected in zip(model.contexts.each(x), (text, words, line), strict=True):
        torch.testing.assert_close(each.sum(0), expected)
    assert model.context_length >= 256


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[40], [1] * 40, [3, 30, 7], [6, 34]])
@pytest.mark.parametrize(("depth", "recent"), [(1, False), (2, True), (7, False), (7, True)])
def test_any_split_of_a_text_gives_the_same_bits(depth: int, recent: bool, pieces: list[int]):
    model = model_with_contexts(depth, recent=recent)
    x = torch.stack([tokens(40), tokens(41)[1:]])
    state, parts = model.start(), []
    for part in x.split(pieces, dim=1):
        logits, state = model.extend(part, state)
        parts.append(logits)
    assert torch.equal(torch.cat(parts, dim=1), model(x))


def test_a_model_loaded_in_inference_mode_reads_them():
    expected = model_with_contexts()(tokens(40)[None])
    with torch.inference_mode():
        model = model_with_contexts()
        assert torch.equal(model(tokens(40)[None]), expected)
        model.contexts.words.first_child[5] = len(model.contexts.words.symbol) + 9
        with pytest.raises(ValueError, match="first_child must ascend"):
            model(tokens(40)[None])


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [0, 1])
def test_recent_tables_are_added_to_what_was_counted(n_layers: int):
    model, without = (model_with_contexts(7, n_layers, recent=recent) for recent in (True, False))
    x = torch.stack([tokens(60), tokens(61)[1:]])
    symbols, cells, _ = find_recent_reference(model.contexts.byte, x, start_recent_state(2))
    counted = without.contexts(x)
    expected = model.readout(model.latencies(x)) + add_recent(counted.clone(), model.contexts.recent, symbols, cells)
    assert torch.equal(model(x), expected)
    assert torch.equal(model.contexts.counted(x), counted)
    assert not torch.equal(model(x), without(x))
    with pytest.raises(ValueError, match="no recent tables"):
        without.contexts.recall(x, None)
    assert without.recall(x[0], None) == (None, None)


@torch.no_grad()
def test_a_model_of_float64_has_them_too():
    model = model_with_contexts(recent=True)
    x = tokens(60)[None]
    expected = model(x)
    torch.testing.assert_close(model.double()(x).float(), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("piece", [64, 300, 5000])
def test_a_text_scored_in_pieces_is_remembered_from_its_beginning(piece: int, monkeypatch):
    """Longer than a stretch: contexts of the beginning come again in other pieces and stretches."""
    monkeypatch.setattr(evaluate, "_PIECE", piece)
    monkeypatch.setattr(delay, "SCORE_STRETCH", 100)
    model = model_with_contexts(3, recent=True).eval()
    text = np.random.default_rng(1).integers(0, 6, 1200).astype(np.uint8)
    text[900:] = text[:300]
    x = torch.from_numpy(text.astype(np.int64))
    whole = torch.nn.functional.cross_entropy(model(x[None, :-1])[0], x[1:], reduction="sum").item()
    assert evaluate.score(model, text, Vocabulary(VOCABULARY)).nats == pytest.approx(whole, rel=1e-6)
    *_, adapting = score_while_learning(model, text, Vocabulary(VOCABULARY), rate=1e-30)
    assert adapting.nats == pytest.approx(whole, rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("recent", [False, True])
def test_a_compiled_model_and_tokens_of_32_bits_say_the_same(recent: bool):
    model = model_with_contexts(recent=recent)
    expected = model(tokens(40)[None])
    assert torch.equal(model(tokens(40)[None].int()), expected)
    assert torch.equal(torch.compile(model, backend="eager")(tokens(40)[None]), expected)


@torch.no_grad()
@pytest.mark.parametrize("n", [2, 30, 400])
@pytest.mark.parametrize(("depth", "recent"), [(1, False), (7, False), (7, True)])
def test_score_is_the_cross_entropy_of_forward(depth: int, recent: bool, n: int):
    model = model_with_contexts(depth, recent=recent)
    x = torch.from_numpy(TEXT[:n].astype(np.int64))
    expected = torch.nn.functional.cross_entropy(model(x[None, :-1])[0], x[1:], reduction="none")
    torch.testing.assert_close(model.score(x), expected, atol=2e-6, rtol=2e-6)


def test_a_step_learns_what_the_counted_rows_leave():
    """The native step and the layers one by one change the tables alike; the counted rows stay."""
    x, y = tokens(40)[None], tokens(41)[None, 1:].contiguous()
    native, by_layer = model_with_contexts(), model_with_contexts()
    counted = native.contexts.words.value.clone()
    for model in (native, by_layer):
        optim.attach(model, "sgd", 0.1)
        model.train()
    nats = native.train_step(x, y)
    loss = by_layer.loss(x, y)
    loss.backward()
    assert nats == pytest.approx(loss.item(), rel=1e-6)
    assert torch.equal(native.contexts.words.value, counted)
    for ours, theirs in zip(native.layers_in_order(), by_layer.layers_in_order(), strict=True):
        torch.testing.assert_close(ours.synaptic_vectors, theirs.synaptic_vectors, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("recent", [False, True])
def test_a_configuration_says_the_sizes(recent: bool):
    model = model_with_contexts(recent=recent)
    config = config_from_dict(model.config.to_dict())
    assert config == model.config
    again = build(config)
    again.load_state_dict(model.state_dict())
    again.check()
    assert torch.equal(again(tokens(20)[None]), model(tokens(20)[None]))
    model.set_contexts(None)
    assert "context_depth" not in model.config.to_dict()
    assert model(tokens(20)[None]).shape == (1, 20, K)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context_depth": 8}, r"context_depth must be an integer in \[0, 7\]"),
        ({"context_depth": True}, "context_depth must be an integer"),
        ({"context_depth": 2}, "n_contexts must be 3 integers in"),
        ({"n_contexts": [3, 3, 3]}, "n_contexts must be 0 integers in"),
        ({"context_depth": 2, "n_contexts": 3}, "n_contexts must be 3 integers .* got 3"),
        ({"context_depth": 2, "n_contexts": [3, 3]}, "n_contexts must be 3 integers"),
        ({"recent": True}, "recent must be true or false, and false where context_depth is 0"),
        (
            {"context_depth": 2, "n_contexts": [3] * 3, "n_context_entries": [4] * 3, "recent": 1},
            "recent must be true or false",
        ),
        ({"context_depth": 2, "n_contexts": [3, 3, 3], "n_context_entries": [1, 0, 1]}, "n_context_entries must be"),
        (
            {"context_depth": 2, "n_contexts": [3] * 3, "n_context_entries": [1, 1, 1 << 31]},
            "n_context_entries must be",
        ),
        (
            {"context_depth": 2, "n_contexts": [3] * 3, "n_context_entries": [4] * 3, "vocabulary_size": 257},
            "at most 256 symbols",
        ),
    ],
)
def test_impossible_sizes_are_refused(fields: dict, message: str):
    with pytest.raises(InputError, match=message):
        DelayConfig(**{"vocabulary_size": K, **fields})


def test_rows_that_lead_outside_are_refused():
    model = model_with_contexts()
    model.contexts.line.first_child[5] = len(model.contexts.line.symbol) + 9
    with pytest.raises(ValueError, match="first_child must ascend"):
        model.check()


@torch.no_grad()
@pytest.mark.parametrize("recent", [False, True])
def test_growing_keeps_what_the_contexts_say(recent: bool):
    model = model_with_contexts(recent=recent)
    x = tokens(40)[None]
    before = model(x)
    add_tables(model, 2)
    assert torch.equal(model(x), before)
    old, new = Vocabulary(VOCABULARY), Vocabulary(b"\t" + VOCABULARY)
    extend_vocabulary(model, old, new)
    after = model(x + 1)  # every old byte has moved one up
    torch.testing.assert_close(after[..., 1:7].softmax(-1), before[..., :6].softmax(-1), atol=1e-5, rtol=1e-4)
    model.check()
