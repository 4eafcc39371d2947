"""The operators' borders under fuzzing: an error that names the argument, or the reference's answer; never a crash.

Data are integer-valued as in ``cases``, so that answers are compared exactly, whatever the strides. Where a value is
infinite, NaN or denormal, answers agree within rounding, NaN where the reference has NaN.
"""

# B batch, T position, n input, I table, R comparison, J row, K output

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from polychron.nn import Chain, LookupTables, Readout
from polychron.ops import RowUpdate, dispatch, lookup, pair_lookup, readout_cross_entropy

from .cases import LookupSizes, PairSizes, lookup_case, pair_case, readout_case, using_threads

pytestmark = pytest.mark.skipif(dispatch.native is None, reason="the extension is not built")

fuzz = settings(max_examples=200, deadline=None, derandomize=True, database=None)

SPECIAL = (float("nan"), float("inf"), float("-inf"), 1e-41, -1e-45, -0.0)
ERRORS = (ValueError, TypeError)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "padded":
        wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 3), 1e9).to(tensor.dtype)
        wide[..., : tensor.shape[-1]] = tensor
        return wide[..., : tensor.shape[-1]]
    if layout == "transposed":
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "strided":
        return tensor.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "offset":
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
    return tensor


LAYOUTS = ("contiguous", "padded", "transposed", "strided", "offset")
sizes = st.builds(
    LookupSizes,
    B=st.integers(0, 3), T=st.integers(0, 20), n=st.integers(1, 20), K=st.integers(1, 40), n_tables=st.integers(1, 9),
    n_comparisons=st.integers(1, 5), max_delay=st.none() | st.integers(0, 30), n_history=st.none() | st.integers(0, 9),
    residual=st.just(False),
)  # fmt: skip
pair_sizes = st.builds(
    PairSizes,
    B=st.integers(0, 3), T=st.integers(0, 12), n=st.integers(1, 12), K=st.integers(1, 40), n_tables=st.integers(1, 5),
    n_comparisons=st.integers(1, 3), n_key_comparisons=st.none() | st.integers(1, 3),
    n_position_bits=st.integers(0, 3), window=st.none() | st.integers(1, 15),
)  # fmt: skip
kinds = st.sampled_from(["dense", "sparse", "sgd", "capped", "adagrad", "adam", "online_sgd"])
layouts = st.lists(st.sampled_from(LAYOUTS), min_size=8, max_size=8)
threads = st.integers(1, 3)


def run(operator, arguments: dict, weight: Tensor, kind: str, leaves: tuple[str, ...], **options):
    """[result, each leaf's gradient, the tables, the update's state] of one forward and backward pass."""
    arguments = dict(arguments)
    update = None
    if kind in ("dense", "sparse"):
        options["gradient"] = kind
    else:
        update = RowUpdate("sgd" if kind == "capped" else kind, rate=0.5, visit_cap=2 if kind == "capped" else None)
        options |= {"gradient": "fused", "update": update}
    for name in leaves:
        held = copy.deepcopy(arguments[name])  # in the same layout, what pads included: fused updates change the tables
        arguments[name] = held.requires_grad_(held.is_floating_point())
    result = operator(**arguments, **options)
    result.backward(weight)
    results = [result.detach()]
    for name in leaves:
        gradient = arguments[name].grad
        if gradient is not None:
            results.append(gradient.to_dense() if gradient.is_sparse else gradient)
    results.append(arguments["tables"].detach())
    if update is not None and update.state is not None:
        results.append(update.state)
    return results


def outcome(kernel: str, n_threads: int, *arguments, **options):
    """What :func:`run` gives with this kernel; None: an error that the border is to give."""
    with dispatch.use_kernel(kernel), using_threads(n_threads):
        try:
            return run(*arguments, **options)
        except ERRORS:
            return None


def assert_same_outcome(n_threads: int, *arguments, exact: bool, rtol: float = 1e-5, **options) -> None:
    """Native kernels give the reference's results, or an error; an error wherever the reference has one."""
    expected = outcome("reference", 1, *arguments, **options)
    actual = outcome(dispatch.available_kernels()[-1], n_threads, *arguments, **options)
    if expected is None or actual is None:
        assert (expected is None) == (actual is None), (expected, actual)
        return
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        if exact:
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(one, other, rtol=rtol, atol=rtol, equal_nan=True)


def is_exact(kind: str) -> bool:
    """Adagrad and Adam divide by a root: within rounding."""
    return kind not in ("adagrad", "adam")


def with_layouts(arguments: dict, names: list[str]) -> dict:
    """Each tensor of `arguments` in the layout of its turn."""
    turns = iter(names)
    return {
        name: laid_out(value, next(turns)) if isinstance(value, Tensor) and value.dim() >= 2 else value
        for name, value in arguments.items()
    }


@fuzz
@given(sizes, layouts, kinds, threads, st.booleans(), st.integers(0, 1 << 20))
def test_lookup_in_any_shape_and_layout(size, names, kind, n_threads, residual, seed):
    if residual:
        size = size._replace(K=size.n, residual=True)
    arguments, v = lookup_case(size, values="integer", seed=seed)
    arguments = with_layouts(arguments, names)
    assert_same_outcome(
        n_threads, lookup, arguments, laid_out(v, names[-1]), kind, ("x", "tables"), exact=is_exact(kind)
    )


@fuzz
@given(pair_sizes, layouts, kinds, threads, st.sampled_from(["additional", "nearest"]), st.integers(0, 1 << 20))
def test_pair_lookup_in_any_shape_and_layout(size, names, kind, n_threads, position_gradient, seed):
    arguments, v = pair_case(size, values="integer", seed=seed)
    arguments = with_layouts(arguments, names)
    assert_same_outcome(
        n_threads, pair_lookup, arguments, laid_out(v, names[-1]), kind, ("x", "tables", "position_code"),
        exact=is_exact(kind) and kind != "online_sgd", position_gradient=position_gradient,
    )  # fmt: skip


@fuzz
@given(sizes, layouts, kinds, threads, st.integers(0, 1 << 20))
def test_readout_in_any_shape_and_layout(size, names, kind, n_threads, seed):
    arguments, weight = readout_case(size, values="integer", seed=seed)
    arguments = with_layouts(arguments, names)
    assert_same_outcome(
        n_threads, readout_cross_entropy, arguments, laid_out(weight, names[-1]), kind, ("x", "tables"), exact=False,
        rtol=1e-4,
    )  # fmt: skip


@fuzz
@given(
    sizes.filter(lambda s: s.B * s.T > 0), kinds.filter(is_exact), threads,
    st.sampled_from(["x", "tables", "v", "history"]), st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=4),
    st.randoms(use_true_random=False), st.integers(0, 1 << 20),
)  # fmt: skip
def test_lookup_of_values_beyond_the_ordinary(size, kind, n_threads, where, values, random, seed):
    arguments, v = lookup_case(size, values="integer", seed=seed)
    target = v if where == "v" else arguments[where]
    assume(target is not None and target.numel() > 0)
    for value in values:
        target.view(-1)[random.randrange(target.numel())] = value
    assert_same_outcome(n_threads, lookup, arguments, v, kind, ("x", "tables"), exact=False)


def spoil_type(tensor: Tensor, draw) -> Tensor:
    return tensor.to(draw(st.sampled_from([torch.float64, torch.int64, torch.int32, torch.float16, torch.bool])))


def spoil_dimension(tensor: Tensor, draw) -> Tensor:
    return draw(st.sampled_from([tensor[None], tensor.flatten(), tensor[..., 0], tensor.expand(2, *tensor.shape)]))


def spoil_size(tensor: Tensor, draw) -> Tensor:
    axis = draw(st.integers(0, tensor.dim() - 1))
    return draw(st.sampled_from([
        tensor.narrow(axis, 0, tensor.shape[axis] - 1), torch.cat([tensor, tensor], axis), tensor.narrow(axis, 0, 0),
    ]))  # fmt: skip


def spoil_range(tensor: Tensor, draw) -> Tensor:
    out = tensor.clone()
    out.view(-1)[draw(st.integers(0, tensor.numel() - 1))] = draw(
        st.sampled_from([-1, 1 << 16, (1 << 31) - 1, -(1 << 31)])
    )
    return out


SPOIL = (spoil_type, spoil_dimension, spoil_size)
INTEGERS = ("anchors", "delays", "key_anchors", "targets")


@st.composite
def spoiled(draw, case):
    """Arguments of a case of which one is wrong, most of the time."""
    arguments, weight = case
    names = [name for name, value in arguments.items() if isinstance(value, Tensor) and value.numel() > 0]
    name = draw(st.sampled_from(names))
    ways = (*SPOIL, spoil_range, spoil_range) if name in INTEGERS else SPOIL
    return arguments | {name: draw(st.sampled_from(ways))(arguments[name], draw)}, weight


CASES = {
    "lookup": (lookup, lookup_case(LookupSizes(2, 5, 6, 7, 3, 2, max_delay=3, n_history=2), values="integer"),
               ("x", "tables")),
    "pair_lookup": (pair_lookup, pair_case(PairSizes(2, 5, 6, 7, 3, 2, 2, 1), values="integer"),
                    ("x", "tables", "position_code")),
    "readout": (readout_cross_entropy, readout_case(LookupSizes(2, 5, 6, 7, 3, 2, max_delay=3), values="integer"),
                ("x", "tables")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@fuzz
@given(data=st.data(), kind=kinds)
def test_one_argument_that_is_wrong(name, data, kind):
    operator, case, leaves = CASES[name]
    arguments, weight = data.draw(spoiled(case))
    try:
        with dispatch.use_kernel("reference"):
            shape = operator(**arguments).shape
    except ERRORS:
        shape = weight.shape
    if shape != weight.shape:  # not wrong after all, but another size
        weight = torch.ones(shape)
    assert_same_outcome(2, operator, arguments, weight.to(arguments["x"].dtype), kind, leaves, exact=False, rtol=1e-4)


CHAIN_LAYERS = (LookupTables(6, 6, 3, 2, max_delay=2, residual=True), Readout(6, 7, 3, 2))


@fuzz
@given(
    data=st.data(), B=st.integers(0, 4), T=st.integers(0, 30), n_threads=threads,
    token=st.sampled_from([None, -1, 5, 1 << 40, -(1 << 63)]), layout=st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_chain_scores_or_refuses(data, B, T, n_threads, token, layout):
    embedding = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    layers = copy.deepcopy(CHAIN_LAYERS)
    tokens, targets = torch.arange(2 * B * T).view(2, B, T) % 5
    wrong = token is not None and B * T > 0
    if wrong:
        spoilt = data.draw(st.sampled_from([tokens, targets]))
        wrong = spoilt is tokens or token != 5  # of 7 classes, 5 is one
        spoilt.view(-1)[data.draw(st.integers(0, B * T - 1))] = token
    with using_threads(n_threads):
        chain = Chain(embedding, layers, trains=False)
        if wrong:
            with pytest.raises(ValueError, match="must lie in"):
                chain.score(tokens, targets)
            return
        nats = chain.score(laid_out(tokens, layout), laid_out(targets, layout))
        expected = layers[1].loss(layers[0](embedding[tokens]), targets)
    assert torch.equal(nats, expected)


@pytest.mark.parametrize(
    ("tokens", "targets"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64)),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int32)),
        (torch.zeros(6, dtype=torch.int64), torch.zeros(6, dtype=torch.int64)),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64)),
    ],
)
def test_chain_refuses_other_types_and_shapes(tokens, targets):
    chain = Chain(torch.randn(5, 6), copy.deepcopy(CHAIN_LAYERS), trains=False)
    with pytest.raises(ERRORS):
        chain.score(tokens, targets)
