"""Every kernel that this machine can run is forced in turn, the compiled ones on one thread and on two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from polychron.ops import dispatch

from .cases import using_threads


@pytest.fixture(params=dispatch.available_kernels())
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the kernel in force."""
    with dispatch.use_kernel(request.param):
        yield request.param


@pytest.fixture(
    params=[(name, n) for name in dispatch.available_kernels() for n in (1, 2) if (name, n) != ("reference", 2)],
    ids=lambda choice: f"{choice[0]}-{choice[1]}",
)
def kernel_on_threads(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """The kernel and the number of threads in force; torch's own threads are not what is tested here."""
    name, n_threads = request.param
    with dispatch.use_kernel(name), using_threads(n_threads):
        yield request.param


@pytest.fixture(params=[dispatch.available_kernels()[0], dispatch.available_kernels()[-1]])
def one_of_each(request: pytest.FixtureRequest) -> Iterator[str]:
    """The reference, then the fastest kernel: for what does not depend on the instruction set."""
    with dispatch.use_kernel(request.param):
        yield request.param


@pytest.fixture
def native_kernels() -> list[str]:
    """The kernels that are compiled, if any: all but the reference."""
    names = [name for name in dispatch.available_kernels() if name != "reference"]
    if not names:
        pytest.skip("the extension is not built")
    return names
