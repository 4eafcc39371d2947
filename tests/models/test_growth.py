import dataclasses

import pytest
import torch

from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.models import DelayConfig, DelayLM, RecurrentConfig, TransformerConfig, build
from polychron.models.growth import add_comparisons, add_tables, added_tables, extend_vocabulary
from polychron.optim import FrozenTables, attach

from .test_models import with_random_rows

DELAY = DelayConfig(vocabulary_size=7, n_neurons=8, n_layers=2, n_tables=3, n_comparisons=3, max_delay=3,
                    readout_n_tables=2, readout_n_comparisons=2)  # fmt: skip
CONFIGS = {
    "delay": DELAY,
    "bfloat16": dataclasses.replace(DELAY, table_type="bfloat16"),
    "transformer": TransformerConfig(vocabulary_size=7, context=8, n_neurons=8, n_layers=1, n_heads=2, n_tables=2,
                                     n_comparisons=2, n_position_bits=1),
    "recurrent": RecurrentConfig(vocabulary_size=7, n_neurons=8, n_tables=3, n_comparisons=3, readout_n_tables=2,
                                 readout_n_comparisons=2),
}  # fmt: skip
TOKENS = torch.randint(0, 7, (2, 8), generator=torch.manual_seed(0))


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def model(request):
    return with_random_rows(build(request.param, seed=1))


@pytest.mark.parametrize("grow", [add_tables, add_comparisons])
def test_a_grown_model_computes_the_same_and_can_be_built_from_its_configuration(model, grow):
    logits, nats = model(TOKENS), model.score(TOKENS[0])
    grow(model, 2, seed=3)
    assert torch.equal(model(TOKENS), logits)
    assert torch.equal(model.score(TOKENS[0]), nats)
    again = build(model.config, seed=9)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(TOKENS), logits)
    assert [p.dtype for p in again.parameters()] == [p.dtype for p in model.parameters()]
    assert model.n_parameters() == sum(p.numel() for p in model.parameters()) + model.embedding.latencies.numel()


def test_a_model_grown_in_the_middle_of_its_training_learns_on(model):
    optimizer = attach(model, "sgd", rate=0.02)
    targets = TOKENS.roll(-1, dims=1)
    first = model.train_step(TOKENS, targets)
    optimizer.step()
    optimizer.zero_grad()
    add_tables(model, 2)
    add_comparisons(model, 1)
    for _ in range(30):
        last = model.train_step(TOKENS, targets)
        optimizer.step()
        optimizer.zero_grad()
    assert last < 0.5 * first
    name, n = next(iter(added_tables(model, 2).items()))
    assert dict(model.named_modules())[name].synaptic_vectors[-n:].any()


def test_only_the_added_tables_train(model):
    n_before = {name: layer.n_tables for name, layer in model.named_modules() if hasattr(layer, "synaptic_vectors")}
    add_tables(model, 2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = FrozenTables(attach(model, "sgd", rate=0.02), model, n_before)
    for _ in range(3):
        model.train_step(TOKENS, TOKENS.roll(-1, dims=1))
        optimizer.step()
        optimizer.zero_grad()
    for name, p in model.named_parameters():
        n = n_before[name.rsplit(".", 1)[0]]
        assert torch.equal(p[:n], before[name][:n])
    assert model.readout.synaptic_vectors[n_before["readout"] :].any()


def test_freezing_refuses_what_is_not_there():
    model = build(CONFIGS["delay"])
    with pytest.raises(ValueError, match="got head: 1"):
        FrozenTables(attach(model), model, {"head": 1})
    with pytest.raises(ValueError, match=r"must name layers of tables .*; got embedding: 1"):
        FrozenTables(attach(model), model, {"embedding": 1})
    with pytest.raises(ValueError, match="got readout: 3"):
        FrozenTables(attach(model), model, {"readout": 3})
    with pytest.raises(ValueError, match="online_sgd"):
        FrozenTables(attach(model, "online_sgd"), model, {"readout": 1})


@pytest.mark.parametrize(("table_type", "atol"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_an_extended_vocabulary_costs_nothing_on_old_texts_and_the_same_on_new_bytes(table_type, atol):
    old, new = Vocabulary(b"bdefgh"), Vocabulary(b"abdeffgh".replace(b"ff", b"f") + b"x")
    config = dataclasses.replace(DELAY, vocabulary_size=old.size, table_type=table_type)
    model = with_random_rows(DelayLM(config, seed=1))
    text = b"badge dxfehab"

    def ids(vocabulary, part):
        return torch.from_numpy(vocabulary.encode(part).astype("int64"))

    known = bytes(byte for byte in text if byte in old.byte_values)
    expected = model.score(ids(old, known))
    unseen = model.score(ids(old, known + b"x"))[-1] + old.unseen_nats
    extend_vocabulary(model, old, new)
    assert model.config.vocabulary_size == new.size == model(ids(new, known)[None]).shape[2]
    near = {"rtol": 1e-5, "atol": atol}
    torch.testing.assert_close(model.score(ids(new, known)), expected, **near)
    torch.testing.assert_close(model.score(ids(new, known + b"x"))[-1], unseen, **near)
    torch.testing.assert_close(model.score(ids(new, known + b"!"))[-1] + new.unseen_nats, unseen, **near)
    assert str(model.readout.synaptic_vectors.dtype) == f"torch.{table_type}"
    model.check()


def test_a_vocabulary_grows_while_an_earlier_loss_is_alive():
    old, new = Vocabulary(b"bdefgh"), Vocabulary(b"abdefgh")
    model = with_random_rows(DelayLM(DELAY, seed=1))
    before = model.loss(TOKENS, TOKENS)
    extend_vocabulary(model, old, new)
    model.loss(TOKENS, TOKENS).backward()
    assert model.readout.synaptic_vectors.grad.shape[2] == new.size
    assert before.grad_fn is not None


def test_a_vocabulary_of_all_bytes_leaves_nothing_unseen():
    old, new = Vocabulary(b"ab"), Vocabulary(bytes(range(256)))
    model = with_random_rows(DelayLM(dataclasses.replace(CONFIGS["delay"], vocabulary_size=3), seed=1))
    nats = model.score(torch.tensor([0, 1, 2]))
    extend_vocabulary(model, old, new)
    grown = model.score(torch.tensor([97, 98, 7]))
    torch.testing.assert_close(grown, torch.stack([nats[0], nats[1] + old.unseen_nats]))
    with pytest.raises(InputError, match="lacks b'ab'"):
        extend_vocabulary(model, old, Vocabulary(b"c"))


def test_impossible_growth_is_refused(model):
    for grow in (add_tables, add_comparisons):
        with pytest.raises(InputError, match="n must be at least 1"):
            grow(model, 0)
        with pytest.raises(InputError):
            grow(model, 1 << 20)
