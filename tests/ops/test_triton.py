"""Triton's kernels against the reference: compiled where there is a GPU, by Triton's interpreter where there is none.

The interpreter takes about a millisecond an operation, so that without a GPU few and small sizes run.
"""

# B batch, T position, n input, I table, R comparison, J row, K output

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from polychron.models import DelayConfig, DelayLM, RecurrentConfig, RecurrentLM, TransformerConfig, TransformerLM
from polychron.nn import LookupTables
from polychron.ops import RowUpdate, dispatch, lookup, pair_lookup, readout_cross_entropy
from polychron.ops.lookup import reference as lookup_reference
from polychron.ops.pair_lookup import extend
from polychron.ops.pair_lookup import reference as pair_reference
from polychron.optim import attach

from .cases import (
    EMPTY_LOOKUP_SIZES,
    EMPTY_PAIR_SIZES,
    LOOKUP_SIZES,
    PAIR_SIZES,
    LookupSizes,
    PairSizes,
    as_double,
    assert_near,
    assert_same_bits,
    differentiate,
    lookup_case,
    pair_case,
    readout_case,
)

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")

SMALL_LOOKUP = LookupSizes(2, 5, 5, 5, 3, 3, max_delay=3, n_history=2, residual=True)
SMALL_PAIRS = PairSizes(2, 4, 5, 3, 2, 2, None, 1, window=2)
SMALL_READOUT = LookupSizes(2, 4, 5, 7, 3, 2)
LOOKUPS = LOOKUP_SIZES if GPU else [SMALL_LOOKUP, LookupSizes(1, 20, 4, 3, 2, 2)]
PAIRS = PAIR_SIZES if GPU else [SMALL_PAIRS, PairSizes(1, 4, 5, 3, 2, 2, 1, 0)]
READOUTS = LOOKUP_SIZES if GPU else [SMALL_READOUT]
RATE = 0.25


@pytest.fixture(autouse=True)
def triton_runs() -> Iterator[None]:
    """CUDA tensors go to Triton by themselves; CPU tensors only when asked."""
    if GPU:
        yield
        return
    with dispatch.use_kernel("triton"):
        yield


def there(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same on the device that is tested."""
    return {name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in arguments.items()}


def here(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.cpu().clone() for tensor in tensors]


def on_device(operator, arguments: dict[str, Any], v: Tensor, leaves: tuple[str, ...], **options) -> list[Tensor]:
    """`differentiate` on the device that is tested."""
    return here(differentiate(operator, there(arguments), v.to(DEVICE), leaves, **options))


def updated(operator, arguments: dict[str, Any], v: Tensor, update: RowUpdate, leaves=("x",)) -> list[Tensor]:
    """[y, gradients, tables, state] after one fused step."""
    arguments = there(arguments)
    arguments["tables"] = arguments["tables"].clone().requires_grad_()
    results = differentiate(operator, arguments, v.to(DEVICE), leaves, gradient="fused", update=update)
    state = [] if update.state is None else [update.state]
    return here([*results, arguments["tables"].detach(), *state])


def by_reference(function, *arguments, **options):
    with dispatch.use_kernel("reference"):
        return function(*arguments, **options)


def updated_by_reference(operator, arguments, v, update, leaves=("x",)) -> list[Tensor]:
    """The same on the CPU."""
    arguments = dict(arguments)
    arguments["tables"] = arguments["tables"].clone().requires_grad_()
    results = by_reference(differentiate, operator, arguments, v, leaves, gradient="fused", update=update)
    state = [] if update.state is None else [update.state]
    return [*results, arguments["tables"].detach(), *state]


# --- lookup -----------------------------------------------------------------------------------------------


def test_the_kernels_are_what_runs():
    assert dispatch.arithmetic(torch.zeros(1, device=DEVICE), "lookup").__name__ == "polychron.ops.lookup.triton"
    assert dispatch.kernel_info()["cuda"] == "triton"


@pytest.mark.parametrize("sizes", [*LOOKUPS, *EMPTY_LOOKUP_SIZES], ids=str)
def test_lookup_of_integers_is_exactly_the_reference(sizes):
    arguments, v = lookup_case(sizes, values="integer")
    expected = differentiate(lookup_reference.lookup, arguments, v, ("x", "tables"))
    assert_same_bits(on_device(lookup, arguments, v, ("x", "tables")), expected)


@pytest.mark.parametrize("sizes", LOOKUPS[:1] if not GPU else LOOKUPS, ids=str)
def test_lookup_of_real_values_agrees_with_float64(sizes):
    arguments, v = lookup_case(sizes, values="real", seed=3)
    expected = differentiate(lookup_reference.lookup, as_double(arguments), v.double(), ("x", "tables"))
    assert_near(on_device(lookup, arguments, v, ("x", "tables")), expected, rtol=1e-5, atol=5e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, of infinity - infinity
def test_ties_and_latencies_that_are_no_numbers():
    nan, infinity = float("nan"), float("inf")
    x = torch.tensor([[[nan, infinity, -infinity, 1.0, 3.0]], [[1.0, 1.0, 2.0, nan, 1.0]]])
    for pairs in (
        [[0, 3], [1, 1], [1, 2], [2, 1], [3, 4]],
        [[0, 3], [3, 0], [0, 3], [3, 0], [3, 3]],
        [[0, 1], [2, 0], [0, 2], [1, 0], [1, 4]],
    ):
        anchors = torch.tensor([pairs], dtype=torch.int32)
        expected = lookup_reference.address(x, anchors, None, None)
        run = dispatch.arithmetic(x.to(DEVICE), "lookup")
        row, pair, u = here(run.address(x.to(DEVICE), anchors.to(DEVICE), None, None))
        assert_same_bits([row, pair], list(expected[:2]))
        assert torch.equal(u.nan_to_num(nan=-7.0), expected[2].nan_to_num(nan=-7.0))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("sizes", LOOKUPS[:1] if not GPU else LOOKUPS[::3], ids=str)
def test_the_sparse_gradient_is_the_dense_one(sizes):
    arguments, v = lookup_case(sizes, values="integer", seed=8)
    arguments, v = there(arguments), v.to(DEVICE)
    gradients = []
    for gradient in ("dense", "sparse"):
        tables = arguments["tables"].clone().requires_grad_()
        lookup(**(arguments | {"tables": tables}), gradient=gradient).backward(v)
        gradients.append(tables.grad)
    indices = gradients[1]._indices()
    key = indices[0] * arguments["tables"].shape[1] + indices[1]
    assert bool((key.diff() > 0).all())
    assert torch.equal(gradients[1].to_dense(), gradients[0])


def test_the_longest_delays_are_sorted():
    arguments, v = lookup_case(LookupSizes(1, 3, 4, 2, 2, 2, max_delay=2), values="integer")
    arguments["delays"][0, 0, 0] = 100
    expected = differentiate(lookup_reference.lookup, arguments, v, ("x", "tables"))
    assert_same_bits(on_device(lookup, arguments, v, ("x", "tables")), expected)


def test_anchors_out_of_range_are_refused_also_when_they_change():
    arguments = there(lookup_case(SMALL_LOOKUP, values="integer")[0])
    dispatch.arithmetic(arguments["x"], "lookup").longest_delay(arguments["anchors"], arguments["delays"], 5)
    arguments["anchors"][0, 0, 0] = 5
    with pytest.raises(ValueError, match="anchors"):
        lookup(**arguments)


# --- updates ------------------------------------------------------------------------------------------------

UPDATES = [{"kind": "sgd"}, {"kind": "sgd", "visit_cap": 2}, {"kind": "adagrad", "epsilon": 1e-3},
           {"kind": "adam", "epsilon": 1e-3}]  # fmt: skip


@pytest.mark.parametrize("options", UPDATES, ids=str)
@pytest.mark.parametrize("sizes", [LOOKUPS[0]] if not GPU else [*LOOKUPS, LookupSizes(8, 512, 9, 32, 9, 1)], ids=str)
def test_rows_change_as_the_reference_changes_them(options, sizes):
    arguments, v = lookup_case(sizes, values="integer", seed=10)
    actual = updated(lookup, arguments, v, RowUpdate(rate=RATE, **options))
    expected = updated_by_reference(lookup, arguments, v, RowUpdate(rate=RATE, **options))
    if options == UPDATES[0]:
        assert_same_bits(actual, expected)
    else:
        assert_near(actual, expected, rtol=1e-6, atol=1e-6)


def test_a_row_that_is_read_often_is_summed_in_pieces():
    sizes = LookupSizes(2, 300, 3, 2, 1, 1) if GPU else LookupSizes(1, 40, 3, 1, 1, 1)
    arguments, v = lookup_case(sizes, values="integer", seed=14)
    actual = updated(lookup, arguments, v, RowUpdate("sgd", rate=RATE))
    assert_same_bits(actual, updated_by_reference(lookup, arguments, v, RowUpdate("sgd", rate=RATE)))


def test_the_same_step_gives_the_same_bits():
    sizes = LookupSizes(16, 64, 32, 32, 64, 8, max_delay=8) if GPU else SMALL_LOOKUP
    arguments, v = lookup_case(sizes, values="real", seed=15)
    first = updated(lookup, arguments, v, RowUpdate("sgd", rate=RATE))
    for _ in range(10 if GPU else 1):
        assert_same_bits(updated(lookup, arguments, v, RowUpdate("sgd", rate=RATE)), first)


def test_bfloat16_rows_are_rounded_by_the_same_chances():
    arguments, v = lookup_case(SMALL_LOOKUP, values="integer", seed=16)
    arguments["tables"] = arguments["tables"].bfloat16()
    update = RowUpdate("sgd", rate=0.001)
    update.seed = 0xFEDCBA98
    actual = updated(lookup, arguments, v, update)
    assert_same_bits(actual, updated_by_reference(lookup, arguments, v, update))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("sgd", torch.float32), ("adagrad", torch.float32), ("adam", torch.float32), ("sgd", torch.bfloat16)],
)
def test_tables_that_a_step_leaves_out_are_not_touched(kind, dtype):
    layer = LookupTables(5, 5, n_tables=4, n_comparisons=2, max_delay=1, residual=True, dtype=dtype)
    attach(layer, kind, rate=RATE, drop=0.5)
    layer.synaptic_vectors.data.copy_(torch.randint(-3, 4, layer.synaptic_vectors.shape))
    x, v = lookup_case(LookupSizes(2, 3, 5, 5, 4, 2), values="integer")[0]["x"], torch.ones(2, 3, 5)
    start = layer.synaptic_vectors.detach().clone()
    results = []
    for expected, device in ((True, "cpu"), (False, DEVICE)):
        layer.cpu().synaptic_vectors.data.copy_(start)
        layer.to(device).update.state = None
        torch.manual_seed(0)
        leaf = x.clone().to(device).requires_grad_()
        with dispatch.use_kernel("reference") if expected else nullcontext():
            y = layer(leaf)
            y.backward(v.to(device))
        results.append(here([y.detach(), leaf.grad, layer.synaptic_vectors.detach()]))
    if dtype == torch.bfloat16:
        assert_same_bits(results[1][2:], results[0][2:])
    assert_near(results[1], results[0], rtol=1e-6, atol=1e-6)
    assert (results[1][2] != start).any(dim=(1, 2)).sum() == 2


def test_vectors_are_a_sequence_while_a_step_leaves_tables_out():
    layer = LookupTables(5, 3, n_tables=4, n_comparisons=2)
    attach(layer, "sgd", rate=RATE, drop=0.5)
    start = torch.randint(-3, 4, layer.synaptic_vectors.shape).float()
    x, results = torch.randint(-2, 3, (6, 5)).float(), []
    for expected in (True, False):
        layer.synaptic_vectors.data.copy_(start)
        torch.manual_seed(0)
        given = x if expected else x.to(DEVICE)
        with dispatch.use_kernel("reference") if expected else nullcontext():
            y = layer.to(given.device)(given)
            y.backward(torch.ones_like(y))
        results.append(here([y.detach(), layer.synaptic_vectors.detach()]))
    assert results[0][0].shape == (6, 3)
    assert_same_bits(results[1], results[0])
    delayed = LookupTables(5, 3, n_tables=4, n_comparisons=2, max_delay=1).to(DEVICE)
    attach(delayed, "sgd", rate=RATE, drop=0.5)
    with pytest.raises(ValueError, match=r"delays and history need x of shape \(B, T, n\)"):
        delayed(x.to(DEVICE))


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_a_frozen_layer_passes_the_gradient_through_and_stays_as_it_is(drop):
    layer = LookupTables(5, 5, n_tables=4, n_comparisons=2, max_delay=1, residual=True)
    attach(layer, "sgd", rate=RATE, drop=drop)
    layer.synaptic_vectors.data.copy_(torch.randint(-3, 4, layer.synaptic_vectors.shape))
    layer.requires_grad_(False).to(DEVICE)
    start = layer.synaptic_vectors.clone()
    x = lookup_case(LookupSizes(2, 3, 5, 5, 4, 2), values="integer")[0]["x"].to(DEVICE).requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad.any()
    assert torch.equal(layer.synaptic_vectors, start)


def test_frozen_tables_of_attention_stay_as_they_are():
    arguments, v = pair_case(SMALL_PAIRS, values="integer")
    expected = on_device(pair_lookup, arguments, v, ("x", "tables", "position_code"))
    start = arguments["tables"].clone()
    options = {"gradient": "fused", "update": RowUpdate("sgd", rate=RATE)}
    y, dx, dcode = on_device(pair_lookup, arguments, v, ("x", "position_code"), **options)
    assert_same_bits([y, dx, dcode], [*expected[:2], expected[3]])
    assert torch.equal(arguments["tables"], start)


# --- readout --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [*READOUTS, EMPTY_LOOKUP_SIZES[0]], ids=str)
def test_the_readout_agrees_with_float64(sizes):
    arguments, v = readout_case(sizes, values="real", seed=1)
    expected = by_reference(differentiate, readout_cross_entropy, as_double(arguments), v.double(), ("x", "tables"))
    assert_near(on_device(readout_cross_entropy, arguments, v, ("x", "tables")), expected, rtol=1e-5, atol=5e-5)


def test_a_target_out_of_range_is_refused():
    arguments, _ = readout_case(SMALL_READOUT, values="real")
    arguments["targets"][0, 0] = 7
    with pytest.raises(ValueError, match="targets"):
        readout_cross_entropy(**there(arguments))


# --- attention --------------------------------------------------------------------------------------------------

PAIR_LEAVES = ("x", "tables", "position_code")


@pytest.mark.parametrize("position_gradient", ["additional", "nearest"] if GPU else ["additional"])
@pytest.mark.parametrize("sizes", [*PAIRS, *EMPTY_PAIR_SIZES], ids=str)
def test_pairs_of_integers_are_exactly_the_reference(sizes, position_gradient):
    arguments, v = pair_case(sizes, values="integer")
    arguments["position_gradient"] = position_gradient
    expected = differentiate(pair_reference.pair_lookup, arguments, v, PAIR_LEAVES)
    assert_same_bits(on_device(pair_lookup, arguments, v, PAIR_LEAVES), expected)


@pytest.mark.parametrize("sizes", [SMALL_PAIRS, *(PAIRS if GPU else [])], ids=str)
def test_pairs_of_real_values_agree_with_float64(sizes):
    arguments, v = pair_case(sizes, values="real", seed=3)
    arguments["position_gradient"] = "nearest"
    expected = differentiate(pair_reference.pair_lookup, as_double(arguments), v.double(), PAIR_LEAVES)
    assert_near(on_device(pair_lookup, arguments, v, PAIR_LEAVES), expected, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("options", UPDATES[1:2] if not GPU else [*UPDATES, {"kind": "online_sgd"}], ids=str)
def test_rows_of_pairs_change_as_the_reference_changes_them(options):
    arguments, v = pair_case(SMALL_PAIRS, values="integer", seed=10)
    leaves = ("x", "position_code")
    actual = updated(pair_lookup, arguments, v, RowUpdate(rate=RATE, **options), leaves)
    expected = updated_by_reference(pair_lookup, arguments, v, RowUpdate(rate=RATE, **options), leaves)
    assert_near(actual, expected, rtol=1e-6, atol=1e-6)


def test_pairs_may_be_read_in_pieces():
    arguments, _ = pair_case(SMALL_PAIRS, values="integer", seed=2)
    arguments = there(arguments)
    whole = pair_lookup(**arguments)
    x = arguments.pop("x")
    first, keys = extend(x[:, :3], past_keys=None, **arguments)
    second, _ = extend(x[:, 3:], past_keys=keys, **arguments)
    assert torch.equal(torch.cat([first, second], dim=1), whole)


# --- models ------------------------------------------------------------------------------------------------------


def delay_model() -> DelayLM:
    config = DelayConfig(
        vocabulary_size=5, n_neurons=6, n_layers=1, n_tables=3, n_comparisons=2, max_delay=2, readout_n_tables=2,
        readout_n_comparisons=2, readout_max_delay=1,
    )  # fmt: skip
    return DelayLM(config)


def transformer() -> TransformerLM:
    config = TransformerConfig(
        vocabulary_size=5, context=4, n_layers=1, n_heads=1, n_neurons=6, n_tables=2, n_comparisons=2,
        n_position_bits=1,
    )  # fmt: skip
    return TransformerLM(config)


def recurrent() -> RecurrentLM:
    config = RecurrentConfig(
        vocabulary_size=5, context=4, n_neurons=6, n_tables=2, n_comparisons=2, readout_n_tables=2,
        readout_n_comparisons=2,
    )  # fmt: skip
    return RecurrentLM(config)


@pytest.mark.parametrize("make", [delay_model, transformer, recurrent] if GPU else [delay_model, transformer])
def test_a_model_learns_on_the_device_what_it_learns_on_the_cpu(make):
    tokens = torch.tensor([[0, 1, 2, 3], [3, 0, 1, 4]])
    targets = torch.tensor([[1, 2, 3, 0], [0, 1, 4, 1]])
    results = []
    for expected, device in ((True, "cpu"), (False, DEVICE)):
        model = make().to(device)
        optimizer = attach(model, "sgd", rate=0.1, visit_cap=2)
        with dispatch.use_kernel("reference") if expected else nullcontext():
            losses = []
            for _ in range(5 if GPU else 2):
                optimizer.zero_grad()
                losses.append(model.train_step(tokens, targets))
                optimizer.step()
            nats = model.nats(tokens, targets)
        assert nats.device == tokens.device
        results.append([torch.tensor(losses), nats, *here(list(model.state_dict().values()))])
    assert_near(results[1], results[0], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not GPU, reason="no GPU: there are no graphs of kernels to record")
@pytest.mark.parametrize("make", [delay_model, transformer, recurrent])
@pytest.mark.parametrize(("kind", "drop"), [("sgd", 0.0), ("sgd", 0.4), ("adagrad", 0.0), ("adam", 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recorded_step_gives_the_bits_of_the_step(make, kind, drop, dtype, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(5, (2, 7, 3, 4), generator=generator)
    results = []
    for recorded in (True, False):
        model = make().to(DEVICE)
        if dtype == torch.bfloat16:
            for layer in model.layers_in_order():
                layer.synaptic_vectors.data = layer.synaptic_vectors.data.bfloat16()
        if not recorded:
            monkeypatch.setattr(type(model), "_graph_step", lambda self, shape: None)
        optimizer = attach(model, kind, rate=0.1, drop=drop)
        torch.manual_seed(0)
        losses = []
        for step in range(7):
            optimizer.rate = 0.1 / (step + 1)
            optimizer.zero_grad()
            losses.append(model.train_step(tokens[step], targets[step]))
            optimizer.step()
        assert (model._graph is not None) == recorded
        results.append([torch.tensor(losses), *here(list(model.state_dict().values()))])
    assert_same_bits(results[0], results[1])
    assert results[0][0][-1] < results[0][0][0] * 1.5


@pytest.mark.skipif(not GPU, reason="no GPU: there are no graphs of kernels to record")
def test_a_recorded_step_refuses_ids_out_of_range():
    model = delay_model().to(DEVICE)
    attach(model, "sgd", rate=0.1)
    good = torch.zeros(2, 4, dtype=torch.int64)
    for _ in range(2):
        model.train_step(good, good)
    for name, pair in (("tokens", (good + 5, good)), ("targets", (good, good - 1))):
        with pytest.raises(ValueError, match=name):
            model.train_step(*pair)
