"""pair_lookup: the kernels against the reference and the transcription, and what the paper promises."""

# B batch, T position, n input, I table, R comparison, J row, K output

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from polychron.ops import dispatch, pair_lookup
from polychron.ops.pair_lookup import extend, reference

from . import transcription
from .cases import (
    EMPTY_PAIR_SIZES,
    PAIR_SIZES,
    PairSizes,
    as_double,
    as_lists,
    assert_near,
    assert_same_bits,
    differentiate,
    guarded_memory,
    is_small,
    pair_case,
    using_threads,
)

LEAVES = ("x", "tables", "position_code")
TRANSCRIBED_SIZES = [sizes for sizes in PAIR_SIZES if is_small(sizes)]

position_gradients = pytest.mark.parametrize("position_gradient", ["additional", "nearest"])


@cache
def reference_results(
    sizes: PairSizes, position_gradient: str, values: str, seed: int, dtype: torch.dtype
) -> list[torch.Tensor]:
    """[y, dx, dtables, dposition_code] of the reference."""
    arguments, v = pair_case(sizes, values=values, seed=seed)
    if dtype == torch.float64:
        arguments, v = as_double(arguments), v.double()
    return differentiate(reference.pair_lookup, arguments, v, LEAVES, position_gradient=position_gradient)


# --- the address ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_query_bits_are_high_then_key_then_position(kernel, shared):
    anchors = torch.tensor([[[0, 1], [2, 1], [3, 1]]], dtype=torch.int32)
    key_anchors = None if shared else torch.tensor([[[3, 1], [0, 1]]], dtype=torch.int32)
    x = torch.zeros(1, 2, 4)
    x[0, 1, 2] = 1.0  # as a query: comparison 1 of 3
    x[0, 0, 0] = 1.0  # as a key: comparison 0 of 3, or comparison 1 of 2
    position_code = torch.zeros(1, 2, 4)
    position_code[0, 1, 3] = 0.5
    n_key_bits = 3 if shared else 2
    tables = torch.arange(2 ** (3 + n_key_bits + 4)).float().reshape(1, -1, 1)
    y = pair_lookup(x, tables, anchors, position_code, key_anchors=key_anchors)
    key = 0b001 if shared else 0b10
    assert y.tolist() == [[[0.0], [float(0b010 << n_key_bits + 4 | key << 4 | 0b1000)]]]


@pytest.mark.parametrize(("window", "n_read"), [(None, [0, 1, 2, 3, 4]), (1, [0, 1, 1, 1, 1]), (3, [0, 1, 2, 3, 3])])
def test_a_position_attends_to_the_earlier_ones_of_the_window(kernel, window, n_read):
    x = torch.zeros(1, 5, 2)
    anchors = torch.tensor([[[0, 1]]], dtype=torch.int32)
    code = torch.zeros(1, 5, 1)
    assert pair_lookup(x, torch.ones(1, 8, 1), anchors, code, window=window).reshape(-1).tolist() == n_read


def test_the_position_code_is_read_at_the_distance(kernel):
    x = torch.zeros(1, 4, 2)
    anchors = torch.tensor([[[0, 1]]], dtype=torch.int32)
    position_code = torch.tensor([[[7.0], [1.0], [-1.0], [2.0]]])  # index 0 is unused
    tables = torch.tensor([[[1.0], [10.0], [0.0], [0.0], [0.0], [0.0], [0.0], [0.0]]])
    y = pair_lookup(x, tables, anchors, position_code)
    assert y.reshape(-1).tolist() == [0.0, 10.0, 11.0, 21.0]


def routed(query_u: float, key_u: float, position_u: float, position_gradient: str) -> list[bool]:
    """Whether query, key and position code get a gradient, for one pair of the three comparisons given."""
    x = torch.tensor([[[key_u, 0.0, 0.0, 0.0], [0.0, 0.0, query_u, 0.0]]], requires_grad=True)
    code = torch.tensor([[[0.0], [position_u]]], requires_grad=True)
    anchors, key_anchors = (torch.tensor([[pair]], dtype=torch.int32) for pair in ([2, 3], [0, 1]))
    tables = 2.0 ** torch.arange(8).float().reshape(1, 8, 1)
    y = pair_lookup(x, tables, anchors, code, key_anchors=key_anchors, position_gradient=position_gradient)
    y.sum().backward()
    return [bool(x.grad[0, 1, 2]), bool(x.grad[0, 0, 0]), bool(code.grad[0, 1, 0])]


@pytest.mark.parametrize(
    ("query_u", "key_u", "position_u", "additional", "nearest"),
    [
        (1.0, -2.0, 3.0, [True, False, False], [True, False, False]),
        (-2.0, 1.0, 3.0, [False, True, False], [False, True, False]),
        (2.0, -2.0, 3.0, [False, True, False], [False, True, False]),  # a tie goes to the key
        (2.0, 3.0, 1.0, [True, False, True], [False, False, True]),
        (3.0, 2.0, -1.0, [False, True, True], [False, False, True]),
        (2.0, 3.0, -2.0, [True, False, False], [True, False, False]),  # not strictly nearer than both
        (3.0, 2.0, 2.0, [False, True, False], [False, True, False]),
        (0.0, 0.0, 0.0, [False, True, False], [False, True, False]),
    ],
)
def test_the_gradient_goes_to_the_nearest_comparison(kernel, query_u, key_u, position_u, additional, nearest):
    assert routed(query_u, key_u, position_u, "additional") == additional
    assert routed(query_u, key_u, position_u, "nearest") == nearest


# --- kernels against the reference and the transcription ----------------------------------------------


@position_gradients
@pytest.mark.parametrize("sizes", [*PAIR_SIZES, *EMPTY_PAIR_SIZES], ids=str)
def test_integers_are_exactly_the_reference(kernel_on_threads, sizes, position_gradient):
    arguments, v = pair_case(sizes, values="integer")
    actual = differentiate(pair_lookup, arguments, v, LEAVES, position_gradient=position_gradient)
    assert_same_bits(actual, reference_results(sizes, position_gradient, "integer", 0, torch.float32))


@cache
def transcribed_results(sizes: PairSizes, position_gradient: str) -> list[list]:
    """[y, dx, dtables, dposition_code] of the transcription."""
    arguments, v = pair_case(sizes, values="integer", seed=1)
    lists = as_lists(arguments)
    dx, dposition_code, reads = transcription.pair_lookup_backward(
        v=v.tolist(), position_gradient=position_gradient, **lists
    )
    dtables = transcription.dense_gradient(lists["tables"], reads)
    return [transcription.pair_lookup(**lists), dx, dtables, dposition_code]


@position_gradients
@pytest.mark.parametrize("sizes", TRANSCRIBED_SIZES, ids=str)
def test_integers_are_exactly_the_transcription(kernel, sizes, position_gradient):
    arguments, v = pair_case(sizes, values="integer", seed=1)
    actual = differentiate(pair_lookup, arguments, v, LEAVES, position_gradient=position_gradient)
    assert [tensor.tolist() for tensor in actual] == transcribed_results(sizes, position_gradient)


@position_gradients
@pytest.mark.parametrize("sizes", TRANSCRIBED_SIZES, ids=str)
def test_real_values_are_the_transcription_in_float64(sizes, position_gradient):
    arguments, v = pair_case(sizes, values="real", seed=2)
    arguments, v = as_double(arguments), v.double()
    actual = differentiate(pair_lookup, arguments, v, LEAVES, position_gradient=position_gradient)
    lists = as_lists(arguments)
    dx, dposition_code, reads = transcription.pair_lookup_backward(
        v=v.tolist(), position_gradient=position_gradient, **lists
    )
    dtables = transcription.dense_gradient(lists["tables"], reads)
    assert_near(actual, [transcription.pair_lookup(**lists), dx, dtables, dposition_code], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", PAIR_SIZES[::2], ids=str)
def test_real_values_agree_with_float64(kernel, sizes):
    arguments, v = pair_case(sizes, values="real", seed=3)
    actual = differentiate(pair_lookup, arguments, v, LEAVES)
    expected = reference_results(sizes, "additional", "real", 3, torch.float64)
    assert_near(actual, expected, rtol=1e-5, atol=2e-4)


@position_gradients
@pytest.mark.parametrize("sizes", PAIR_SIZES, ids=str)
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(native_kernels, sizes, position_gradient):
    arguments, v = pair_case(sizes, values="real", seed=4)
    arguments["position_gradient"] = position_gradient
    with using_threads(1), dispatch.use_kernel(native_kernels[0]):
        expected = differentiate(pair_lookup, arguments, v, LEAVES)
    for name in native_kernels:
        for n_threads in (1, 2, 3):
            with using_threads(n_threads), dispatch.use_kernel(name):
                assert_same_bits(differentiate(pair_lookup, arguments, v, LEAVES), expected)


# --- shapes and layouts -----------------------------------------------------------------------------------


def test_shared_anchors_are_key_anchors_that_are_the_same(kernel):
    arguments, v = pair_case(PAIR_SIZES[3], values="integer")
    expected = differentiate(pair_lookup, arguments, v, LEAVES)
    arguments["key_anchors"] = arguments["anchors"].clone()
    assert_same_bits(differentiate(pair_lookup, arguments, v, LEAVES), expected)


def test_a_window_of_everything_is_no_window(kernel):
    arguments, v = pair_case(PAIR_SIZES[1], values="integer")
    expected = differentiate(pair_lookup, arguments, v, LEAVES)
    for window in (6, 7, 1000):
        actual = differentiate(pair_lookup, arguments | {"window": window}, v, LEAVES)
        assert_same_bits(actual, expected)


def test_distances_beyond_the_sequence_are_left_alone(kernel):
    arguments, v = pair_case(PAIR_SIZES[1], values="integer")
    expected = differentiate(pair_lookup, arguments, v, LEAVES)
    further = torch.full_like(arguments["position_code"][:, :5], 0.001)
    arguments["position_code"] = torch.cat([arguments["position_code"], further], dim=1)
    actual = differentiate(pair_lookup, arguments, v, LEAVES)
    assert torch.equal(actual[3][:, -5:], torch.zeros_like(further))
    actual[3] = actual[3][:, :-5]
    assert_same_bits(actual, expected)


def test_the_unused_distance_zero_is_never_read(kernel):
    arguments, v = pair_case(PAIR_SIZES[1], values="integer")
    expected = differentiate(pair_lookup, arguments, v, LEAVES)
    for unused in (0.0, 1e30, -1e30):
        arguments["position_code"][:, 0] = unused
        actual = differentiate(pair_lookup, arguments, v, LEAVES)
        assert_same_bits(actual, expected)
        assert torch.equal(actual[3][:, 0], torch.zeros_like(actual[3][:, 0]))


def test_later_positions_do_not_reach_earlier_ones(kernel):
    arguments, _ = pair_case(PAIR_SIZES[4], values="real")
    y = pair_lookup(**arguments)
    arguments["x"][:, 9:] = 100.0 * torch.randn(arguments["x"][:, 9:].shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pair_lookup(**arguments)[:, :9], y[:, :9])


@pytest.mark.parametrize("sizes", [PAIR_SIZES[1], PAIR_SIZES[4], PAIR_SIZES[7], PAIR_SIZES[8]], ids=str)
def test_a_sequence_may_be_extended_piece_by_piece(kernel_on_threads, sizes):
    arguments, _ = pair_case(sizes, values="real", seed=10)
    expected = pair_lookup(**arguments)
    x, pieces, past_keys = arguments["x"], [], None
    for start, stop in ((0, 1), (1, 1), (1, 5), (5, 6), (6, sizes.T)):
        y, past_keys = extend(**(arguments | {"x": x[:, start:stop], "past_keys": past_keys}))
        assert past_keys.shape == (sizes.n_tables, sizes.B, stop)
        pieces.append(y)
    if kernel_on_threads[0] == "reference":  # its sums are taken in another order
        assert_near([torch.cat(pieces, dim=1)], [expected], rtol=1e-5, atol=1e-5)
    else:
        assert_same_bits([torch.cat(pieces, dim=1)], [expected])


def test_keys_beyond_the_window_need_not_be_kept(kernel):
    sizes = PairSizes(2, 17, 9, 8, 5, 2, 3, 2, window=4)
    arguments, _ = pair_case(sizes, values="integer")
    expected = pair_lookup(**arguments)
    pieces, past_keys = [], None
    for t in range(sizes.T):
        y, past_keys = extend(**(arguments | {"x": arguments["x"][:, t : t + 1], "past_keys": past_keys}))
        past_keys = past_keys[:, :, -sizes.window :]
        pieces.append(y)
    assert_same_bits([torch.cat(pieces, dim=1)], [expected])


def test_strided_inputs_are_read_by_their_values(kernel):
    arguments, v = pair_case(PAIR_SIZES[4], values="integer")
    expected = differentiate(pair_lookup, arguments, v, LEAVES)
    strided = dict(arguments)
    for name in ("x", "anchors", "key_anchors", "position_code", "tables"):
        strided[name] = arguments[name].movedim(-1, 0).contiguous().movedim(0, -1)
        assert not strided[name].is_contiguous()
    leaves = [strided[name].requires_grad_() for name in LEAVES]
    y = pair_lookup(**strided)
    y.backward(v.movedim(-1, 0).contiguous().movedim(0, -1))
    assert_same_bits([y.detach(), *(leaf.grad for leaf in leaves)], expected)


def test_an_expanded_gradient_is_read_by_its_values(kernel):
    arguments, v = pair_case(PAIR_SIZES[4], values="integer")
    expected = differentiate(pair_lookup, arguments, torch.ones_like(v), LEAVES)
    assert_same_bits(differentiate(pair_lookup, arguments, torch.ones(1).expand_as(v), LEAVES), expected)


def test_inputs_are_left_as_they_were(kernel):
    arguments, v = pair_case(PAIR_SIZES[4], values="real")
    before = {name: value.clone() for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    differentiate(pair_lookup, arguments, v, LEAVES)
    for name, value in before.items():
        assert torch.equal(arguments[name], value)


def test_only_what_asks_for_a_gradient_gets_one(kernel):
    arguments, v = pair_case(PAIR_SIZES[4], values="integer")
    y, *gradients = differentiate(pair_lookup, arguments, v, LEAVES)
    for name, gradient in zip(LEAVES, gradients, strict=True):
        assert_same_bits(differentiate(pair_lookup, arguments, v, (name,)), [y, gradient])
    assert not pair_lookup(**arguments).requires_grad


# --- gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [PAIR_SIZES[1], PAIR_SIZES[2]], ids=str)
def test_the_gradient_in_the_tables_is_the_finite_difference(kernel, sizes):
    arguments, v = pair_case(sizes, values="integer", seed=5)
    _, dtables = differentiate(pair_lookup, arguments, v, ("tables",))
    flat = arguments["tables"].reshape(-1)
    chosen = torch.randperm(flat.numel(), generator=torch.Generator().manual_seed(0))[:15]
    read = dtables.reshape(-1).nonzero().reshape(-1)[:15]
    for element in torch.cat([chosen, read]).tolist():
        loss = []
        for step in (1.0, -1.0):
            moved = flat.clone()
            moved[element] += step
            y = pair_lookup(**(arguments | {"tables": moved.reshape(arguments["tables"].shape)}))
            loss.append((y * v).sum())
        assert dtables.reshape(-1)[element] == (loss[0] - loss[1]) / 2


@position_gradients
def test_the_gradient_of_every_latency_vector_sums_to_zero(kernel, position_gradient):
    arguments, v = pair_case(PAIR_SIZES[4], values="integer", seed=6)
    _, dx = differentiate(pair_lookup, arguments, v, ("x",), position_gradient=position_gradient)
    assert dx.abs().sum() > 0
    assert torch.equal(dx.sum(dim=-1), torch.zeros(dx.shape[:2]))


@pytest.mark.parametrize("sizes", [*PAIR_SIZES[1::2], *EMPTY_PAIR_SIZES], ids=str)
def test_the_sparse_gradient_is_the_dense_one(kernel, sizes):
    arguments, v = pair_case(sizes, values="integer", seed=8)
    expected = differentiate(pair_lookup, arguments, v, LEAVES)
    y, dx, dtables, dposition_code = differentiate(pair_lookup, arguments, v, LEAVES, gradient="sparse")
    assert dtables.layout == torch.sparse_coo
    assert (dtables.sparse_dim(), dtables.dense_dim()) == (2, 1)
    assert_same_bits([y, dx, dtables.to_dense(), dposition_code], expected)


@position_gradients
def test_outputs_are_written_whole_and_nothing_else_is(kernel_on_threads, position_gradient):
    arguments, v = pair_case(PAIR_SIZES[4], values="real", seed=9)
    arguments["position_gradient"] = position_gradient
    expected = differentiate(pair_lookup, arguments, v, LEAVES)
    with guarded_memory():
        actual = differentiate(pair_lookup, arguments, v, LEAVES)
    assert_same_bits(actual, expected)


# --- refusals ---------------------------------------------------------------------------------------------


def good_arguments() -> dict:
    """A pair_lookup that nothing is wrong with: rows of 3 + 2 + 2 bits."""
    return pair_case(PairSizes(2, 5, 8, 8, 4, 3, 2, 2, window=3), values="real")[0]


REFUSED = {
    "x of two axes": (r"x must have shape \(B, T, n\); got \(2, 8\)", {"x": torch.zeros(2, 8)}),
    "x of token ids": ("x", {"x": torch.zeros(2, 5, 8, dtype=torch.int64)}),
    "tables of two axes": ("tables", {"tables": torch.zeros(128, 8)}),
    "tables of another dtype": ("tables", {"tables": torch.zeros(4, 128, 8, dtype=torch.float64)}),
    "tables with too few rows": ("tables", {"tables": torch.zeros(4, 64, 8)}),
    "tables with too many rows": ("tables", {"tables": torch.zeros(4, 256, 8)}),
    "tables of another count than anchors": ("tables|anchors", {"tables": torch.zeros(5, 128, 8)}),
    "anchors of two axes": ("anchors", {"anchors": torch.zeros(3, 2, dtype=torch.int32)}),
    "anchors of floats": ("anchors", {"anchors": torch.zeros(4, 3, 2)}),
    "anchors past the last neuron": ("anchors", {"anchors": torch.full((4, 3, 2), 8, dtype=torch.int32)}),
    "anchors below zero": ("anchors", {"anchors": torch.full((4, 3, 2), -1, dtype=torch.int32)}),
    "key anchors of other tables": ("key_anchors", {"key_anchors": torch.zeros(5, 2, 2, dtype=torch.int32)}),
    "key anchors past the last neuron": (
        "key_anchors",
        {"key_anchors": torch.full((4, 2, 2), 8, dtype=torch.int32)},
    ),
    "key anchors below zero": ("key_anchors", {"key_anchors": torch.full((4, 2, 2), -1, dtype=torch.int32)}),
    "position code of two axes": ("position_code", {"position_code": torch.zeros(4, 2)}),
    "position code of other tables": ("position_code", {"position_code": torch.zeros(5, 4, 2)}),
    "position code of another dtype": (
        "position_code",
        {"position_code": torch.zeros(4, 4, 2, dtype=torch.float64)},
    ),
    "position code too short for the window": ("position_code", {"position_code": torch.zeros(4, 3, 2)}),
    "position code too short for the sequence": ("position_code|window", {"window": None}),
    "window of nothing": ("window", {"window": 0}),
    "window below zero": ("window", {"window": -1}),
    "position gradient of another kind": ("position_gradient", {"position_gradient": "farthest"}),
    "gradient of another kind": ("gradient", {"gradient": "densest"}),
    "fused without an update": ("update", {"gradient": "fused"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(one_of_each, case):
    names, changes = REFUSED[case]
    with pytest.raises(ValueError, match=rf"\b({names})(?!\w)"):
        pair_lookup(**(good_arguments() | changes))


@pytest.mark.skipif(dispatch.native is None, reason="the extension is not built")
def test_more_keys_than_can_be_numbered_are_refused():
    query, key = np.empty((0, 1, 1), np.int32), np.empty((0, 1, 1 << 31), np.int32)  # of no table: no memory
    tables, code, y = np.empty((0, 4, 1), np.float32), np.empty((0, 2), np.int32), np.zeros((1, 1, 1), np.float32)
    with pytest.raises(ValueError, match=r"at most 2\^31 - 1 positions in one call"):
        dispatch.native.pair_gather(tables, query, key, code, 1, 1, 0, 1, y, 1)


def test_one_bad_anchor_among_many_is_refused(one_of_each):
    for name in ("anchors", "key_anchors"):
        for bad in (8, -1):
            arguments = good_arguments()
            arguments[name][3, 1, 1] = bad
            with pytest.raises(ValueError, match=rf"\b{name}\b"):
                pair_lookup(**arguments)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("past_keys", {"past_keys": torch.full((1, 2, 5), 4, dtype=torch.int32)}),
        ("past_keys", {"past_keys": torch.full((1, 2, 5), -1, dtype=torch.int32)}),
        ("past_keys", {"past_keys": torch.zeros(1, 2, 5)}),
        ("past_keys", {"past_keys": torch.zeros(1, 3, 5, dtype=torch.int32)}),
        ("past_keys", {"past_keys": torch.zeros(2, 5, dtype=torch.int32)}),
        ("window", {"window": 0}),
        ("window", {"window": 2.5}),
        ("position_code", {"position_code": torch.zeros(1, 7, 2)}),
        ("position_code", {"position_code": torch.zeros(2, 9, 2)}),
        ("tables", {"tables": torch.zeros(1, 64, 8, dtype=torch.float64)}),
        ("x", {"x": torch.zeros(2, 3, 8, dtype=torch.float16)}),
    ],
)
def test_what_does_not_fit_an_extension_is_refused_by_name(one_of_each, name, change):
    arguments = {
        "x": torch.randn(2, 3, 8),
        "tables": torch.zeros(1, 64, 8),
        "anchors": torch.tensor([[[0, 1], [2, 3]]], dtype=torch.int32),
        "position_code": torch.zeros(1, 9, 2),
        "past_keys": torch.zeros(1, 2, 5, dtype=torch.int32),
    }
    extend(**arguments)
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        extend(**{**arguments, **change})


def test_a_residual_adds_the_input_and_passes_the_gradient_through(one_of_each):
    torch.manual_seed(0)
    anchors = torch.tensor([[[0, 1], [2, 3]], [[1, 2], [0, 3]]], dtype=torch.int32)
    x = torch.randint(0, 2, (2, 6, 4)).float()
    tables = torch.randint(-3, 4, (2, 64, 4)).float()
    code = torch.randint(-1, 2, (2, 6, 2)).float()
    v = torch.randint(-3, 4, (2, 6, 4)).float()
    y, dx = {}, {}
    for residual in (False, True):
        leaf = x.clone().requires_grad_()
        y[residual] = pair_lookup(leaf, tables, anchors, code, residual=residual)
        y[residual].backward(v)
        dx[residual] = leaf.grad
        wanted = reference.pair_lookup(x, tables, anchors, code, residual=residual)
        assert torch.equal(y[residual], wanted)
        assert torch.equal(extend(x, tables, anchors, code, None, residual=residual)[0], wanted)
    assert torch.equal(y[True], x + y[False])
    assert torch.equal(dx[True], v + dx[False])


def test_a_gradient_of_the_latencies_that_is_not_wanted_changes_nothing_else(one_of_each):
    torch.manual_seed(0)
    anchors = torch.tensor([[[0, 1], [2, 3]]], dtype=torch.int32)
    x, tables, code = torch.randn(2, 6, 4), torch.randn(1, 64, 5), torch.randn(1, 6, 2)
    gradients = []
    for wanted in (False, True):
        leaves = [t.clone().requires_grad_() for t in (tables, code)]
        pair_lookup(x.clone().requires_grad_(wanted), leaves[0], anchors, leaves[1]).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for without, beside in zip(*gradients, strict=True):
        assert torch.equal(without, beside)
