"""The operators as torch sees them (opcheck, torch.compile), the choice of kernel, many callers."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from polychron.ops import RowUpdate, dispatch, lookup, pair_lookup, readout_cross_entropy

from .cases import (
    LookupSizes,
    PairSizes,
    assert_same_bits,
    differentiate,
    lookup_case,
    pair_case,
    readout_case,
    using_threads,
)

LOOKUP = LookupSizes(2, 9, 8, 8, 5, 3, max_delay=4, n_history=2, residual=True)
PLAIN_LOOKUP = LookupSizes(2, 9, 8, 17, 5, 3)
PAIRS = PairSizes(2, 9, 8, 17, 5, 2, None, 2, window=4)
SEPARATE_PAIRS = PairSizes(2, 9, 8, 17, 5, 2, 3, 1)
CASES = {
    "lookup": (lookup, *lookup_case(LOOKUP, values="real"), ("x", "tables")),
    "lookup without delays": (lookup, *lookup_case(PLAIN_LOOKUP, values="real"), ("x", "tables")),
    "pair_lookup": (pair_lookup, *pair_case(PAIRS, values="real"), ("x", "tables", "position_code")),
    "pair_lookup, separate keys": (
        pair_lookup,
        *pair_case(SEPARATE_PAIRS, values="real"),
        ("x", "tables", "position_code"),
    ),
    "readout": (
        readout_cross_entropy,
        *readout_case(LOOKUP._replace(K=9, residual=False), values="real"),
        ("x", "tables"),
    ),
}

every_case = pytest.mark.parametrize("case", CASES)


class Recorder(TorchDispatchMode):
    """Keeps the custom operators that are called, with copies of their arguments.

    Only a forward operator's arguments ask for a gradient: none flows through those of the backward pass.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "polychron":
            is_forward = not self.calls

            def copy_of(tensor: torch.Tensor) -> torch.Tensor:
                return tensor.detach().clone().requires_grad_(tensor.requires_grad and is_forward)

            self.calls.append((function, *tree_map_only(torch.Tensor, copy_of, (args, kwargs or {}))))
        return function(*args, **(kwargs or {}))


# --- torch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["lookup", "pair_lookup, separate keys", "readout"])
def test_opcheck(one_of_each, case):
    operator, arguments, v, leaves = CASES[case]
    with Recorder() as recorder:
        differentiate(operator, arguments, v, leaves)
        differentiate(operator, arguments, v, ("x",))
    assert len({function for function, *_ in recorder.calls}) >= 2  # forward and backward
    assert {args[-1] for function, args, _ in recorder.calls if "backward_dense" in str(function)} == {True, False}
    for function, args, kwargs in recorder.calls:
        torch.library.opcheck(function, args, kwargs)


@pytest.mark.parametrize(
    ("case", "dynamic"), [*((case, False) for case in CASES), ("lookup", True), ("pair_lookup", True)]
)
def test_compiled_is_eager(case, dynamic):
    operator, arguments, v, leaves = CASES[case]
    for some in (leaves, ("x",)):
        expected = differentiate(operator, arguments, v, some)
        torch.compiler.reset()
        compiled = torch.compile(operator, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        assert_same_bits(differentiate(compiled, arguments, v, some), expected)
    torch.compiler.reset()


# Raised inside torch where it resumes after a part that stays uncompiled.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("gradient", ["dense", "fused"])
def test_a_compiled_network_is_eager(gradient):
    _, lower, _, _ = CASES["lookup"]
    _, upper, v, _ = CASES["lookup without delays"]

    def network(x, tables, upper_tables, updates):
        options = [{"gradient": gradient, "update": update} for update in updates]
        hidden = torch.tanh(lookup(**(lower | {"x": 2.0 * x, "tables": tables}), **options[0]))
        return lookup(**(upper | {"x": hidden, "tables": upper_tables}), **options[1])

    results = []
    for is_compiled in (False, True):
        torch.compiler.reset()
        # A fused layer is left as it is: what lies around it is compiled.
        whole = gradient == "dense"
        run = torch.compile(network, fullgraph=whole, backend="aot_eager") if is_compiled else network
        x, *tables = (t.clone().requires_grad_() for t in (lower["x"], lower["tables"], upper["tables"]))
        updates = [None if gradient == "dense" else RowUpdate("sgd", rate=0.1) for _ in tables]
        y = run(x, *tables, updates)
        y.backward(v)
        gradients = [x.grad, *(table.grad for table in tables if gradient == "dense")]
        results.append([y.detach(), *gradients, *(table.detach() for table in tables)])
    torch.compiler.reset()
    assert_same_bits(results[1], results[0])


# --- the choice of kernel ---------------------------------------------------------------------------------


def test_the_reference_is_always_there():
    assert dispatch.available_kernels()[0] == "reference"
    assert set(dispatch.available_kernels()) <= {"reference", "scalar", "avx2", "avx512"}


def test_kernel_info_says_which_kernel_runs(kernel):
    assert dispatch.kernel_info()["kernel"] == kernel


def test_a_kernel_chosen_in_a_block_is_left_with_it():
    before = dispatch.kernel_info()["kernel"]
    with dispatch.use_kernel("reference"):
        for name in dispatch.available_kernels():
            with dispatch.use_kernel(name):
                assert dispatch.kernel_info()["kernel"] == name
            assert dispatch.kernel_info()["kernel"] == "reference"
    assert dispatch.kernel_info()["kernel"] == before


def test_a_kernel_asked_for_by_name_and_missing_raises():
    before = dispatch.kernel_info()["kernel"]
    with pytest.raises(ValueError, match=r"neon9.*reference|reference.*neon9"), dispatch.use_kernel("neon9"):
        pass
    assert dispatch.kernel_info()["kernel"] == before


# --- many callers, dirty memory -----------------------------------------------------------------------------


@every_case
def test_calls_from_several_threads_do_not_disturb_one_another(kernel, case):
    operator, arguments, v, leaves = CASES[case]
    expected = differentiate(operator, arguments, v, leaves)
    with using_threads(2), ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(differentiate, operator, arguments, v, leaves) for _ in range(24)]
        for call in calls:
            assert_same_bits(call.result(), expected)


DIRTY_MEMORY = """
import sys, torch
from tests.ops.test_custom_ops import CASES
from tests.ops.cases import differentiate
torch.set_num_threads(2)
torch.save({case: differentiate(*CASES[case]) for case in CASES}, sys.argv[1])
"""


def test_nothing_depends_on_what_malloc_returns(tmp_path):
    # glibc fills what it hands out with this byte's complement: 0x7f7f7f7f is 3.4e38 as a float.
    environment = os.environ | {"MALLOC_PERTURB_": str(0x80), "OMP_NUM_THREADS": "2"}
    repository = Path(__file__).resolve().parents[2]
    path = tmp_path / "results.pt"
    subprocess.run(
        [sys.executable, "-c", DIRTY_MEMORY, str(path)],
        env=environment,
        cwd=repository,
        check=True,
        timeout=120,
    )
    actual = torch.load(path)
    for case, (operator, arguments, v, leaves) in CASES.items():
        assert_same_bits(actual[case], differentiate(operator, arguments, v, leaves))


WITHOUT_EXTENSION = """
import sys, warnings
sys.modules["polychron._native"] = None  # importing it fails
import torch
from polychron.ops import RowUpdate, available_kernels, kernel_info, lookup, use_kernel
assert available_kernels() == ["reference"]
assert kernel_info()["kernel"] == "reference"
try:
    use_kernel("scalar")
except ValueError as error:
    assert "scalar" in str(error) and "extension" in str(error), error
else:
    raise AssertionError("a kernel that is missing was accepted")
anchors = torch.tensor([[[0, 1]]], dtype=torch.int32)
tables = torch.tensor([[[1.0], [2.0]]], requires_grad=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        y = lookup(torch.tensor([[1.0, 0.0]]), tables, anchors, gradient="fused", update=RowUpdate("sgd", rate=0.5))
        y.sum().backward()
assert tables.tolist() == [[[1.0], [0.5]]], tables
assert len(caught) == 1 and "reference" in str(caught[0].message), [str(w.message) for w in caught]
"""


def test_without_the_extension_the_reference_serves_and_says_so_once():
    subprocess.run([sys.executable, "-c", WITHOUT_EXTENSION], check=True, timeout=120)
