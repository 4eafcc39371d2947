from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from polychron.analysis import DenseLayer
from polychron.errors import InputError
from polychron.twins import ATTENTION_ONLY, PUBLISHED, RECIPES
from polychron.twins.cost import FLOAT
from polychron.twins.gru import Streams
from polychron.twins.training import Settings, nats_per_byte, one_step, prepare, schedule, train
from polychron.twins.window_mlp import WindowBatches


def unigram_entropy(tokens: np.ndarray) -> float:
    p = np.bincount(tokens) / tokens.size
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def test_each_twin_learns_more_than_letter_frequencies(recipe, split):
    twin, batches, optimizer, loss_of = prepare(recipe, Settings(1e-2), split, seed=0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    before = nats_per_byte(twin, split.held_out, split)
    for step in range(150):
        one_step(twin, optimizer, loss_of, batches.batch(step))
    after = nats_per_byte(twin, split.held_out, split)
    assert before > unigram_entropy(split.held_out)
    assert after < 0.6 * unigram_entropy(split.held_out)


def test_a_timed_run_counts_what_it_did(recipe, split, monkeypatch):
    monkeypatch.setattr("polychron.twins.training.LOOKS", (0.05, 0.1, 0.15))
    trained = train(recipe, Settings(1e-2), split, seconds=0.2, seed=1)
    batches = recipe.build(split.vocabulary.size, 0.0).batches(split.training, recipe.batch, seed=1)
    assert trained.trained_bytes == trained.steps * batches.bytes_per_batch
    assert 0.2 <= trained.seconds < 2
    assert trained.scored_bytes == split.held_out.size - 1
    assert trained.nats_per_byte == nats_per_byte(trained.twin, split.held_out, split)
    seconds = [point[0] for point in trained.curve]
    assert seconds == sorted(seconds)
    assert 1 <= len(seconds) <= 3
    assert seconds[0] >= 0.05


def test_a_seed_decides_the_first_step(recipe, split):
    losses = []
    for seed in (3, 3, 4):
        twin, batches, optimizer, loss_of = prepare(recipe, Settings(1e-2), split, seed)
        losses.append(one_step(twin, optimizer, loss_of, batches.batch(0)))
    assert losses[0] == losses[1] != losses[2]


def test_warming_up_leaves_nothing_behind(recipe, split):
    torch.manual_seed(5)
    fresh = recipe.build(split.vocabulary.size, 0.0)
    twin, *_ = prepare(recipe, Settings(1e-2), split, seed=5)
    for a, b in zip(fresh.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
        assert b.grad is None
    assert getattr(twin, "_state", None) is None


def test_a_run_that_diverges_says_so(recipe, split):
    with pytest.raises(InputError, match=f"{recipe.name} diverged at step .*lower rate than"):
        train(recipe, Settings(float("inf")), split, seconds=5, seed=0, look=False)


def test_nothing_looks_ahead(recipe):
    torch.manual_seed(0)
    twin = recipe.build(13, 0.0).eval()
    tokens = torch.randint(13, (40,))
    changed = tokens.clone()
    changed[30:] = (changed[30:] + 1) % 13
    assert torch.equal(twin.score(tokens)[:29], twin.score(changed)[:29])


def test_an_unseen_byte_also_pays_for_its_name(recipe, split):
    twin, *_ = prepare(recipe, Settings(1e-2), split, seed=0)
    tokens = split.held_out[:40].copy()
    tokens[[0, 20]] = split.vocabulary.unseen_id  # the first is not scored
    ids = torch.from_numpy(tokens.astype(np.int64))
    expected = (twin.eval().score(ids).sum(dtype=torch.float64).item() + split.vocabulary.unseen_nats) / 39
    assert nats_per_byte(twin, tokens, split) == pytest.approx(expected, rel=1e-12)


def test_the_rate_rises_then_falls_to_zero():
    rates = [schedule(progress / 100) for progress in range(101)]
    assert rates.index(max(rates)) == 5
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_streams_go_on_where_they_ended():
    tokens = np.arange(200, dtype=np.uint8)
    streams = Streams(tokens, length=7, batch=4, seed=3)
    assert streams.bytes_per_batch == 28
    last = None
    for step in range(40):
        x, y = streams.batch(step)
        assert torch.equal(y, (x + 1) % 200)
        if last is not None:
            assert torch.equal(x[:, 0], last)
        last = y[:, -1]


def test_windows_of_the_perceptron_predict_only_bytes_with_all_their_context():
    batches = WindowBatches(np.arange(250, dtype=np.uint8), context=5, length=8, batch=3, seed=0)
    tokens, targets = batches.batch(0)
    assert tokens.shape == (3, 12)
    assert targets.shape == (3, 8)
    assert torch.equal(targets, tokens[:, 4:] + 1)
    assert batches.bytes_per_batch == 24


@pytest.mark.parametrize("name", [*RECIPES, ATTENTION_ONLY.name, PUBLISHED.name])
def test_counted_operations_hold_the_products_that_torch_counts(name: str):
    torch.manual_seed(0)
    further = {recipe.name: recipe for recipe in (ATTENTION_ONLY, PUBLISHED)}
    twin = {**RECIPES, **further}[name].build(83, 0.0).eval()
    n_parameters = twin.n_parameters()
    cost = twin.reading_cost()
    assert cost.bytes >= FLOAT * (n_parameters - 83 * 64)  # of GRU and perceptron one row of the embedding is read
    if name == "gru":  # torch's counter does not know the operator
        products = 2 * sum(p.numel() for n, p in twin.named_parameters() if "weight" in n and "embedding" not in n)
        context_products = 0
    else:
        n_tokens = twin.size.window if name.startswith("transformer") else twin.context
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            twin(torch.zeros(1, n_tokens, dtype=torch.int64))
        by_operator = counter.get_flop_counts()["Global"]
        products = sum(count for operator, count in by_operator.items() if "attention" not in str(operator))
        products /= n_tokens if name.startswith("transformer") else 1
        context_products = cost.operations - twin._cost(0).operations if name.startswith("transformer") else 0
    rest = cost.operations - context_products - products
    assert 0 < rest < 0.07 * products


def test_attention_only_is_the_same_transformer_without_its_perceptrons():
    torch.manual_seed(0)
    whole, alone = RECIPES["transformer-small"].build(83, 0.0).eval(), ATTENTION_ONLY.build(83, 0.0).eval()
    of_perceptrons = [name for name in whole.state_dict() if "perceptron" in name or ".up." in name or "down" in name]
    assert len(of_perceptrons) == 2 * 3
    alone.load_state_dict({name: x for name, x in whole.state_dict().items() if name not in of_perceptrons})
    tokens = torch.arange(20)[None]
    assert not torch.equal(whole(tokens), alone(tokens))
    with torch.no_grad():
        for block in whole.blocks:
            block.down.weight.zero_()
    assert torch.equal(whole(tokens), alone(tokens))
    assert whole.n_parameters() - alone.n_parameters() == 2 * (2 * 4 * 64 * 64 + 64)


def test_the_published_transformer_is_of_the_published_sizes():
    twin = PUBLISHED.build(256, 0.0)
    assert len(twin.blocks) == 6
    assert {block.n_heads for block in twin.blocks} == {8}
    assert twin.blocks[0].down.weight.shape == (512, 2048)
    assert twin.cosine.shape == (32, 64 // 2)
    matrices = [p for p in twin.blocks.parameters() if p.dim() == 2]
    assert sum(p.numel() for p in matrices) == 6 * DenseLayer().synapses
    assert PUBLISHED.name not in RECIPES


def test_attention_costs_more_with_context():
    twin = RECIPES["transformer-small"].build(83, 0.0)
    reading, training = twin.reading_cost(), twin.training_forward_cost()
    assert reading.operations > training.operations
    assert reading.bytes > training.bytes


def test_dropout_is_part_of_the_recipe():
    for recipe in RECIPES.values():
        rates = {module.p for module in recipe.build(50, 0.25).modules() if isinstance(module, torch.nn.Dropout)}
        assert rates == {0.25}
        assert dataclasses.replace(recipe, rate=1.0).rate == 1.0
