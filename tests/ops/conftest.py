"""Every kernel that this machine can run is forced in turn, on one thread and on two."""

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


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of threads in force."""
    with using_threads(request.param):
        yield request.param


@pytest.fixture
def native_kernels() -> list[str]:
    """The kernels that are compiled, if any: all but the reference."""
    names = [name for name in dispatch.available_kernels() if name != "reference"]
    if not names:
        pytest.skip("the extension is not built")
    return names
