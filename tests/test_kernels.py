"""Which arithmetic runs, and what it says of itself."""

import os
import subprocess
import sys

import pytest
import torch

import polychron
from polychron.memory import zero_tables
from polychron.ops import available_kernels, dispatch, lookup, use_kernel


def test_kernel_info_names_what_runs():
    info = polychron.kernel_info()
    assert info["kernel"] in info["available"]
    assert info["threads"] == torch.get_num_threads()


def test_a_kernel_is_forced_and_released():
    before = dispatch.current_kernel()
    for name in available_kernels():
        with use_kernel(name):
            assert dispatch.current_kernel() == name
        assert dispatch.current_kernel() == before


def test_a_kernel_that_is_missing_raises():
    with pytest.raises(ValueError, match="kernel must be one of"):
        use_kernel("abacus")


def test_the_environment_forces_a_kernel():
    code = "import polychron; print(polychron.kernel_info()['kernel'])"
    for name, expected in (("reference", "reference"), ("scalar", "scalar")):
        environment = {**os.environ, "POLYCHRON_KERNEL": name}
        out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert out.stdout.strip() == expected


def test_without_the_extension_the_reference_serves_and_says_so_once():
    code = """
import sys, warnings
sys.modules["polychron._native"] = None          # what an installation without a compiler looks like
import torch
from polychron.nn import LookupTables
from polychron.ops import available_kernels
assert available_kernels() == ["reference"], available_kernels()
layer = LookupTables(8, 8, 4, 3, max_delay=2, residual=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        layer(torch.randn(2, 5, 8)).sum().backward()
assert len([w for w in caught if "native kernels are missing" in str(w.message)]) == 1, caught
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 8, 5), (4, 1 << 12, 64)])
def test_tables_are_zero_aligned_and_writable(shape):
    tables = zero_tables(*shape)
    assert tables.shape == shape
    assert tables.data_ptr() % 64 == 0
    assert not tables.any()
    tables += 1
    assert tables.sum() == tables.numel()


def test_large_tables_start_on_a_huge_page():
    assert zero_tables(1, 1 << 16, 16).data_ptr() % (1 << 21) == 0


def test_a_forked_child_computes_too():
    """Data loaders fork: the child has no pool threads and must not wait for them."""
    code = """
import os, torch
from polychron.nn import LookupTables
torch.set_num_threads(2)
layer = LookupTables(8, 8, 64, 6)
x = torch.randn(4000, 8)
y = layer(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(layer(x), y) else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_two_python_threads_may_compute_at_once():
    from concurrent.futures import ThreadPoolExecutor

    anchors = torch.tensor([[[0, 1], [2, 3]]] * 32, dtype=torch.int32)
    tables = torch.randn(32, 4, 16)
    xs = [torch.randn(500, 4) for _ in range(8)]
    expected = [lookup(x, tables, anchors) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for got, want in zip(pool.map(lambda x: lookup(x, tables, anchors), xs), expected, strict=True):
                assert torch.equal(got, want)
