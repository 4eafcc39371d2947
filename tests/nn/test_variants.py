"""The layers of variants beside the native ones: with two bins the hash is the order, so that all must agree."""

import copy
import math
import pickle

import pytest
import torch

from polychron.nn import (
    LookupTables,
    PairAttention,
    RecurrentTables,
    VariantAttention,
    VariantReadout,
    VariantRecurrentTables,
    VariantTables,
)
from polychron.nn.variant_tables import with_delays
from polychron.ops import RowUpdate
from polychron.optim import attach

TWO_BINS = {"hash": "bins", "n_bins": 2}


def fill(*layers):
    """The same whole numbers into all: sums of them are exact, ties frequent."""
    for layer in layers:
        rows = torch.randint(-4, 5, layer.synaptic_vectors.shape, generator=torch.manual_seed(1)).float()
        layer.synaptic_vectors.data.copy_(rows)


def run(layer, x, *arguments):
    """Output, gradients in x and the tables, of v that differs everywhere."""
    x = x.clone().requires_grad_()
    y = layer(x, *arguments)
    y.backward(torch.arange(y.numel()).view_as(y).float() % 7 - 3)
    return y.detach(), x.grad, layer.synaptic_vectors.grad


def whole(*shape):
    return torch.randint(-3, 4, shape, generator=torch.manual_seed(0)).float()


@pytest.mark.parametrize("history", [None, 2, 5])
def test_delays_and_history_are_those_of_the_native_layer(history):
    sizes = (6, 6, 5, 4, 3)
    native, variant = LookupTables(*sizes, residual=True, seed=2), VariantTables(*sizes, residual=True, seed=2,
                                                                                 **TWO_BINS)  # fmt: skip
    fill(native, variant)
    before = None if history is None else whole(2, history, 6)
    for a, b in zip(run(native, whole(2, 7, 6), before), run(variant, whole(2, 7, 6), before), strict=True):
        torch.testing.assert_close(a, b)


def test_a_delayed_hyperplane_starts_as_the_delayed_order():
    sizes = (6, 3, 5, 4, 3)
    native, variant = LookupTables(*sizes, seed=2), VariantTables(*sizes, seed=2, hash="hyperplane")
    fill(native, variant)
    for a, b in zip(run(native, whole(2, 7, 6)), run(variant, whole(2, 7, 6)), strict=True):
        torch.testing.assert_close(a, b)
    assert variant.directions.grad.any()


def test_delay_zero_comes_first_and_silence_before_the_start():
    x = torch.arange(1.0, 7).view(1, 3, 2)
    expected = [[1, 2, 0, 0, 0, 0], [3, 4, 1, 2, 0, 0], [5, 6, 3, 4, 1, 2]]
    assert with_delays(x, None, 2).tolist() == expected
    assert with_delays(x, torch.tensor([[[8.0, 9.0]]]), 2)[0].tolist() == [1, 2, 8, 9, 0, 0]


@pytest.mark.parametrize("truncation", [None, 3])
def test_the_recurrent_layer_is_the_native_one(truncation):
    native = RecurrentTables(6, 5, 4, truncation=truncation, seed=2)
    variant = VariantRecurrentTables(6, 5, 4, truncation=truncation, seed=2, **TWO_BINS)
    fill(native, variant)
    for a, b in zip(run(native, whole(2, 8, 6), whole(2, 6)), run(variant, whole(2, 8, 6), whole(2, 6)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("share_anchors", [True, False])
@pytest.mark.parametrize("position_gradient", ["additional", "nearest"])
def test_attention_is_the_native_one(share_anchors, position_gradient):
    options = {
        "share_anchors": share_anchors, "position_gradient": position_gradient, "residual": True, "seed": 2,
    }  # fmt: skip
    native = PairAttention(6, 6, 4, 3, 2, 4, **options)
    variant = VariantAttention(6, 6, 4, 3, 2, 4, reading="hard", gradient="nearest", bin_width=1.0, temperature=1.0,
                               **TWO_BINS, **options)  # fmt: skip
    fill(native, variant)
    x = torch.randn(2, 8, 6, generator=torch.manual_seed(3))
    for a, b in zip(run(native, x), run(variant, x), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(native.position_code.grad, variant.position_code.grad)


def test_attention_extends_what_came_before():
    head = VariantAttention(6, 6, 4, 3, 2, 3, reading="confidence", gradient="nearest", bin_width=1.0, temperature=1.0)
    torch.nn.init.normal_(head.synaptic_vectors)
    x = torch.randn(2, 9, 6)
    y, past, parts = head(x), None, []
    for piece in x.split([1, 5, 3], dim=1):
        part, past = head.extend(piece, past)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), y)
    assert past.shape == (2, 3, 6)


@pytest.mark.parametrize("update", [{"kind": "sgd", "visit_cap": 3}, {"kind": "sgd"}, {"kind": "adagrad"},
                                    {"kind": "adam"}],
                         ids=["cap", "plain", "adagrad", "adam"])  # fmt: skip
@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_rows_change_as_the_native_ones_do(update, drop):
    sizes = (6, 6, 5, 2, 2)
    native, variant = LookupTables(*sizes, seed=2), VariantTables(*sizes, seed=2, **TWO_BINS)
    fill(native, variant)
    for layer in (native, variant):
        layer.use_gradient("fused", RowUpdate(rate=0.1, drop=drop, **update))
        for step in range(3):
            torch.manual_seed(step)
            *_, dS = run(layer, whole(2, 7, 6))
            assert dS is None
    torch.testing.assert_close(native.synaptic_vectors, variant.synaptic_vectors)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_learns_as_its_original(copied):
    layer = VariantTables(6, 3, 5, 2, reading="confidence")
    fill(layer)
    layer.use_gradient("fused", RowUpdate("sgd", rate=0.5, visit_cap=2))
    x = torch.randn(10, 6)
    layer(x).sum().backward()
    before = layer.synaptic_vectors.detach().clone()
    twin = copied(layer)
    for one in (layer, twin):
        one(x).square().sum().backward()
        assert one.synaptic_vectors.grad is None
    assert not torch.equal(twin.synaptic_vectors, before)
    assert torch.equal(twin.synaptic_vectors, layer.synaptic_vectors)


def test_tables_that_were_frozen_for_a_while_learn_as_if_they_had_not_been_read():
    layers = [VariantTables(6, 3, 5, 2, reading="confidence") for _ in range(2)]
    x = torch.randn(10, 6)
    for layer in layers:
        fill(layer)
        layer.use_gradient("fused", RowUpdate("sgd", rate=0.5, visit_cap=2))
    layers[0].synaptic_vectors.requires_grad_(False)
    layers[0](x).sum().backward()
    layers[0].synaptic_vectors.requires_grad_(True)
    for layer in layers:
        layer(x).sum().backward()
    assert torch.equal(layers[0].synaptic_vectors, layers[1].synaptic_vectors)


@pytest.mark.parametrize("kind", ["sgd", "adagrad"])
def test_what_was_counted_in_inference_mode_learns_later(kind):
    layers = [VariantTables(6, 3, 5, 2, reading="confidence") for _ in range(2)]
    fill(*layers)
    x = torch.randn(10, 6)
    for layer in layers:
        layer.use_gradient("fused", RowUpdate(kind, rate=0.5))
    with torch.inference_mode():
        layers[0](x)
    for layer in layers:
        layer(x).sum().backward()
    assert torch.equal(layers[0].synaptic_vectors, layers[1].synaptic_vectors)


def test_tables_that_a_checkpoint_brings_learn():
    layers = [VariantTables(6, 3, 5, 2, reading="soft") for _ in range(2)]
    fill(*layers)
    x = torch.randn(10, 6)
    for layer in layers:
        layer.use_gradient("fused", RowUpdate("sgd", rate=0.5, visit_cap=2))
        layer(x).sum().backward()
    old = layers[0].synaptic_vectors
    layers[0].load_state_dict({name: value.clone() for name, value in layers[0].state_dict().items()}, assign=True)
    assert layers[0].synaptic_vectors is not old
    for layer in layers:
        layer(x).sum().backward()
        assert layer.synaptic_vectors.grad is None
    assert torch.equal(layers[0].synaptic_vectors, layers[1].synaptic_vectors)


@pytest.mark.parametrize("reading", ["hard", "soft", "confidence"])
def test_a_gradient_of_the_latencies_alone_counts_no_reading(reading):
    layers = [VariantTables(6, 3, 5, 2, reading=reading) for _ in range(2)]
    fill(*layers)
    x = torch.randn(10, 6, requires_grad=True)
    for layer in layers:
        layer.use_gradient("fused", RowUpdate("sgd", rate=0.5, visit_cap=2))
    (alone,) = torch.autograd.grad(layers[0](x).sum(), x)
    for layer in layers:
        x.grad = None
        layer(x).sum().backward()
    torch.testing.assert_close(alone, x.grad)
    assert torch.equal(layers[0].synaptic_vectors, layers[1].synaptic_vectors)


def test_a_target_that_is_no_class_is_refused():
    readout = VariantReadout(6, 3, 5, 2)
    for wrong in (-100, 3):
        with pytest.raises(ValueError, match=rf"targets must lie in \[0, n_outputs = 3\); got {wrong}"):
            readout.loss(torch.randn(1, 2, 6), torch.tensor([[0, wrong]]))


def test_what_a_step_counts_is_where_the_tables_are():
    layer = VariantTables(6, 3, 5, 2, reading="confidence")
    layer.use_gradient("fused", RowUpdate("sgd", rate=0.5))
    for device in ("cpu", "meta"):
        layer.to(device)(torch.randn(4, 6, device=device))
        assert {layer._visits.device.type, layer._squares.device.type} == {device}


def test_a_row_that_many_positions_mix_is_capped_by_all_of_them():
    layer = VariantReadout(2, 3, 1, 1, reading="soft")
    layer.use_gradient("fused", RowUpdate("sgd", rate=1.0, visit_cap=2))
    x = torch.tensor([[[1.0, 0.0]] * 4])
    layer(x).backward(torch.ones(1, 4, 3))
    torch.testing.assert_close(layer.synaptic_vectors.abs().sum(dim=1)[0], torch.full((3,), 2.0))  # 4 halved, two rows


@pytest.mark.parametrize("cap", [None, 3])
def test_a_confident_row_moves_by_its_gradient_over_the_mean_square_of_its_weights(cap):
    """Beside a transcription: each row by the larger of its own mean and the layer's; beta and gamma by 1 / tables."""
    x = 3 * torch.randn(10, 6, generator=torch.manual_seed(2))
    v = torch.randn(10, 3, generator=torch.manual_seed(3))
    layers = [VariantTables(6, 3, 5, 2, reading="confidence", seed=1) for _ in range(2)]
    fill(*layers)
    dense, fused = layers
    fused.use_gradient("fused", RowUpdate("sgd", rate=0.5, visit_cap=cap))
    for layer in layers:
        layer(x).backward(v)
    share = (1 if cap is None else cap / 10) / 5
    torch.testing.assert_close(fused.beta.grad, dense.beta.grad * share)
    torch.testing.assert_close(fused.gamma.grad, dense.gamma.grad * share)
    weights = [[[] for _ in range(4)] for _ in range(5)]
    for latencies in x.tolist():
        for i, pairs in enumerate(dense.anchors.tolist()):
            u = [latencies[a] - latencies[b] for a, b in pairs]
            row = sum((u[r] > 0) << r for r in range(2))
            s = sum(map(abs, u)) * math.prod(1 / (1 + math.exp(-2 * abs(one))) for one in u)
            r = min(range(2), key=lambda r, u=u: abs(u[r]))
            mixed = 1 / (1 + math.exp(2 * abs(u[r])))
            weights[i][row].append(s * (1 - mixed))
            weights[i][row ^ 1 << r].append(s * mixed)
    of_layer = [w * w for table in weights for row in table for w in row]
    of_layer = sum(of_layer) / len(of_layer)
    expected = dense.synaptic_vectors.detach().clone()
    larger = 0
    for i, table in enumerate(weights):
        for j, row in enumerate(table):
            mean = sum(w * w for w in row) / max(1, len(row))
            larger += mean > of_layer
            capped = 1 if cap is None else min(1, cap / max(1, len(row)))
            expected[i, j] -= 0.5 * capped / max(mean, of_layer) * dense.synaptic_vectors.grad[i, j]
    assert 0 < larger < 20
    torch.testing.assert_close(fused.synaptic_vectors.detach(), expected)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_confidence_learns_at_one_rate_whatever_the_unit_of_time(scale):
    """Plain descent moves the output by the square of the distances: nothing at 0.1, out of all bounds at 30."""
    generator = torch.Generator().manual_seed(4)
    x, target = scale * torch.randn(16, 8, generator=generator), torch.randn(16, 2, generator=generator)
    layer = VariantTables(8, 2, 12, 4, reading="confidence", seed=1)
    optimizer = attach(layer, "sgd", rate=0.02)
    for _ in range(100):
        loss = (layer(x) - target).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.2 * target.square().sum()


def test_silence_moves_no_row():
    layer = VariantTables(6, 3, 5, 2, reading="confidence")
    fill(layer)
    before = layer.synaptic_vectors.detach().clone()
    layer.use_gradient("fused", RowUpdate("sgd", rate=0.5))
    layer(torch.zeros(4, 6)).sum().backward()  # no distance, no confidence: nothing is read, nothing learnt
    assert torch.equal(layer.synaptic_vectors.detach(), before)


def test_directions_learn_as_a_row_that_every_position_reads():
    x = torch.randn(10, 6)
    gradients = []
    for cap in (None, 2):
        layer = VariantTables(6, 3, 5, 4, hash="hyperplane")
        fill(layer)
        layer.use_gradient("fused", RowUpdate("sgd", rate=0.1, visit_cap=cap))
        layer(x).square().sum().backward()
        gradients.append(layer.directions.grad)
    torch.testing.assert_close(gradients[1], gradients[0] * 2 / 10)


def test_what_makes_no_sense_is_refused():
    layer = VariantTables(6, 3, 5, 4, reading="soft")
    with pytest.raises(ValueError, match="must be dense or fused"):
        layer.use_gradient("sparse")
    with pytest.raises(ValueError, match="update must be given"):
        layer.use_gradient("fused")
    with pytest.raises(ValueError, match="must not be online_sgd"):
        layer.use_gradient("fused", RowUpdate("online_sgd", rate=0.1))
    with pytest.raises(ValueError, match=r"delays need x of shape \(B, T, 6\)"):
        VariantTables(6, 3, 5, 4, 2, reading="soft")(torch.zeros(4, 6))
    with pytest.raises(ValueError, match="pairs of different neurons"):
        VariantTables(6, 3, 5, 4, anchors=torch.zeros(5, 4, 2, dtype=torch.int32))
    attention = VariantAttention(6, 6, 2, 2, 1, 4, reading="soft")
    for layer, name in [(VariantRecurrentTables(6, 2, 2, reading="soft"), "z"), (attention, "x")]:
        for wrong in (torch.zeros(4, 6), torch.zeros(2, 3, 7), torch.zeros(2, 3, 6).long()):
            with pytest.raises(ValueError, match=rf"{name} must hold latencies of shape \(B, T, 6\)"):
                layer(wrong)
