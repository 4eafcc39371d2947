"""Tables of bfloat16: the same sums as float32 tables of the same numbers, and rows rounded stochastically."""

from __future__ import annotations

import math

import pytest
import torch

from polychron.ops import RowUpdate, available_kernels, lookup, pair_lookup, readout_cross_entropy, use_kernel
from polychron.ops.row_update import round_stochastically

from .cases import LOOKUP_SIZES, PAIR_SIZES, assert_same_bits, lookup_case, pair_case, readout_case, using_threads

KERNELS = available_kernels()
UPDATES = {"sgd": {}, "capped": {"visit_cap": 2}, "adagrad": {"kind": "adagrad"}, "adam": {"kind": "adam"}}


def of_bfloat16(arguments):
    """The same arguments with tables of bfloat16: small whole numbers, which it holds."""
    tables = arguments["tables"].bfloat16()
    assert torch.equal(tables.float(), arguments["tables"])
    return {**arguments, "tables": tables}


def trained(operator, arguments, v, options, kernel, n_threads=1):
    """Output, latency gradient and tables after one fused update."""
    arguments = {**arguments, **{name: arguments[name].clone().requires_grad_() for name in ("x", "tables")}}
    update = RowUpdate(rate=0.37, **options)
    update.seed = 0xDEADBEEF
    with use_kernel(kernel), using_threads(n_threads):
        y = operator(**arguments, gradient="fused", update=update)
        (y * v).sum().backward()
    return [y.detach(), arguments["x"].grad, arguments["tables"].detach()]


def assert_all_kernels_agree(operator, case, options):
    arguments, v = case
    arguments = of_bfloat16(arguments)
    expected = trained(operator, arguments, v, options, "reference")
    assert expected[2].dtype == torch.bfloat16
    for kernel in KERNELS[1:]:
        for n_threads in (1, 3):
            assert_same_bits(trained(operator, arguments, v, options, kernel, n_threads), expected)


@pytest.mark.parametrize("options", UPDATES.values(), ids=UPDATES.keys())
@pytest.mark.parametrize("sizes", LOOKUP_SIZES, ids=str)
def test_kernels_update_rows_as_the_reference_does(sizes, options):
    assert_all_kernels_agree(lookup, lookup_case(sizes, values="integer"), options)


def test_an_update_changes_the_tables():
    arguments, v = lookup_case(LOOKUP_SIZES[1], values="integer")
    arguments = of_bfloat16(arguments)
    assert not torch.equal(trained(lookup, arguments, v, {}, "reference")[2], arguments["tables"])


@pytest.mark.parametrize("sizes", PAIR_SIZES, ids=str)
def test_kernels_update_rows_of_attention_as_the_reference_does(sizes):
    assert_all_kernels_agree(pair_lookup, pair_case(sizes, values="integer"), {})


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sizes", LOOKUP_SIZES[:6], ids=str)
def test_reading_is_that_of_float32_tables_of_the_same_numbers(sizes, kernel):
    arguments, _ = lookup_case(sizes, values="real")
    rounded = arguments["tables"].bfloat16()
    with use_kernel(kernel), torch.no_grad():
        y = lookup(**{**arguments, "tables": rounded})
        assert torch.equal(y, lookup(**{**arguments, "tables": rounded.float()}))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sizes", LOOKUP_SIZES[:6], ids=str)
def test_the_readouts_loss_is_that_of_float32_tables_of_the_same_numbers(sizes, kernel):
    arguments, _ = readout_case(sizes, values="real")
    rounded = arguments["tables"].bfloat16()
    with use_kernel(kernel), torch.no_grad():
        nats = readout_cross_entropy(**{**arguments, "tables": rounded})
        assert torch.equal(nats, readout_cross_entropy(**{**arguments, "tables": rounded.float()}))


@pytest.mark.parametrize("gradient", ["dense", "sparse"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_of_tables_have_their_type(kernel, gradient):
    arguments, v = lookup_case(LOOKUP_SIZES[1], values="integer")
    tables = of_bfloat16(arguments)["tables"].requires_grad_()
    wide = arguments["tables"].clone().requires_grad_()
    with use_kernel(kernel):
        (lookup(**{**arguments, "tables": tables}, gradient=gradient) * v).sum().backward()
        (lookup(**{**arguments, "tables": wide}, gradient=gradient) * v).sum().backward()
    assert tables.grad.dtype == torch.bfloat16
    assert torch.equal(tables.grad.to_dense(), wide.grad.to_dense().bfloat16())


def test_rounding_goes_to_a_neighbour_and_is_right_on_average():
    torch.manual_seed(0)
    exact = torch.randn(4, 64, 512)
    rounded = round_stochastically(exact, seed=7).float()
    unit = 2.0 ** (exact.abs().log2().floor() - 7)
    assert ((rounded - exact).abs() < unit).all()
    steps = (rounded - exact) / unit  # each within one unit of the exact number, the mean of all of them 0
    assert abs(steps.mean()) < 5 * 0.5 / math.sqrt(steps.numel())
    fractions = (exact / unit) - torch.floor(exact / unit)
    went_up = rounded > exact
    for low in (0.0, 0.25, 0.5, 0.75):
        some = (fractions >= low) & (fractions < low + 0.25)
        assert went_up[some].float().mean() == pytest.approx(low + 0.125, abs=0.02)


def test_rounding_keeps_what_bfloat16_holds_and_depends_on_seed_and_place_alone():
    held = torch.randn(3, 8, 40).bfloat16()
    assert torch.equal(round_stochastically(held.float(), seed=3), held)
    same = torch.full((3, 8, 40), 1.0 + 2**-9)
    first, again, other = (round_stochastically(same, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    flat = first.flatten(1)
    assert not any(torch.equal(flat[i], flat[j]) for i in range(3) for j in range(i))


def test_a_step_far_below_half_a_unit_is_not_lost():
    # 4,096 steps of 2^-12 move 1 to 0 in float32; rounded to nearest, bfloat16 would not move at all.
    tables = torch.ones(1, 2, 256, dtype=torch.bfloat16, requires_grad=True)
    anchors = torch.tensor([[[0, 1]]], dtype=torch.int32)
    update = RowUpdate(rate=2.0**-12)
    torch.manual_seed(0)
    x = torch.zeros(1, 1, 2)
    for _ in range(1024):
        update.draw_seed()
        lookup(x, tables, anchors, gradient="fused", update=update).sum().backward()
    assert tables.detach()[0, 0].float().mean() == pytest.approx(0.75, abs=0.01)
    assert (tables[0, 1] == 1).all()


def test_online_updates_are_refused():
    tables = torch.zeros(1, 2, 3, dtype=torch.bfloat16)
    anchors = torch.tensor([[[0, 1]]], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"tables must be float32 for updates of kind 'online_sgd'"):
        lookup(torch.zeros(1, 2), tables, anchors, gradient="fused", update=RowUpdate("online_sgd"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_are_refused(dtype):
    anchors = torch.tensor([[[0, 1]]], dtype=torch.int32)
    with pytest.raises(ValueError, match="tables must have x's type and device"):
        lookup(torch.zeros(1, 2), torch.zeros(1, 2, 3, dtype=dtype), anchors)
