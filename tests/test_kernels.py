"""Which arithmetic runs, and what it says of itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import polychron
from polychron.memory import zero_tables
from polychron.ops import available_kernels, dispatch, lookup, table_pages, use_kernel


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


def test_kernel_info_counts_the_memory_of_large_tables_and_forgets_it():
    before = polychron.kernel_info()["table_bytes"]
    tables = [zero_tables(2, 1 << 15, 16), zero_tables(1, 1 << 16, 16), zero_tables(1, 8, 16)]
    info = polychron.kernel_info()
    assert info["table_bytes"] - before == 8 << 20
    if info["huge_page_bytes"] is not None:
        assert 0 <= info["huge_page_bytes"] <= info["table_bytes"]
    del tables
    assert polychron.kernel_info()["table_bytes"] == before


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="only Linux tells about pages")
def test_the_bytes_on_huge_pages_are_those_of_the_system():
    text = """
7f0000000000-7f0000800000 rw-p 00000000 00:00 0
Size:               8192 kB
AnonHugePages:      8192 kB
7f0001000000-7f0001400000 rw-p 00000000 00:00 0   [heap]
AnonHugePages:      2048 kB
7f0002000000-7f0002400000 rw-p 00000000 00:00 0
AnonHugePages:      4096 kB
VmFlags: rd wr mr
"""
    blocks = {0x7F0000000000: 4 << 20, 0x7F0001000000: 4 << 20}
    assert table_pages._huge_bytes(text, blocks) == (4 << 20) + (2 << 20)
    assert table_pages._huge_bytes(Path("/proc/self/smaps").read_text(), {}) == 0


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="only Linux lists what is mapped")
def test_a_step_brings_no_second_openmp_runtime():
    """Two runtimes would each keep a thread for every core, spinning for work. Ours are plain threads."""
    code = """
import re, torch
from pathlib import Path
def runtimes():
    names = (line.split()[-1].rpartition("/")[2] for line in Path("/proc/self/maps").read_text().splitlines())
    return {name for name in names if re.match(r"lib(g|i|)omp", name)}
torch.set_num_threads(2)
(torch.randn(500, 500) @ torch.randn(500, 500)).sum()
alone = runtimes()
from polychron.nn import LookupTables
from polychron.ops import RowUpdate
layer = LookupTables(16, 16, 64, 6, gradient="fused", update=RowUpdate("sgd"))
layer(torch.randn(2000, 16, requires_grad=True)).sum().backward()
assert runtimes() == alone and len(alone) <= 1, (alone, runtimes())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# A layer that is worth a second thread, and a loop that ends once PyTorch's threads have computed it.
ON_PYTORCHS_THREADS = """
import os, time, torch
from polychron.nn import LookupTables
from polychron.ops.dispatch import native
torch.set_num_threads(2)
layer = LookupTables(8, 8, 64, 6)
x = torch.randn(4000, 8)
y = layer(x)
if native.share_openmp_team(True) and len(os.sched_getaffinity(0)) > 1:  # on one core no two threads are awake at once
    until = time.monotonic() + 50
    while native.n_openmp_regions() == 0 and time.monotonic() < until:
        torch.ones(1_000_000) + 1  # after which its threads are awake
        assert torch.equal(layer(x), y)
    assert native.n_openmp_regions() > 0
"""
SHARES_THREADS = polychron.kernel_info()["shares_threads"] and len(os.sched_getaffinity(0)) > 1


@pytest.mark.skipif(not SHARES_THREADS, reason="PyTorch's threads are not OpenMP's here, or there is one core")
def test_kernels_run_on_pytorchs_threads_while_these_are_awake():
    code = """
for n_threads in (1, 2, 3, 2):
    torch.set_num_threads(n_threads)
    for share in (True, False):
        native.share_openmp_team(share)
        for pause in (0, 0, 0.05):
            before = native.n_openmp_regions()
            torch.ones(1_000_000) + 1
            time.sleep(pause)
            assert torch.equal(layer(x), y)
            assert share or native.n_openmp_regions() == before
"""
    subprocess.run([sys.executable, "-c", ON_PYTORCHS_THREADS + code], check=True, timeout=120)


def test_a_forked_child_computes_too():
    """Data loaders fork: the child has none of the threads and must not wait for them."""
    code = """
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(layer(x), y) else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
"""
    subprocess.run([sys.executable, "-c", ON_PYTORCHS_THREADS + code], check=True, timeout=120)


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
