"""gradient="fused": the update inside the backward pass is the dense gradient followed by the update."""

# B batch, T position, n input, I table, R comparison, J row, K output

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from polychron.ops import RowUpdate, dispatch, lookup, pair_lookup, readout_cross_entropy

from . import transcription
from .cases import (
    EMPTY_LOOKUP_SIZES,
    EMPTY_PAIR_SIZES,
    LOOKUP_SIZES,
    PAIR_SIZES,
    Arguments,
    LookupSizes,
    PairSizes,
    as_lists,
    assert_near,
    assert_same_bits,
    differentiate,
    guarded_memory,
    lookup_case,
    pair_case,
    readout_case,
    using_threads,
)


class Operator(NamedTuple):
    """One of the three operators: how to call it, to make a case of it, and to transcribe it."""

    call: Callable
    case: Callable
    leaves: tuple[str, ...]
    reads: Callable  # (lists, v) -> reads of the transcription


def lookup_reads(lists: Arguments, v: list) -> list:
    return transcription.lookup_backward(v=v, **lists)[-1]


def pair_lookup_reads(lists: Arguments, v: list) -> list:
    return transcription.pair_lookup_backward(v=v, **lists)[-1]


def readout_reads(lists: Arguments, v: list) -> list:
    return transcription.readout_cross_entropy_backward(dnats=v, **lists)[-1]


OPERATORS = {
    "lookup": Operator(lookup, lookup_case, ("x",), lookup_reads),
    "pair_lookup": Operator(pair_lookup, pair_case, ("x", "position_code"), pair_lookup_reads),
    "readout": Operator(readout_cross_entropy, readout_case, ("x",), readout_reads),
}
SIZES = [
    *(("lookup", sizes) for sizes in [*LOOKUP_SIZES[::3], EMPTY_LOOKUP_SIZES[0]]),
    *(("pair_lookup", sizes) for sizes in [*PAIR_SIZES[::3], EMPTY_PAIR_SIZES[0]]),
    *(("readout", sizes) for sizes in [*LOOKUP_SIZES[1::4], EMPTY_LOOKUP_SIZES[1]]),
]
TRANSCRIBED_LOOKUP_SIZES = [LOOKUP_SIZES[index] for index in (0, 1, 4, 6, 13)]
SMALL = {
    "lookup": LookupSizes(3, 9, 8, 17, 5, 3, max_delay=2),
    "pair_lookup": PairSizes(2, 9, 8, 17, 5, 2, None, 1, window=4),
    "readout": LookupSizes(3, 9, 8, 17, 5, 3, max_delay=2),
}
RATE = 0.25
HUGE = 2.0**30

every_operator = pytest.mark.parametrize("name", OPERATORS)
every_kind = pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
every_kind_and_online = pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam", "online_sgd"])


def step(name: str, arguments: Arguments, v: torch.Tensor, update: RowUpdate) -> list[torch.Tensor]:
    """[y, gradients but the tables'] of one fused step; arguments["tables"] is updated in place."""
    operator = OPERATORS[name]
    tables = arguments["tables"].requires_grad_()
    address = tables.data_ptr()
    results = differentiate(operator.call, arguments, v, operator.leaves, gradient="fused", update=update)
    assert tables.grad is None
    assert tables.data_ptr() == address
    return results


def name_of(parameter: object) -> str:
    return str(parameter)


# --- fused = dense, then the update -------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sizes"), SIZES, ids=name_of)
def test_sgd_is_the_dense_gradient_then_the_update(kernel_on_threads, name, sizes):
    operator = OPERATORS[name]
    arguments, v = operator.case(sizes, values="integer", seed=10)
    leaves = (*operator.leaves, "tables")
    *expected, dtables = differentiate(operator.call, arguments, v, leaves)
    updated = arguments["tables"] - RATE * dtables
    update = RowUpdate(kind="sgd", rate=RATE)
    assert_same_bits(step(name, arguments, v, update), expected)
    if name == "readout":  # its gradient is no integer
        assert_near([arguments["tables"].detach()], [updated], rtol=1e-6, atol=1e-6)
    else:
        assert_same_bits([arguments["tables"].detach()], [updated])
    assert update.state is None


@pytest.mark.parametrize(("name", "sizes"), SIZES, ids=name_of)
def test_adagrad_is_the_dense_gradient_then_the_update(kernel_on_threads, name, sizes):
    operator = OPERATORS[name]
    arguments, v = operator.case(sizes, values="integer", seed=11)
    leaves = (*operator.leaves, "tables")
    *expected, dtables = differentiate(operator.call, arguments, v, leaves)
    before, G = arguments["tables"].double(), dtables.double()
    state = G.square().mean(dim=-1)
    updated = before - RATE * G / (state.sqrt() + 1e-8).unsqueeze(-1)
    update = RowUpdate(kind="adagrad", rate=RATE)
    assert_same_bits(step(name, arguments, v, update), expected)
    assert update.state.dtype == torch.float32
    assert_near([update.state, arguments["tables"].detach()], [state, updated], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "sizes"), SIZES, ids=name_of)
def test_adam_is_the_dense_gradient_then_the_update(kernel_on_threads, name, sizes):
    """At the first step moments are the gradient's, whatever the betas, and each row moves by about the rate."""
    operator = OPERATORS[name]
    arguments, v = operator.case(sizes, values="integer", seed=11)
    leaves = (*operator.leaves, "tables")
    *expected, dtables = differentiate(operator.call, arguments, v, leaves)
    before, G = arguments["tables"].double(), dtables.double()
    update = RowUpdate(kind="adam", rate=RATE, betas=(0.75, 0.875), epsilon=1e-3)
    assert_same_bits(step(name, arguments, v, update), expected)
    mean_square = G.square().mean(dim=-1, keepdim=True)
    updated = before - RATE * G / (mean_square.sqrt() + 1e-3)
    assert_near([arguments["tables"].detach()], [updated], rtol=1e-5, atol=1e-5)
    read = torch.zeros(*G.shape[:2], 1, dtype=torch.bool)
    for i, row, _ in operator.reads(as_lists(arguments), v.tolist()):
        read[i, row] = True
    state = torch.cat([G / 4, mean_square / 8, read / 4, read / 8], dim=-1)
    assert update.state.dtype == torch.float32
    assert_near([update.state], [state], rtol=1e-5, atol=1e-6)


@every_operator
@every_kind
def test_successive_updates_are_the_transcription(kernel, name, kind):
    operator = OPERATORS[name]
    arguments, _ = operator.case(SMALL[name], values="real", seed=12)
    lists = as_lists(arguments)
    n_numbers = len(lists["tables"][0][0]) + 3
    state = [[0.0 if kind != "adam" else [0.0] * n_numbers for _ in table] for table in lists["tables"]]
    betas = (0.75, 0.875)
    update = RowUpdate(kind=kind, rate=1.0, epsilon=1e-3, betas=betas)
    for n_steps, rate in enumerate((0.5, 0.125, 0.03)):
        # The same rows are read again, each time under another gradient and rate.
        _, v = operator.case(SMALL[name], values="real", seed=20 + n_steps)
        update.rate = rate
        step(name, arguments, v, update)
        reads = operator.reads(lists, v.tolist())
        if kind == "sgd":
            transcription.sgd_update(lists["tables"], reads, rate)
        else:
            if kind == "adagrad":
                transcription.adagrad_update(lists["tables"], state, reads, rate, eps=1e-3)
            else:
                transcription.adam_update(lists["tables"], state, reads, rate, betas, eps=1e-3)
            assert_near([update.state], [state], rtol=1e-4, atol=1e-5)
        assert_near([arguments["tables"].detach()], [lists["tables"]], rtol=1e-4, atol=1e-4)


@every_operator
@every_kind_and_online
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(native_kernels, name, kind):
    results = []
    for kernel_name in native_kernels:
        for n_threads in (1, 2, 3):
            arguments, v = OPERATORS[name].case(SMALL[name], values="real", seed=13)
            update = RowUpdate(kind=kind, rate=RATE)
            with using_threads(n_threads), dispatch.use_kernel(kernel_name):
                for _ in range(2):
                    gradients = step(name, arguments, v, update)
            state = [] if update.state is None else [update.state]
            results.append([*gradients, arguments["tables"].detach(), *state])
    for result in results[1:]:
        assert_same_bits(result, results[0])


# --- one position after another --------------------------------------------------------------------------


@cache
def online_pairs(sizes: PairSizes, position_gradient: str) -> list[list]:
    """[y, dx, dposition_code, tables] of the transcription."""
    arguments, v = pair_case(sizes, values="integer", seed=21)
    lists = as_lists(arguments)
    y = transcription.pair_lookup(**lists)
    dx, dposition_code = transcription.pair_lookup_online(
        v=v.tolist(), rate=RATE, position_gradient=position_gradient, **lists
    )
    return [y, dx, dposition_code, lists["tables"]]


@pytest.mark.parametrize("position_gradient", ["additional", "nearest"])
@pytest.mark.parametrize("sizes", [PAIR_SIZES[1], PAIR_SIZES[3], PAIR_SIZES[11]], ids=str)
def test_online_pairs_see_the_updates_of_earlier_pairs(kernel_on_threads, sizes, position_gradient):
    arguments, v = pair_case(sizes, values="integer", seed=21)
    arguments["position_gradient"] = position_gradient
    _, dx_at_once = differentiate(pair_lookup, arguments, v, ("x",))
    results = step("pair_lookup", arguments, v, RowUpdate(kind="online_sgd", rate=RATE))
    actual = [*results, arguments["tables"].detach()]
    assert [tensor.tolist() for tensor in actual] == online_pairs(sizes, position_gradient)
    assert not torch.equal(results[1], dx_at_once)  # the order of reading and updating does matter here


@pytest.mark.parametrize("sizes", TRANSCRIBED_LOOKUP_SIZES, ids=str)
def test_online_positions_see_the_updates_of_earlier_positions(kernel_on_threads, sizes):
    arguments, v = lookup_case(sizes, values="integer", seed=22)
    lists = as_lists(arguments)
    y = transcription.lookup(**lists)
    dx = transcription.lookup_online(v=v.tolist(), rate=RATE, **lists)
    results = step("lookup", arguments, v, RowUpdate(kind="online_sgd", rate=RATE))
    actual = [*results, arguments["tables"].detach()]
    assert [tensor.tolist() for tensor in actual] == [y, dx, lists["tables"]]


# --- merged rows ----------------------------------------------------------------------------------------


def squares_of(update: RowUpdate) -> torch.Tensor:
    """After the first step: the mean of each row's squared gradient, 0 of those that nobody read."""
    if update.kind == "adagrad":
        return update.state
    return torch.nan_to_num(update.state[..., -3] / update.state[..., -1])


@every_kind
def test_thousands_of_reads_of_a_row_are_merged_first(kernel_on_threads, kind):
    # 2 rows for 4,096 positions; K = 32, so that the mean of squares is exact too.
    arguments, v = lookup_case(LookupSizes(8, 512, 9, 32, 33, 1, max_delay=3), values="integer", seed=14)
    _, G = differentiate(lookup, arguments, v, ("tables",))
    assert G.abs().max() > 50
    before = arguments["tables"].clone()
    update = RowUpdate(kind=kind, rate=RATE)
    step("lookup", arguments, v, update)
    if kind == "sgd":
        assert_same_bits([arguments["tables"].detach()], [before - RATE * G])
    else:
        squares = squares_of(update)
        if kind == "adagrad":
            assert_same_bits([squares], [G.square().mean(dim=-1)])
        expected = before - RATE * G / (squares.sqrt() + 1e-8).unsqueeze(-1)
        assert_near([arguments["tables"].detach()], [expected], rtol=1e-6, atol=1e-6)


@every_kind
def test_thousands_of_pairs_that_read_a_row_are_merged_first(kernel_on_threads, kind):
    sizes = PairSizes(8, 40, 9, 32, 7, 1, None, 1)
    arguments, v = pair_case(sizes, values="integer", seed=15)
    _, G = differentiate(pair_lookup, arguments, v, ("tables",))
    assert G.abs().max() > 50
    before = arguments["tables"].clone()
    update = RowUpdate(kind=kind, rate=RATE)
    step("pair_lookup", arguments, v, update)
    if kind == "sgd":
        assert_same_bits([arguments["tables"].detach()], [before - RATE * G])
    else:
        squares = squares_of(update)
        assert_near([squares], [G.double().square().mean(dim=-1)], rtol=1e-6, atol=0)
        expected = before - RATE * G / (squares.sqrt() + 1e-8).unsqueeze(-1)
        assert_near([arguments["tables"].detach()], [expected], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gradient", ["dense", "sparse", "fused"])
@pytest.mark.parametrize(("values", "total"), [([2.0**30, 1.0, -(2.0**30)], 0.0), ([2.0**30, -(2.0**30), 1.0], 1.0)])
def test_positions_are_merged_in_ascending_order(kernel, gradient, values, total):
    # In float32 the small summand survives only where it comes last.
    x, anchors = torch.zeros(1, 3, 2), torch.tensor([[[0, 1]]], dtype=torch.int32)
    tables = torch.zeros(1, 2, 5, requires_grad=True)
    update = RowUpdate(kind="sgd", rate=1.0) if gradient == "fused" else None
    y = lookup(x, tables, anchors, gradient=gradient, update=update)
    y.backward(torch.tensor(values).reshape(1, 3, 1).expand(1, 3, 5))
    G = -tables.detach() if gradient == "fused" else tables.grad.to_dense()
    assert G.tolist() == [[[total] * 5, [0.0] * 5]]


@every_operator
@every_kind
def test_a_gradient_of_zeros_leaves_rows_as_they_are(kernel, name, kind):
    operator = OPERATORS[name]
    arguments, v = operator.case(SMALL[name], values="real", seed=16)
    before = arguments["tables"].clone()
    step(name, arguments, torch.zeros_like(v), RowUpdate(kind=kind, rate=RATE))
    assert_same_bits([arguments["tables"].detach()], [before])


@every_operator
@every_kind
def test_rows_that_were_not_read_are_not_touched(kernel, name, kind):
    operator = OPERATORS[name]
    arguments, v = operator.case(SMALL[name], values="real", seed=16)
    v = v.abs() + 0.1
    read = torch.zeros(arguments["tables"].shape[:2], dtype=torch.bool)
    for i, row, _ in operator.reads(as_lists(arguments), v.tolist()):
        read[i, row] = True
    assert 0 < read.sum() < read.numel()
    before = arguments["tables"].clone()
    update = RowUpdate(kind=kind, rate=RATE)
    step(name, arguments, v, update)
    changed = (arguments["tables"].detach() != before).any(dim=-1)
    assert torch.equal(changed, read)
    if kind == "adagrad":
        assert update.state.shape == read.shape
        assert torch.equal(update.state > 0, read)
    if kind == "adam":
        assert torch.equal(update.state.any(dim=-1), read)
        assert torch.equal(update.state[..., -3:] > 0, read[..., None].expand(-1, -1, 3))


# --- when the update happens -----------------------------------------------------------------------------


@every_operator
def test_tables_are_updated_though_nothing_else_asks_for_a_gradient(kernel, name):
    operator = OPERATORS[name]
    arguments, v = operator.case(SMALL[name], values="integer", seed=17)
    _, dtables = differentiate(operator.call, arguments, v, ("tables",))
    updated = arguments["tables"] - RATE * dtables
    tables = arguments["tables"].requires_grad_()
    operator.call(**arguments, gradient="fused", update=RowUpdate(kind="sgd", rate=RATE)).backward(v)
    assert tables.grad is None
    assert_near([tables.detach()], [updated], rtol=1e-6, atol=1e-6)


class Sizes(TorchDispatchMode):
    """Shapes of what is made while it is in force, but for other views of `tables`."""

    def __init__(self, tables: torch.Tensor):
        super().__init__()
        self.tables = tables
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        made = (t for t in tree_leaves(results) if isinstance(t, torch.Tensor))
        self.made += [t.shape for t in made if t.data_ptr() != self.tables.data_ptr()]
        return results


@every_operator
@pytest.mark.parametrize(
    "options", [{}, {"gradient": "sparse"}, {"kind": "sgd"}, {"kind": "adagrad"}, {"kind": "adam"}], ids=str
)
def test_tables_that_ask_for_no_gradient_stay_as_they_are(kernel, name, options):
    operator = OPERATORS[name]
    arguments, v = operator.case(SMALL[name], values="integer", seed=17)
    expected = differentiate(operator.call, arguments, v, (*operator.leaves, "tables"))[:-1]
    before = arguments["tables"].clone()
    if "kind" in options:
        options = {"gradient": "fused", "update": RowUpdate(options["kind"], rate=RATE)}
    for _ in range(2):  # the second call goes past the dispatcher, where one does
        leaves = {leaf: arguments[leaf].clone().requires_grad_() for leaf in operator.leaves}
        y = operator.call(**(arguments | leaves), **options)
        with Sizes(arguments["tables"]) as sizes:
            y.backward(v)
        assert_same_bits([y.detach(), *(leaf.grad for leaf in leaves.values())], expected)
        assert torch.equal(arguments["tables"], before)
        assert before.shape not in sizes.made


@every_operator
def test_the_forward_pass_updates_nothing(kernel, name):
    operator = OPERATORS[name]
    arguments, _ = operator.case(SMALL[name], values="integer", seed=17)
    before = arguments["tables"].clone()
    update = RowUpdate(kind="adagrad", rate=RATE)
    arguments["tables"].requires_grad_()
    y = operator.call(**arguments, gradient="fused", update=update)
    with torch.no_grad():
        assert torch.equal(operator.call(**arguments, gradient="fused", update=update), y)
    assert torch.equal(arguments["tables"].detach(), before)
    assert update.state is None or not update.state.any()


@every_operator
@every_kind_and_online
def test_a_rate_of_zero_changes_no_table(kernel, name, kind):
    arguments, v = OPERATORS[name].case(SMALL[name], values="real", seed=18)
    before = arguments["tables"].clone()
    step(name, arguments, v, RowUpdate(kind=kind, rate=0.0))
    assert torch.equal(arguments["tables"].detach(), before)


def test_layers_of_a_stack_read_each_other_as_they_were(kernel):
    """Each layer's gradient in x comes from its tables before the update."""
    lower, _ = lookup_case(LookupSizes(2, 9, 8, 8, 5, 3, max_delay=2, residual=True), values="real", seed=1)
    upper, v = lookup_case(LookupSizes(2, 9, 8, 17, 5, 3), values="real", seed=2)

    def run(gradient: str, updates: list[RowUpdate | None]) -> list[torch.Tensor]:
        x, *tables = (t.clone().requires_grad_() for t in (lower["x"], lower["tables"], upper["tables"]))
        hidden = lookup(**(lower | {"x": x, "tables": tables[0]}), gradient=gradient, update=updates[0])
        y = lookup(**(upper | {"x": hidden, "tables": tables[1]}), gradient=gradient, update=updates[1])
        y.backward(v)
        if gradient == "dense":
            return [y.detach(), x.grad, *(table.detach() - RATE * table.grad for table in tables)]
        return [y.detach(), x.grad, *(table.detach() for table in tables)]

    fused = run("fused", [RowUpdate(kind="sgd", rate=RATE) for _ in range(2)])
    assert_near(fused, run("dense", [None, None]), rtol=1e-6, atol=1e-6)


@every_operator
@every_kind_and_online
def test_outputs_are_written_whole_and_nothing_else_is(kernel_on_threads, name, kind):
    results = []
    for guarded in (False, True):
        arguments, v = OPERATORS[name].case(SMALL[name], values="real", seed=19)
        update = RowUpdate(kind=kind, rate=RATE)
        with guarded_memory() if guarded else nullcontext():
            gradients = step(name, arguments, v, update)
        state = [] if update.state is None else [update.state]
        results.append([*gradients, arguments["tables"].detach(), *state])
    assert_same_bits(results[1], results[0])


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kind", {"kind": "lion", "rate": 0.1}),
        ("rate", {"kind": "sgd", "rate": -0.1}),
        ("rate", {"kind": "sgd", "rate": float("nan")}),
        ("epsilon", {"kind": "adagrad", "rate": 0.1, "epsilon": -1.0}),
        ("epsilon", {"kind": "adagrad", "epsilon": 0.0}),
        ("epsilon", {"kind": "adam", "epsilon": 0.0}),
        ("betas", {"kind": "adam", "betas": (0.9, 1.0)}),
        ("betas", {"kind": "adam", "betas": (-0.1, 0.9)}),
        ("betas", {"kind": "adam", "betas": (0.9,)}),
    ],
)
def test_an_update_that_makes_no_sense_is_refused_by_name(name, options):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        RowUpdate(**options)


@every_operator
def test_an_update_without_fused_is_refused(name):
    arguments, _ = OPERATORS[name].case(SMALL[name], values="real")
    with pytest.raises(ValueError, match=r"\bupdate\b"):
        OPERATORS[name].call(**arguments, gradient="dense", update=RowUpdate(kind="sgd", rate=0.1))


@pytest.mark.parametrize("visit_cap", [1, 3, 1000])
def test_a_cap_lets_rows_that_are_read_often_move_as_if_read_so_often(one_of_each, visit_cap):
    torch.manual_seed(0)
    anchors = torch.tensor([[[0, 1], [2, 3]], [[1, 2], [0, 3]]], dtype=torch.int32)
    x, tables, v = torch.randn(50, 4), torch.randn(2, 4, 5), torch.randn(50, 5)
    row = [[sum(int(p[a] > p[b]) << r for r, (a, b) in enumerate(pairs)) for p in x] for pairs in anchors.tolist()]
    expected = tables.clone()
    for i in range(2):
        for j in range(4):
            readers = [b for b in range(50) if row[i][b] == j]
            assert len(readers) > 3
            expected[i, j] -= 0.5 * min(1.0, visit_cap / len(readers)) * v[readers].sum(0)
    fused = tables.clone().requires_grad_()
    update = RowUpdate("sgd", rate=0.5, visit_cap=visit_cap)
    lookup(x, fused, anchors, gradient="fused", update=update).backward(v)
    torch.testing.assert_close(fused.detach(), expected)


def test_a_cap_applies_to_pairs_too(one_of_each):
    anchors = torch.tensor([[[0, 1]]], dtype=torch.int32)
    tables = torch.zeros(1, 4, 1, requires_grad=True)
    update = RowUpdate("sgd", rate=1.0, visit_cap=2)
    # All latencies are equal: the six pairs of four positions read row 0, which moves as if two did.
    pair_lookup(
        torch.zeros(1, 4, 2), tables, anchors, torch.zeros(1, 4, 0), gradient="fused", update=update
    ).sum().backward()
    assert tables.flatten().tolist() == [-2.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "visit_cap"), [("sgd", 0), ("sgd", -1), ("adagrad", 4), ("adam", 4), ("online_sgd", 4)]
)
def test_a_cap_that_makes_no_sense_is_refused(kind, visit_cap):
    with pytest.raises(ValueError, match="visit_cap"):
        RowUpdate(kind, visit_cap=visit_cap)
