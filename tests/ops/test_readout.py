"""readout_cross_entropy: the kernels against the reference and the transcription."""

# B batch, T position, n input, I table, R comparison, J row, K output

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from polychron.ops import RowUpdate, dispatch, lookup, readout_cross_entropy
from polychron.ops.readout import reference

from . import transcription
from .cases import (
    EMPTY_LOOKUP_SIZES,
    LOOKUP_SIZES,
    LookupSizes,
    as_double,
    as_lists,
    assert_near,
    assert_same_bits,
    differentiate,
    guarded_memory,
    is_small,
    readout_case,
    using_threads,
)

LEAVES = ("x", "tables")
TRANSCRIBED_SIZES = [sizes for sizes in LOOKUP_SIZES if is_small(sizes)]


@cache
def reference_results(sizes: LookupSizes, values: str, seed: int) -> list[torch.Tensor]:
    """[nats, dx, dtables] of the reference in float64."""
    arguments, dnats = readout_case(sizes, values=values, seed=seed)
    return differentiate(reference.readout_cross_entropy, as_double(arguments), dnats.double(), LEAVES)


def flat_case(K: int) -> dict:
    """All logits are equal, whatever row is read: every table holds zeros."""
    arguments, _ = readout_case(LookupSizes(2, 5, 8, K, 3, 2), values="real")
    return arguments | {"tables": torch.zeros_like(arguments["tables"])}


# --- nats -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 2, 7, 16, 33, 82, 256])
def test_equal_logits_cost_log_k_nats(kernel, K):
    nats = readout_cross_entropy(**flat_case(K))
    torch.testing.assert_close(nats, torch.full((2, 5), math.log(K)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("K", [1, 2, 7, 16, 33, 82, 256])
def test_the_nats_are_those_of_the_target(kernel, K):
    arguments = flat_case(K)
    arguments["tables"] += torch.linspace(-3, 3, K)
    expected = -torch.log_softmax(3 * torch.linspace(-3, 3, K).double(), dim=0)
    for target in {0, K // 2, K - 1}:
        arguments["targets"] = torch.full((2, 5), target)
        nats = readout_cross_entropy(**arguments)
        assert_near([nats], [expected[target].expand(2, 5)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height", [90.0, 200.0, 1e4, 3e37])
def test_large_logits_neither_overflow_nor_vanish(kernel, height):
    arguments = flat_case(33)
    arguments["tables"][..., 5] = height / 3
    arguments["tables"][..., 6] = -height / 3
    arguments["targets"] = torch.full((2, 5), 5)
    nats, dx, dtables = differentiate(readout_cross_entropy, arguments, torch.ones(2, 5), LEAVES)
    assert_near([nats], [torch.zeros(2, 5)], rtol=0, atol=1e-6)
    arguments["targets"] = torch.full((2, 5), 6)
    nats, dx, dtables = differentiate(readout_cross_entropy, arguments, torch.ones(2, 5), LEAVES)
    assert_near([nats], [torch.full((2, 5), 2.0 * height)], rtol=1e-5, atol=0)
    assert dtables.isfinite().all()
    assert dx.isfinite().all()


@pytest.mark.parametrize("values", ["integer", "real"])
@pytest.mark.parametrize("sizes", TRANSCRIBED_SIZES[::2], ids=str)
def test_float64_is_the_transcription(sizes, values):
    arguments, dnats = readout_case(sizes, values=values, seed=2)
    arguments, dnats = as_double(arguments), dnats.double()
    lists = as_lists(arguments)
    dx, reads = transcription.readout_cross_entropy_backward(dnats=dnats.tolist(), **lists)
    nats = transcription.readout_cross_entropy(**lists)
    expected = [nats, dx, transcription.dense_gradient(lists["tables"], reads)]
    for operator in (readout_cross_entropy, reference.readout_cross_entropy):
        assert_near(differentiate(operator, arguments, dnats, LEAVES), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("values", ["integer", "real"])
@pytest.mark.parametrize("sizes", LOOKUP_SIZES, ids=str)
def test_kernels_agree_with_float64(kernel, sizes, values):
    arguments, dnats = readout_case(sizes, values=values, seed=3)
    expected = reference_results(sizes, values, 3)
    actual = differentiate(readout_cross_entropy, arguments, dnats, LEAVES)
    assert [tensor.dtype for tensor in actual] == [torch.float32] * 3
    assert_near(actual, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("sizes", EMPTY_LOOKUP_SIZES, ids=str)
def test_nothing_to_predict(kernel_on_threads, sizes):
    arguments, dnats = readout_case(sizes, values="real")
    nats, dx, dtables = differentiate(readout_cross_entropy, arguments, dnats, LEAVES)
    assert_same_bits([nats, dx], [torch.zeros(sizes.B, sizes.T), torch.zeros_like(arguments["x"])])
    assert_same_bits([dtables], [torch.zeros_like(arguments["tables"])])


@pytest.mark.parametrize("sizes", LOOKUP_SIZES, ids=str)
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(native_kernels, sizes):
    arguments, dnats = readout_case(sizes, values="real", seed=4)
    with using_threads(1), dispatch.use_kernel(native_kernels[0]):
        expected = differentiate(readout_cross_entropy, arguments, dnats, LEAVES)
    for name in native_kernels:
        for n_threads in (1, 2, 3):
            with using_threads(n_threads), dispatch.use_kernel(name):
                assert_same_bits(differentiate(readout_cross_entropy, arguments, dnats, LEAVES), expected)


@pytest.mark.parametrize("sizes", LOOKUP_SIZES[:8], ids=str)
def test_the_nats_are_those_of_the_logits(kernel, sizes):
    arguments, _ = readout_case(sizes, values="real", seed=5)
    nats = readout_cross_entropy(**arguments)
    targets = arguments.pop("targets")
    logits = lookup(**arguments).double()
    expected = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), targets, reduction="none")
    assert_near([nats], [expected], rtol=1e-5, atol=1e-5)


# --- gradients ------------------------------------------------------------------------------------------


def test_the_gradient_in_the_tables_is_the_finite_difference():
    arguments, dnats = readout_case(LookupSizes(2, 7, 8, 5, 3, 2, max_delay=2), values="real", seed=6)
    arguments, dnats = as_double(arguments), dnats.double()
    _, dtables = differentiate(readout_cross_entropy, arguments, dnats, ("tables",))
    flat, step = arguments["tables"].reshape(-1), 1e-5
    difference = []
    for element in range(flat.numel()):
        loss = []
        for sign in (step, -step):
            moved = flat.clone()
            moved[element] += sign
            moved = moved.reshape(arguments["tables"].shape)
            loss.append((readout_cross_entropy(**(arguments | {"tables": moved})) * dnats).sum())
        difference.append((loss[0] - loss[1]) / (2 * step))
    assert_near([dtables], [torch.stack(difference)], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gradient", ["dense", "fused"])
def test_what_is_kept_is_autograds_to_let_go(one_of_each, gradient):
    arguments, _ = readout_case(LookupSizes(2, 7, 8, 5, 3, 2), values="real")
    arguments["tables"].requires_grad_()
    update = RowUpdate("sgd", rate=0.1) if gradient == "fused" else None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        readout_cross_entropy(**arguments, gradient=gradient, update=update).sum().backward()
    assert (2, 7, 5) in kept  # the error, the largest of all


def test_the_gradient_of_every_latency_vector_sums_to_zero(kernel):
    arguments, dnats = readout_case(LookupSizes(3, 9, 17, 33, 9, 4), values="real", seed=7)
    _, dx = differentiate(readout_cross_entropy, arguments, dnats, ("x",))
    assert dx.abs().sum() > 0
    assert dx.double().sum(dim=-1).abs().max() < 1e-6


def test_the_gradient_of_the_tables_sums_to_zero_over_outputs(kernel):
    arguments, dnats = readout_case(LookupSizes(3, 9, 17, 33, 9, 4), values="real", seed=7)
    _, dtables = differentiate(readout_cross_entropy, arguments, dnats, ("tables",))
    assert dtables.double().sum(dim=-1).abs().max() < 1e-5


@pytest.mark.parametrize("sizes", [*LOOKUP_SIZES[1::3], *EMPTY_LOOKUP_SIZES], ids=str)
def test_the_sparse_gradient_is_the_dense_one(kernel, sizes):
    arguments, dnats = readout_case(sizes, values="integer", seed=8)
    expected = differentiate(readout_cross_entropy, arguments, dnats, LEAVES)
    nats, dx, dtables = differentiate(readout_cross_entropy, arguments, dnats, LEAVES, gradient="sparse")
    assert dtables.layout == torch.sparse_coo
    assert (dtables.sparse_dim(), dtables.dense_dim()) == (2, 1)
    assert_same_bits([nats, dx], expected[:2])
    assert_near([dtables.to_dense()], expected[2:], rtol=1e-6, atol=1e-6)


def test_strided_inputs_are_read_by_their_values(kernel):
    arguments, dnats = readout_case(LOOKUP_SIZES[4], values="real")
    expected = differentiate(readout_cross_entropy, arguments, dnats, LEAVES)
    strided = dict(arguments)
    for name in ("x", "history", "anchors", "delays", "tables", "targets"):
        strided[name] = arguments[name].movedim(-1, 0).contiguous().movedim(0, -1)
        assert not strided[name].is_contiguous()
    leaves = [strided[name].requires_grad_() for name in LEAVES]
    nats = readout_cross_entropy(**strided)
    nats.backward(dnats.T.contiguous().T)
    # The reference sums logits in another order where they lie differently in memory.
    assert_near([nats.detach(), *(leaf.grad for leaf in leaves)], expected, rtol=1e-5, atol=1e-6)


def test_only_what_asks_for_a_gradient_gets_one(kernel):
    arguments, dnats = readout_case(LOOKUP_SIZES[4], values="real")
    nats, dx, dtables = differentiate(readout_cross_entropy, arguments, dnats, LEAVES)
    assert_same_bits(differentiate(readout_cross_entropy, arguments, dnats, ("x",)), [nats, dx])
    assert_same_bits(differentiate(readout_cross_entropy, arguments, dnats, ("tables",)), [nats, dtables])
    assert not readout_cross_entropy(**arguments).requires_grad


def test_outputs_are_written_whole_and_nothing_else_is(kernel_on_threads):
    arguments, dnats = readout_case(LOOKUP_SIZES[4], values="real", seed=9)
    expected = differentiate(readout_cross_entropy, arguments, dnats, LEAVES)
    with guarded_memory():
        actual = differentiate(readout_cross_entropy, arguments, dnats, LEAVES)
    assert_same_bits(actual, expected)


# --- refusals ---------------------------------------------------------------------------------------------


def good_arguments() -> dict:
    """A readout that nothing is wrong with."""
    return readout_case(LookupSizes(2, 5, 8, 9, 4, 3, max_delay=2, n_history=2), values="real")[0]


REFUSED = {
    "x of one axis": ("x", {"x": torch.zeros(8)}),
    "x of two axes": (r"x must have shape \(B, T, n\); got \(2, 8\)", {"x": torch.zeros(2, 8)}),
    "x of token ids": ("x", {"x": torch.zeros(2, 5, 8, dtype=torch.int64)}),
    "tables of two axes": ("tables", {"tables": torch.zeros(8, 9)}),
    "tables of another dtype": ("tables", {"tables": torch.zeros(4, 8, 9, dtype=torch.float64)}),
    "tables with too few rows": ("tables", {"tables": torch.zeros(4, 7, 9)}),
    "anchors of floats": ("anchors", {"anchors": torch.zeros(4, 3, 2)}),
    "anchors past the last neuron": ("anchors", {"anchors": torch.full((4, 3, 2), 8, dtype=torch.int32)}),
    "anchors below zero": ("anchors", {"anchors": torch.full((4, 3, 2), -1, dtype=torch.int32)}),
    "delays of another shape": ("delays", {"delays": torch.zeros(4, 3, dtype=torch.int32)}),
    "delays below zero": ("delays", {"delays": torch.full((4, 3, 2), -1, dtype=torch.int32)}),
    "history of other neurons": ("history", {"history": torch.zeros(2, 2, 9)}),
    "targets of another shape": ("targets", {"targets": torch.zeros(2, 4, dtype=torch.int64)}),
    "targets of one axis": ("targets", {"targets": torch.zeros(10, dtype=torch.int64)}),
    "targets of floats": ("targets", {"targets": torch.zeros(2, 5)}),
    "targets past the last output": ("targets", {"targets": torch.full((2, 5), 9)}),
    "targets below zero": ("targets", {"targets": torch.full((2, 5), -1)}),
    "targets of minus one hundred": ("targets", {"targets": torch.full((2, 5), -100)}),
    "gradient of another kind": ("gradient", {"gradient": "densest"}),
    "fused without an update": ("update", {"gradient": "fused"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(one_of_each, case):
    names, changes = REFUSED[case]
    with pytest.raises(ValueError, match=rf"\b({names})(?!\w)"):
        readout_cross_entropy(**(good_arguments() | changes))


def test_one_bad_target_among_many_is_refused(one_of_each):
    for bad in (9, -1, 2**40):
        arguments = good_arguments()
        arguments["targets"][1, 4] = bad
        with pytest.raises(ValueError, match=r"\btargets\b"):
            readout_cross_entropy(**arguments)
