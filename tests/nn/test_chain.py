"""A chain must be the layers it is made of: the same bits in tables, states, codes and losses."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from polychron import models, optim
from polychron.nn import Chain, LookupTables, PairAttention, Readout, RecurrentTables, VariantTables
from polychron.nn.chain import can_chain
from polychron.ops import RowUpdate, dispatch

from ..ops.cases import using_threads

pytestmark = pytest.mark.skipif(dispatch.native is None, reason="the extension is not built")

DELAY = models.DelayConfig(
    vocabulary_size=19, n_neurons=12, n_layers=2, n_tables=7, n_comparisons=5, max_delay=5, readout_n_tables=3,
    readout_n_comparisons=6, readout_max_delay=2,
)  # fmt: skip
TRANSFORMER = {
    "vocabulary_size": 19, "n_neurons": 12, "context": 9, "n_layers": 2, "n_heads": 2, "n_tables": 3,
    "n_comparisons": 3, "n_position_bits": 2,
}  # fmt: skip
CONFIGS = {
    "delay": DELAY,
    "delayed readout alone": models.DelayConfig(
        vocabulary_size=19, n_neurons=12, n_layers=0, readout_n_tables=5, readout_n_comparisons=6, readout_max_delay=60
    ),
    "transformer": models.TransformerConfig(**TRANSFORMER),
    "separate keys": models.TransformerConfig(
        **TRANSFORMER, share_anchors=False, position_gradient="nearest", window=4
    ),
    "attention only": models.TransformerConfig(**TRANSFORMER, ffn=None),
    "delay, bfloat16": dataclasses.replace(DELAY, table_type="bfloat16"),
    "transformer, bfloat16": models.TransformerConfig(**TRANSFORMER, table_type="bfloat16"),
}


def trained(config, kind, n_threads, *, chained, n_sequences=6, n_steps=4, **options):
    """State after a few steps, and the losses."""
    model = models.build(config, seed=3)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("synaptic_vectors"):
            parameter.data.copy_(torch.randn(parameter.shape))
    optimizer = optim.attach(model, kind, rate=0.05, **options)
    losses = []
    with using_threads(n_threads):
        for _ in range(n_steps):
            tokens, targets = torch.randint(19, (2, n_sequences, 9))
            optimizer.zero_grad()
            if chained:
                losses.append(model.train_step(tokens, targets))
            else:
                loss = model.loss(tokens, targets)
                loss.backward()
                losses.append(loss.item())
            optimizer.step()
    assert bool(model._chains) == (chained and n_steps > 0)
    return model, {**model.state_dict(), **optimizer.state_dict()}, losses


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize(
    ("kind", "options"),
    [("sgd", {}), ("sgd", {"visit_cap": 3}), ("adagrad", {}), ("adam", {"betas": (0.8, 0.9)}), ("online_sgd", {})],
    ids=["sgd", "capped", "adagrad", "adam", "online"],
)  # fmt: skip
def test_a_step_gives_the_bits_of_autograd(config, kind, options):
    if kind == "online_sgd" and config.table_type == "bfloat16":
        with pytest.raises(ValueError, match="tables must be float32"):
            trained(config, kind, 1, chained=True)
        return
    _, expected, losses = trained(config, kind, 1, chained=False, **options)
    for n_threads, n_sequences in ((1, 6), (2, 6), (3, 6)):
        _, state, chained = trained(config, kind, n_threads, chained=True, n_sequences=n_sequences, **options)
        assert state.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(state[name], tensor), name
        assert chained == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_fewer_sequences_than_threads(config):
    model, _, _ = trained(config, "sgd", 3, chained=True, n_sequences=1, n_steps=1)
    tokens, targets = torch.randint(19, (2, 1, 9 if config.kind == "transformer" else 900))
    expected = model.readout.loss(model.latencies(tokens), targets)
    for _ in range(20):  # a race shows now and then, when the memory holds another text's latencies
        with using_threads(3):
            model.nats(targets, tokens)
            assert torch.equal(model.nats(tokens, targets), expected)

    _, expected, _ = trained(config, "sgd", 1, chained=False, n_sequences=1)
    _, state, _ = trained(config, "sgd", 3, chained=True, n_sequences=1)
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("n_sequences", [1, 5])
def test_scores_are_the_losses(config, n_sequences):
    model, _, _ = trained(config, "sgd", 2, chained=True)
    tokens, targets = torch.randint(19, (2, n_sequences, 9))
    expected = model.readout.loss(model.latencies(tokens), targets)
    for n_threads in (1, 2, 3):
        with using_threads(n_threads):
            assert torch.equal(model.nats(tokens, targets), expected)
    tables = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.nats(tokens, targets)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tables[name])


def test_a_larger_batch_after_a_smaller_one():
    model, _, _ = trained(DELAY, "sgd", 2, chained=True)
    for shape in ((1, 1), (9, 30), (2, 4), (0, 4), (3, 0)):
        tokens, targets = torch.randint(19, (2, *shape))
        assert torch.equal(model.nats(tokens, targets), model.readout.loss(model.latencies(tokens), targets))
    assert model.train_step(*torch.zeros(2, 0, 4, dtype=torch.int64)) == 0


def test_a_replaced_parameter_is_noticed():
    model, _, _ = trained(DELAY, "sgd", 1, chained=True)
    tokens, targets = torch.randint(19, (2, 2, 9))
    before = model.nats(tokens, targets)
    model.readout.synaptic_vectors.data = torch.randn_like(model.readout.synaptic_vectors)
    after = model.nats(tokens, targets)
    assert not torch.equal(before, after)
    assert torch.equal(after, model.readout.loss(model.latencies(tokens), targets))


def test_anchors_and_delays_that_changed_are_read_again():
    model, _, _ = trained(DELAY, "sgd", 1, chained=True)
    other = models.build(DELAY, seed=4)
    tokens, targets = torch.randint(19, (2, 2, 9))
    model.nats(tokens, targets)
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in other.state_dict().items() if "anchors" in k}})
    assert torch.equal(model.nats(tokens, targets), model.readout.loss(model.latencies(tokens), targets))
    model.layers[0].delays.zero_()
    assert torch.equal(model.nats(tokens, targets), model.readout.loss(model.latencies(tokens), targets))
    twin = copy.deepcopy(model)
    model.train_step(tokens, targets)
    twin.loss(tokens, targets).backward()
    for name, tensor in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    model.readout.anchors[0, 0, 0] = 12
    for step in (model.nats, model.train_step):
        with pytest.raises(ValueError, match="anchors must lie in"):
            step(tokens, targets)


def test_anchors_that_do_not_say_when_they_change():
    with torch.inference_mode():
        model = models.build(DELAY, seed=3)
        model.readout.synaptic_vectors.normal_()
        tokens, targets = torch.randint(19, (2, 2, 9))
        before = model.nats(tokens, targets)
        model.readout.anchors.copy_(model.readout.anchors.flip(0))
        after = model.nats(tokens, targets)
        assert not torch.equal(before, after)
        assert torch.equal(after, model.readout.loss(model.latencies(tokens), targets))


def test_a_copy_trains_itself():
    model, _, _ = trained(DELAY, "sgd", 1, chained=True)
    twin = copy.deepcopy(model)
    tokens, targets = torch.randint(19, (2, 2, 9))
    before = model.readout.synaptic_vectors.clone()
    twin.train_step(tokens, targets)
    assert torch.equal(model.readout.synaptic_vectors, before)
    assert not torch.equal(twin.readout.synaptic_vectors, before)


def test_what_cannot_be_chained_goes_through_autograd():
    model, _, _ = trained(DELAY, "sgd", 1, chained=True)
    embedding, layers = model.embedding.latencies, model.layers_in_order()
    assert can_chain(embedding, layers, trains=True)
    with dispatch.use_kernel("reference"):
        assert not can_chain(embedding, layers, trains=False)
    model.layers[0].use_gradient("dense")
    assert not can_chain(embedding, layers, trains=True)
    assert can_chain(embedding, layers, trains=False)
    tokens, targets = torch.randint(19, (2, 2, 9))
    model.train_step(tokens, targets)
    assert model.layers[0].synaptic_vectors.grad is not None
    assert not can_chain(embedding.double(), layers, trains=False)


def test_layers_of_which_only_some_are_fused_are_no_chain_to_train():
    layers = [LookupTables(8, 8, 2, 3), Readout(8, 5, 2, 3)]
    layers[0].use_gradient("fused", RowUpdate())
    assert not can_chain(torch.randn(5, 8), layers, trains=True)
    assert can_chain(torch.randn(5, 8), layers, trains=False)


def with_anchors(layer, neuron):
    layer.anchors.fill_(neuron)
    return layer


def uneven(layer):
    layer.synaptic_vectors.data = layer.synaptic_vectors.data.transpose(0, 1).contiguous().transpose(0, 1)
    return layer


class OwnReadout(Readout):
    pass


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: [], "end in a Readout; got none"),
        (lambda: [OwnReadout(8, 5, 2, 3)], "end in a Readout; got OwnReadout"),
        (lambda: [RecurrentTables(8, 2, 3), Readout(8, 5, 2, 3)], "then a Readout; got RecurrentTables at 0"),
        (lambda: [VariantTables(8, 8, 2, 3), Readout(8, 5, 2, 3)], "then a Readout; got VariantTables at 0"),
        (lambda: [Readout(9, 5, 2, 3)], r"n_inputs = 9 at 0 and an embedding of shape \(5, 8\)"),
        (lambda: [uneven(LookupTables(8, 8, 2, 3)), Readout(8, 5, 2, 3)], "evenly spaced rows"),
        (lambda: [LookupTables(8, 8, 2, 3)], "end in a Readout"),
        (lambda: [LookupTables(8, 6, 2, 3), Readout(8, 5, 2, 3)], "as many outputs as there are neurons, 8; got 6"),
        (lambda: [with_anchors(Readout(8, 5, 2, 3), 8)], "anchors must lie in"),
        (lambda: [PairAttention(8, 6, 2, 2, 1, 3), Readout(8, 5, 2, 3)], "attention must give"),
    ],
)
def test_layers_that_do_not_fit(build, match):
    with pytest.raises(ValueError, match=match):
        Chain(torch.randn(5, 8), build(), trains=False)


@pytest.mark.parametrize(
    ("gradient", "other"),
    [("dense", None), ("fused", RowUpdate(rate=0.5)), ("fused", RowUpdate("adagrad")), ("frozen", None)],
)
def test_layers_that_cannot_be_trained_together(gradient, other):
    layers = [LookupTables(8, 8, 2, 3), Readout(8, 5, 2, 3)]
    update = RowUpdate(rate=0.5)
    for layer in layers:
        layer.use_gradient("fused", update)
    Chain(torch.randn(5, 8), layers, trains=True)
    if gradient == "frozen":
        layers[0].synaptic_vectors.requires_grad_(False)
    else:
        layers[0].use_gradient(gradient, other)
    Chain(torch.randn(5, 8), layers, trains=False)
    with pytest.raises(ValueError, match="share kind, rate, epsilon, betas and cap"):
        Chain(torch.randn(5, 8), layers, trains=True)


@pytest.mark.parametrize(
    ("tokens", "targets", "match"),
    [
        ([[0, 5]], [[0, 0]], r"tokens must lie in \[0, 5\); got 5"),
        ([[0, -1]], [[0, 0]], "got -1"),
        ([[0, 0]], [[0, 7]], r"targets must lie in \[0, 7\); got 7"),
        ([[0, 0]], [[0]], r"targets must have shape \(1, 2\)"),
    ],
)
def test_ids_out_of_range(tokens, targets, match):
    chain = Chain(torch.randn(5, 8), [Readout(8, 7, 2, 3)], trains=False)
    with pytest.raises(ValueError, match=match):
        chain.score(torch.tensor(tokens), torch.tensor(targets))


def test_a_window_beyond_the_position_code():
    layers = [PairAttention(8, 8, 2, 2, 1, 3, residual=True), Readout(8, 7, 2, 3)]
    chain = Chain(torch.randn(5, 8), layers, trains=False)
    chain.score(*torch.zeros(2, 1, 50, dtype=torch.int64))
    model = models.build(CONFIGS["transformer"], seed=0)
    model.layers[0].attention.window = 20
    with pytest.raises(ValueError, match="distances"):
        model.nats(*torch.zeros(2, 1, 50, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam", "online_sgd"])
def test_a_step_that_leaves_tables_out(kind):
    """Table by table through autograd is the definition; tables left out stay as they are."""
    before, _, _ = trained(DELAY, kind, 1, chained=True, n_steps=0)
    _, expected, losses = trained(DELAY, kind, 1, chained=False, n_steps=1, drop=0.4)
    for n_threads in (1, 2):
        two, state, chained = trained(DELAY, kind, n_threads, chained=True, n_steps=1, drop=0.4)
        for name, tensor in expected.items():
            torch.testing.assert_close(
                state[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
            )
        assert chained == pytest.approx(losses, rel=1e-5)
    old, new = before.layers[0].synaptic_vectors, two.layers[0].synaptic_vectors
    assert int((old != new).flatten(1).any(dim=1).sum()) == 4  # round(0.6 * 7)
    tokens, targets = torch.randint(19, (2, 2, 9))
    two.eval()
    assert torch.equal(two.nats(tokens, targets), two.readout.loss(two.latencies(tokens), targets))


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam", "online_sgd"])
@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_a_step_of_one_member(kind, drop):
    """Table by table through autograd is the definition; the other members' rows stay as they are."""
    config = dataclasses.replace(DELAY, readout_n_tables=6)
    before, _, _ = trained(config, kind, 1, chained=True, n_steps=0)
    _, expected, losses = trained(config, kind, 1, chained=False, n_steps=1, drop=drop, members=2)
    for n_threads in (1, 2):
        model, state, chained = trained(config, kind, n_threads, chained=True, n_steps=1, drop=drop, members=2)
        for name, tensor in expected.items():
            torch.testing.assert_close(
                state[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
            )
        assert chained == pytest.approx(losses, rel=1e-5)
    old, new = before.readout.synaptic_vectors, model.readout.synaptic_vectors
    changed = (old != new).flatten(1).any(dim=1)
    assert int(changed.sum()) == (3 if drop == 0 else 2)
    assert bool(changed[:3].any()) != bool(changed[3:].any())


def test_a_member_learns_as_it_would_alone():
    """Members of a mean of two hold twice what they hold alone: the same losses, the same latencies before them."""
    config = dataclasses.replace(DELAY, n_layers=0, readout_n_tables=6)
    model = models.build(config, seed=0)
    optim.attach(model, "sgd", rate=0.05, members=2, visit_cap=3)
    readout = model.readout
    alone = []
    for member in range(2):
        half = models.build(dataclasses.replace(config, readout_n_tables=3), seed=0)
        some = slice(3 * member, 3 * member + 3)
        half.readout.anchors.copy_(readout.anchors[some])
        half.readout.delays.copy_(readout.delays[some])
        optim.attach(half, "sgd", rate=0.05, visit_cap=3)
        alone.append(half)
    torch.manual_seed(0)
    drawn = []
    for _ in range(6):
        tokens, targets = torch.randint(19, (2, 3, 9))
        before = readout.synaptic_vectors.clone()
        loss = model.train_step(tokens, targets)
        member = int((before != readout.synaptic_vectors)[3:].any())
        drawn.append(member)
        assert alone[member].train_step(tokens, targets) == pytest.approx(loss, rel=1e-6)
    assert set(drawn) == {0, 1}
    for member, half in enumerate(alone):
        torch.testing.assert_close(
            2 * readout.synaptic_vectors[3 * member : 3 * member + 3], half.readout.synaptic_vectors
        )
    mean = (alone[0](tokens) + alone[1](tokens)) / 2
    torch.testing.assert_close(model.eval()(tokens), mean)


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
def test_a_readout_of_another_rate(kind):
    """A tenth of the rate for the readout alone, by the chain and by autograd."""
    _, usual, _ = trained(DELAY, kind, 1, chained=True, n_steps=1)
    before, _, _ = trained(DELAY, kind, 1, chained=True, n_steps=0)
    for chained in (True, False):
        _, state, _ = trained(DELAY, kind, 1, chained=chained, n_steps=1, readout_rate=0.1)
        name, start = "readout.synaptic_vectors", before.readout.synaptic_vectors
        torch.testing.assert_close(state[name] - start, 0.1 * (usual[name] - start), rtol=1e-3, atol=1e-6)
        hidden = "layers.0.synaptic_vectors"
        assert torch.equal(state[hidden], usual[hidden])


def test_members_that_cannot_share_the_tables():
    model = models.build(dataclasses.replace(DELAY, readout_n_tables=6))
    with pytest.raises(ValueError, match="members must divide the readout's 6 tables evenly; got 4"):
        optim.attach(model, members=4)


def test_steps_with_and_without_tables_left_out_alternate():
    model, _, _ = trained(DELAY, "sgd", 2, chained=True, drop=0.5)
    optim.attach(model, "sgd", rate=0.05)
    tokens, targets = torch.randint(19, (2, 2, 9))
    twin = copy.deepcopy(model)
    model.train_step(tokens, targets)
    twin.loss(tokens, targets).backward()
    for name, tensor in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
