"""lookup: the kernels against the reference and the transcription, and what the paper promises."""

# B batch, T position, n input, I table, R comparison, J row, K output, D position of the history

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polychron.ops import dispatch, lookup
from polychron.ops.lookup import reference

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
    lookup_case,
    using_threads,
)

LEAVES = ("x", "tables")
TRANSCRIBED_SIZES = [sizes for sizes in LOOKUP_SIZES if is_small(sizes)]

MILLIONS_OF_ROWS = LookupSizes(1, 17, 33, 1, 1, 22)


@cache
def reference_results(sizes: LookupSizes, values: str, seed: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """[y, dx, dtables] of the reference."""
    arguments, v = lookup_case(sizes, values=values, seed=seed)
    if dtype == torch.float64:
        arguments, v = as_double(arguments), v.double()
    return differentiate(reference.lookup, arguments, v, LEAVES)


def one_table(x: torch.Tensor, anchors: list, delays: list | None = None, **options) -> torch.Tensor:
    """The rows that one table reads at x (B, T, n): its row j holds the number j."""
    anchors = torch.tensor([anchors], dtype=torch.int32)
    delays = None if delays is None else torch.tensor([delays], dtype=torch.int32)
    n_rows = 2 ** anchors.shape[1]
    y = lookup(x, torch.arange(n_rows).float().reshape(1, n_rows, 1), anchors, delays, **options)
    return y.squeeze(-1).int()


# --- the address ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", range(9))
def test_bit_r_has_weight_two_to_the_r(kernel, r):
    x = torch.zeros(1, 1, 10)
    x[..., r] = 1.0
    anchors = [[k, 9] for k in range(9)]
    assert one_table(x, anchors).tolist() == [[2**r]]


def test_a_tie_gives_bit_zero(kernel):
    x = torch.tensor([[[1.0, 1.0, 2.0]]])
    assert one_table(x, [[0, 1], [2, 0], [0, 2], [1, 1]]).tolist() == [[0b0010]]


def test_a_delay_reads_an_earlier_position_and_zero_before_the_start(kernel):
    x = torch.tensor([[[1.0, -1.0], [2.0, 5.0], [3.0, 4.0]]])
    # Bit 0: x[t][0] > x[t-1][1]; bit 1: x[t-2][0] > x[t][1]; bit 2: 0 > x[t][1] (100 ago nothing had begun).
    delays = [[0, 1], [2, 0], [100, 0]]
    assert one_table(x, [[0, 1], [0, 1], [0, 1]], delays).tolist() == [[0b111, 0b001, 0b000]]


def test_the_last_entry_of_the_history_is_the_position_before_the_start(kernel):
    x = torch.zeros(1, 3, 2)
    history = torch.tensor([[[5.0, 0.0], [0.0, 0.0], [-5.0, 0.0]]])
    by_delay = [
        one_table(x, [[0, 1]], [[d, 0]], history=history).tolist()[0]
        for d in range(5)
    ]  # fmt: skip
    # history[0] is position -3, history[2] position -1; before the history a latency is 0.
    assert by_delay == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_the_first_of_equal_comparisons_is_the_pair(kernel):
    x = torch.tensor([[3.0, 1.0, 2.0, 3.0]])
    tables = torch.tensor([[[0.0], [1.0], [10.0], [0.0], [100.0], [0.0], [0.0], [0.0]]])
    tables += torch.arange(8).float().reshape(1, 8, 1) * 1000
    anchors = torch.tensor([[[0, 1], [1, 2], [2, 3]]], dtype=torch.int32)  # u = 2, -1, -1: row 1, pair 1
    x.requires_grad_()
    lookup(x, tables, anchors).sum().backward()
    g = tables[0, 0b011, 0] - tables[0, 0b001, 0]
    assert x.grad.tolist() == [[0.0, 0.125 * g, -0.125 * g, 0.0]]


def test_a_tie_still_learns(kernel):
    x = torch.zeros(1, 2, requires_grad=True)
    tables = torch.tensor([[[1.0], [5.0]]])
    lookup(x, tables, torch.tensor([[[0, 1]]], dtype=torch.int32)).sum().backward()
    assert x.grad.tolist() == [[2.0, -2.0]]  # U'(0) = +0.5, g = 4


@pytest.mark.parametrize("sizes", TRANSCRIBED_SIZES, ids=str)
@pytest.mark.parametrize("values", ["integer", "real"])
def test_hash_order_is_the_transcription(sizes, values):
    arguments, _ = lookup_case(sizes, values=values)
    arguments = as_double({name: arguments[name] for name in ("x", "anchors", "delays", "history")})
    row, pair, u = reference.hash_order(**arguments)
    assert (row.dtype, pair.dtype, u.dtype) == (torch.int64, torch.int64, torch.float64)
    assert row.shape == pair.shape == u.shape == (sizes.n_tables, sizes.B, sizes.T)
    expected = torch.tensor(transcription.lookup_addresses(**as_lists(arguments)), dtype=torch.float64)
    assert torch.equal(torch.stack([row.double(), pair.double(), u], dim=-1), expected)


@given(data=st.data())
@settings(derandomize=True, max_examples=60, deadline=None)
def test_hash_order_is_the_transcription_whatever_the_sizes(data):
    B, T, n, n_tables, n_comparisons = (data.draw(st.integers(1, limit)) for limit in (3, 6, 5, 3, 5))
    max_delay, n_history = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 7))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    x = torch.randint(-2, 3, (B, T, n), generator=generator).double()
    history = torch.randint(-2, 3, (B, n_history, n), generator=generator).double()
    anchors = torch.randint(n, (n_tables, n_comparisons, 2), generator=generator).int()
    delays = torch.randint(max_delay + 1, anchors.shape, generator=generator).int()
    row, pair, u = reference.hash_order(x, anchors, delays, history)
    expected = transcription.lookup_addresses(x.tolist(), anchors.tolist(), delays.tolist(), history.tolist())
    assert torch.stack([row.double(), pair.double(), u], dim=-1).tolist() == [
        [[list(map(float, address)) for address in sequence] for sequence in table] for table in expected
    ]


# --- kernels against the reference and the transcription ----------------------------------------------


@pytest.mark.parametrize("sizes", [*LOOKUP_SIZES, *EMPTY_LOOKUP_SIZES, MILLIONS_OF_ROWS], ids=str)
def test_integers_are_exactly_the_reference(kernel_on_threads, sizes):
    arguments, v = lookup_case(sizes, values="integer")
    actual = differentiate(lookup, arguments, v, LEAVES)
    assert_same_bits(actual, reference_results(sizes, "integer", 0, torch.float32))


@cache
def transcribed_results(sizes: LookupSizes) -> list[list]:
    """[y, dx, dtables] of the transcription."""
    arguments, v = lookup_case(sizes, values="integer", seed=1)
    lists = as_lists(arguments)
    dx, reads = transcription.lookup_backward(v=v.tolist(), **lists)
    return [transcription.lookup(**lists), dx, transcription.dense_gradient(lists["tables"], reads)]


@pytest.mark.parametrize("sizes", TRANSCRIBED_SIZES, ids=str)
def test_integers_are_exactly_the_transcription(kernel, sizes):
    arguments, v = lookup_case(sizes, values="integer", seed=1)
    actual = differentiate(lookup, arguments, v, LEAVES)
    assert [tensor.tolist() for tensor in actual] == transcribed_results(sizes)


@pytest.mark.parametrize("sizes", TRANSCRIBED_SIZES, ids=str)
def test_real_values_are_the_transcription_in_float64(sizes):
    arguments, v = lookup_case(sizes, values="real", seed=2)
    arguments, v = as_double(arguments), v.double()
    lists = as_lists(arguments)
    expected_dx, reads = transcription.lookup_backward(v=v.tolist(), **lists)
    expected = [
        transcription.lookup(**lists),
        expected_dx,
        transcription.dense_gradient(lists["tables"], reads),
    ]
    assert_near(differentiate(lookup, arguments, v, LEAVES), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", LOOKUP_SIZES[1::2], ids=str)
def test_real_values_agree_with_float64(kernel, sizes):
    arguments, v = lookup_case(sizes, values="real", seed=3)
    expected = reference_results(sizes, "real", 3, torch.float64)
    assert_near(differentiate(lookup, arguments, v, LEAVES), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("sizes", LOOKUP_SIZES, ids=str)
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(native_kernels, sizes):
    arguments, v = lookup_case(sizes, values="real", seed=4)
    with using_threads(1), dispatch.use_kernel(native_kernels[0]):
        expected = differentiate(lookup, arguments, v, LEAVES)
    for name in native_kernels:
        for n_threads in (1, 2, 3):
            with using_threads(n_threads), dispatch.use_kernel(name):
                assert_same_bits(differentiate(lookup, arguments, v, LEAVES), expected)


def test_double_precision_is_served_by_every_kernel(kernel):
    arguments, v = lookup_case(LOOKUP_SIZES[1], values="real")
    actual = differentiate(lookup, as_double(arguments), v.double(), LEAVES)
    assert [tensor.dtype for tensor in actual] == [torch.float64] * 3
    expected = differentiate(reference.lookup, as_double(arguments), v.double(), LEAVES)
    assert_near(actual, expected, rtol=1e-12, atol=1e-12)


# --- shapes and layouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("B", [0, 1, 9])
@pytest.mark.parametrize("residual", [False, True])
def test_a_batch_of_vectors_is_a_batch_of_sequences_of_one(kernel, B, residual):
    sizes = LookupSizes(B, 1, 17, 17 if residual else 9, 7, 3, residual=residual)
    arguments, v = lookup_case(sizes, values="integer")
    expected = differentiate(lookup, arguments, v, LEAVES)
    arguments["x"] = arguments["x"].squeeze(1)
    y, dx, dtables = differentiate(lookup, arguments, v.squeeze(1), LEAVES)
    assert y.shape == v.squeeze(1).shape
    assert_same_bits([y.unsqueeze(1), dx.unsqueeze(1), dtables], expected)


@pytest.mark.parametrize("sizes", [LOOKUP_SIZES[4], LOOKUP_SIZES[8]], ids=str)
def test_no_delays_are_zero_delays_and_no_history_is_a_history_of_zeros(kernel, sizes):
    arguments, v = lookup_case(sizes._replace(max_delay=3, n_history=5), values="integer")
    arguments["history"] = torch.zeros_like(arguments["history"])
    expected = differentiate(lookup, arguments, v, LEAVES)
    assert_same_bits(differentiate(lookup, arguments | {"history": None}, v, LEAVES), expected)

    arguments["delays"] = torch.zeros_like(arguments["delays"])
    expected = differentiate(lookup, arguments, v, LEAVES)
    without = arguments | {"delays": None, "history": None}
    assert_same_bits(differentiate(lookup, without, v, LEAVES), expected)


def test_a_sequence_may_be_read_in_pieces(kernel):
    arguments, _ = lookup_case(LookupSizes(3, 33, 16, 16, 9, 4, max_delay=7, n_history=7), values="integer")
    x, history = arguments["x"], arguments["history"]
    expected = lookup(**arguments)
    pieces = []
    for start, stop in ((0, 1), (1, 9), (9, 10), (10, 33)):
        before = torch.cat([history, x[:, :start]], dim=1)
        pieces.append(lookup(**(arguments | {"x": x[:, start:stop], "history": before})))
    assert_same_bits([torch.cat(pieces, dim=1)], [expected])


def test_strided_inputs_are_read_by_their_values(kernel):
    arguments, v = lookup_case(LOOKUP_SIZES[4], values="integer")
    expected = differentiate(lookup, arguments, v, LEAVES)
    strided = dict(arguments)
    for name in ("x", "history", "anchors", "delays", "tables"):
        axis_last_first = arguments[name].movedim(-1, 0).contiguous().movedim(0, -1)
        strided[name] = axis_last_first
        assert axis_last_first.numel() < 2 or not axis_last_first.is_contiguous()
    leaves = [strided[name].requires_grad_() for name in LEAVES]
    y = lookup(**strided)
    y.backward(v.movedim(-1, 0).contiguous().movedim(0, -1))
    assert_same_bits([y.detach(), *(leaf.grad for leaf in leaves)], expected)


def test_the_stride_of_an_axis_of_one_does_not_matter(kernel):
    arguments, v = lookup_case(LookupSizes(1, 9, 8, 8, 1, 3, residual=True), values="integer")
    expected = differentiate(lookup, arguments, v, LEAVES)
    for name in ("x", "tables", "anchors"):
        tensor = arguments[name]
        arguments[name] = tensor.as_strided(tensor.shape, (12345, *tensor.stride()[1:]))
    v = v.as_strided(v.shape, (12345, *v.stride()[1:]))
    leaves = [arguments[name].requires_grad_() for name in LEAVES]
    y = lookup(**arguments)
    y.backward(v)
    assert_same_bits([y.detach(), *(leaf.grad for leaf in leaves)], expected)


def test_latencies_that_are_no_numbers_give_bit_zero_and_are_the_last_to_flip(kernel):
    nan, infinity = float("nan"), float("inf")
    x = torch.tensor([[[nan, infinity, -infinity, 1.0, 3.0]]], requires_grad=True)
    anchors = [[0, 3], [1, 1], [1, 2], [2, 1], [3, 4]]  # u = NaN, NaN, inf, -inf, -2
    assert one_table(x.detach(), anchors).tolist() == [[0b00100]]
    tables = torch.arange(32.0).reshape(1, 32, 1)
    lookup(x, tables, torch.tensor([anchors], dtype=torch.int32)).sum().backward()
    g = 16.0  # u = -2 is the nearest: bit 4 is flipped
    assert x.grad.tolist() == [[[0.0, 0.0, 0.0, pytest.approx(g * 0.5 / 9), pytest.approx(-g * 0.5 / 9)]]]


def test_an_expanded_gradient_is_read_by_its_values(kernel):
    arguments, v = lookup_case(LOOKUP_SIZES[5], values="integer")
    expected = differentiate(lookup, arguments, torch.ones_like(v), LEAVES)
    assert_same_bits(differentiate(lookup, arguments, torch.ones(1).expand_as(v), LEAVES), expected)


def test_inputs_are_left_as_they_were(kernel):
    arguments, v = lookup_case(LOOKUP_SIZES[4], values="real")
    before = {name: value.clone() for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    differentiate(lookup, arguments, v, LEAVES)
    for name, value in before.items():
        assert torch.equal(arguments[name], value)


def test_only_what_asks_for_a_gradient_gets_one(kernel):
    arguments, v = lookup_case(LOOKUP_SIZES[4], values="integer")
    y, dx, dtables = differentiate(lookup, arguments, v, LEAVES)
    assert_same_bits(differentiate(lookup, arguments, v, ("x",)), [y, dx])
    assert_same_bits(differentiate(lookup, arguments, v, ("tables",)), [y, dtables])
    assert not lookup(**arguments).requires_grad
    with torch.no_grad():
        assert not lookup(**(arguments | {"x": arguments["x"].clone().requires_grad_()})).requires_grad


def test_no_gradient_flows_into_the_history(kernel):
    arguments, v = lookup_case(LOOKUP_SIZES[4], values="integer")
    arguments["history"].requires_grad_()
    differentiate(lookup, arguments, v, LEAVES)
    assert arguments["history"].grad is None


# --- gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [LOOKUP_SIZES[0], LOOKUP_SIZES[2], LOOKUP_SIZES[4]], ids=str)
def test_the_gradient_in_the_tables_is_the_finite_difference(kernel, sizes):
    arguments, v = lookup_case(sizes, values="integer", seed=5)
    _, dtables = differentiate(lookup, arguments, v, ("tables",))
    flat = arguments["tables"].reshape(-1)
    chosen = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))[:15]
    read = dtables.reshape(-1).nonzero().reshape(-1)[:15]
    for element in torch.cat([chosen, read]).tolist():
        loss = []
        for step in (1.0, -1.0):
            moved = flat.clone()
            moved[element] += step
            y = lookup(**(arguments | {"tables": moved.reshape(arguments["tables"].shape)}))
            loss.append((y * v).sum())
        assert dtables.reshape(-1)[element] == (loss[0] - loss[1]) / 2


@pytest.mark.parametrize("sizes", [LOOKUP_SIZES[1], LOOKUP_SIZES[11]._replace(max_delay=None, n_history=None)], ids=str)
def test_the_gradient_of_every_latency_vector_sums_to_zero(kernel, sizes):
    arguments, v = lookup_case(sizes, values="integer", seed=6)
    _, dx = differentiate(lookup, arguments, v, ("x",))
    assert dx.abs().sum() > 0
    assert torch.equal(dx.sum(dim=-1), torch.zeros(sizes.B, sizes.T))


def test_the_gradient_of_delayed_latencies_sums_to_zero_over_the_sequence(kernel):
    sizes = LookupSizes(3, 31, 16, 17, 15, 4, max_delay=6)
    arguments, v = lookup_case(sizes, values="integer", seed=7)
    v[:, : sizes.max_delay] = 0.0  # whose gradient may fall before the start
    _, dx = differentiate(lookup, arguments, v, ("x",))
    assert dx.abs().sum() > 0
    assert torch.equal(dx.sum(dim=(1, 2)), torch.zeros(sizes.B))


@pytest.mark.parametrize("sizes", [*LOOKUP_SIZES[::2], *EMPTY_LOOKUP_SIZES], ids=str)
def test_the_sparse_gradient_is_the_dense_one(kernel, sizes):
    arguments, v = lookup_case(sizes, values="integer", seed=8)
    expected = differentiate(lookup, arguments, v, LEAVES)
    y, dx, dtables = differentiate(lookup, arguments, v, LEAVES, gradient="sparse")
    assert dtables.layout == torch.sparse_coo
    assert (dtables.sparse_dim(), dtables.dense_dim()) == (2, 1)
    assert_same_bits([y, dx, dtables.to_dense()], expected)


def test_gradients_of_two_backward_passes_add_up(kernel):
    arguments, v = lookup_case(LOOKUP_SIZES[4], values="integer")
    _, dx, dtables = differentiate(lookup, arguments, v, LEAVES)
    for gradient in ("dense", "sparse"):
        x, tables = (arguments[name].clone().requires_grad_() for name in LEAVES)
        for _ in range(2):
            lookup(**(arguments | {"x": x, "tables": tables}), gradient=gradient).backward(v)
        total = tables.grad.to_dense() if gradient == "sparse" else tables.grad
        assert_same_bits([x.grad, total], [2 * dx, 2 * dtables])


def test_outputs_are_written_whole_and_nothing_else_is(kernel_on_threads):
    arguments, v = lookup_case(LOOKUP_SIZES[4], values="real", seed=9)
    expected = differentiate(lookup, arguments, v, LEAVES)
    with guarded_memory():
        actual = differentiate(lookup, arguments, v, LEAVES)
    assert_same_bits(actual, expected)


# --- refusals ---------------------------------------------------------------------------------------------


def good_arguments() -> dict:
    """A lookup that nothing is wrong with."""
    return lookup_case(LookupSizes(2, 5, 8, 8, 4, 3, max_delay=2, n_history=2), values="real")[0]


REFUSED = {
    "x of one axis": ("x must have shape .B, n. or .B, T, n.; got .8", {"x": torch.zeros(8)}),
    "x of four axes": ("x", {"x": torch.zeros(1, 2, 5, 8)}),
    "x of token ids": ("x", {"x": torch.zeros(2, 5, 8, dtype=torch.int64)}),
    "x of another batch than history": ("history", {"x": torch.zeros(3, 5, 8)}),
    "delays without a time axis": ("x|delays", {"x": torch.zeros(2, 8), "history": None}),
    "tables of two axes": ("tables", {"tables": torch.zeros(8, 8)}),
    "tables of another dtype": ("tables", {"tables": torch.zeros(4, 8, 8, dtype=torch.float64)}),
    "tables with too few rows": ("tables", {"tables": torch.zeros(4, 7, 8)}),
    "tables with too many rows": ("tables", {"tables": torch.zeros(4, 16, 8)}),
    "tables of another count than anchors": ("tables|anchors", {"tables": torch.zeros(5, 8, 8)}),
    "anchors of two axes": ("anchors", {"anchors": torch.zeros(3, 2, dtype=torch.int32)}),
    "anchors of three neurons": ("anchors", {"anchors": torch.zeros(4, 3, 3, dtype=torch.int32)}),
    "anchors of floats": ("anchors", {"anchors": torch.zeros(4, 3, 2)}),
    "anchors past the last neuron": ("anchors", {"anchors": torch.full((4, 3, 2), 8, dtype=torch.int32)}),
    "anchors below zero": ("anchors", {"anchors": torch.full((4, 3, 2), -1, dtype=torch.int32)}),
    "delays of another shape": ("delays", {"delays": torch.zeros(4, 3, dtype=torch.int32)}),
    "delays of floats": ("delays", {"delays": torch.zeros(4, 3, 2)}),
    "delays below zero": ("delays", {"delays": torch.full((4, 3, 2), -1, dtype=torch.int32)}),
    "history of two axes": ("history", {"history": torch.zeros(2, 8)}),
    "history of other neurons": ("history", {"history": torch.zeros(2, 2, 9)}),
    "history of another dtype": ("history", {"history": torch.zeros(2, 2, 8, dtype=torch.float64)}),
    "residual of other outputs": ("residual|tables", {"tables": torch.zeros(4, 8, 9), "residual": True}),
    "gradient of another kind": ("gradient", {"gradient": "densest"}),
    "fused without an update": ("update", {"gradient": "fused"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(one_of_each, case):
    names, changes = REFUSED[case]
    with pytest.raises(ValueError, match=rf"\b({names})\b"):
        lookup(**(good_arguments() | changes))


def test_one_bad_anchor_or_delay_among_many_is_refused(one_of_each):
    for name, bad in (("anchors", 8), ("anchors", -1), ("delays", -1)):
        arguments = good_arguments()
        arguments[name][3, 2, 1] = bad
        with pytest.raises(ValueError, match=rf"\b{name}\b"):
            lookup(**arguments)
