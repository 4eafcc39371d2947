"""Inputs of the operators for the tests, seeded: integer-valued ones whose sums are exact, and real ones.

In an integer-valued case every sum is exact in float32, so that the order of summation cannot matter and
results are compared with `torch.equal`. For the gradient in x that takes more than integers, because it is
scaled by U'(u) = -+0.5 / (1 + |u|)^2: neuron k takes the values 0 and m, with m = 1, 3 or 7 by k modulo 3,
and a comparison stays inside its class, so that u is 0 or +-m, 1 + |u| is a power of two, and ties are
frequent.
"""

# B batch, T position, n input, I table, R comparison, J row, K output, D position of the history

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

MAGNITUDES = (1.0, 3.0, 7.0)

Arguments = dict[str, Any]


class LookupSizes(NamedTuple):
    """One lookup; max_delay None: no delays; n_history None: no history."""

    B: int
    T: int
    n: int
    K: int
    n_tables: int
    n_comparisons: int
    max_delay: int | None = None
    n_history: int | None = None
    residual: bool = False

    def __str__(self) -> str:
        """A short name for the test."""
        return short_name(self)


# Every odd size is met on every axis; delays reach past the start, and past a history shorter than they are.
LOOKUP_SIZES = [
    LookupSizes(1, 1, 1, 1, 1, 1, max_delay=2, n_history=1, residual=True),
    LookupSizes(2, 7, 7, 8, 9, 3),
    LookupSizes(3, 8, 9, 7, 15, 1, max_delay=3),
    LookupSizes(1, 9, 8, 9, 16, 6, max_delay=4, n_history=9),
    LookupSizes(2, 15, 15, 15, 7, 4, max_delay=16, n_history=5, residual=True),
    LookupSizes(1, 16, 17, 16, 8, 5, max_delay=1, n_history=1),
    LookupSizes(2, 17, 16, 33, 1, 8, max_delay=40, n_history=3),
    LookupSizes(1, 31, 33, 32, 17, 2, max_delay=7, n_history=31),
    LookupSizes(2, 32, 31, 31, 33, 7, residual=True),
    LookupSizes(1, 33, 32, 17, 31, 3, max_delay=5, n_history=5),
    LookupSizes(5, 33, 33, 33, 32, 6, max_delay=8, n_history=2, residual=True),
    LookupSizes(1, 15, 9, 1, 32, 10, max_delay=3, n_history=8),
    LookupSizes(2, 31, 17, 64, 15, 4, max_delay=3, n_history=0),
    LookupSizes(3, 1, 16, 48, 16, 3, max_delay=2, n_history=4),
    # One position of many tables, at once; few positions of many outputs, which threads share.
    LookupSizes(1, 1, 17, 9, 300, 4, max_delay=2, n_history=2),
    LookupSizes(1, 1, 9, 33, 257, 3),
    LookupSizes(3, 1, 64, 700, 513, 2),
    # What the kernels cut into pieces: many outputs, long sequences, rows sorted in 2 passes.
    LookupSizes(2, 33, 16, 150, 17, 7, max_delay=3),
    LookupSizes(3, 300, 40, 9, 5, 3, max_delay=20, n_history=7),
    LookupSizes(2, 17, 33, 3, 2, 12, max_delay=1),
]

EMPTY_LOOKUP_SIZES = [
    LookupSizes(0, 5, 8, 8, 4, 3, max_delay=2, n_history=2, residual=True),
    LookupSizes(3, 0, 8, 9, 4, 3, max_delay=2, n_history=2),
    LookupSizes(0, 0, 7, 7, 3, 2, residual=True),
]


class PairSizes(NamedTuple):
    """One pair_lookup; n_key_comparisons None: query and key share anchors; window None: all earlier."""

    B: int
    T: int
    n: int
    K: int
    n_tables: int
    n_comparisons: int
    n_key_comparisons: int | None
    n_position_bits: int
    window: int | None = None

    def __str__(self) -> str:
        """A short name for the test."""
        return short_name(self)


PAIR_SIZES = [
    PairSizes(1, 1, 2, 1, 1, 1, None, 1),
    PairSizes(2, 7, 7, 8, 9, 2, None, 2),
    PairSizes(3, 8, 9, 7, 15, 1, 2, 1, window=1),
    PairSizes(1, 9, 8, 9, 16, 3, None, 3, window=4),
    PairSizes(2, 15, 15, 15, 7, 4, 3, 2, window=7),
    PairSizes(1, 16, 17, 16, 8, 2, 4, 0),
    PairSizes(2, 17, 16, 33, 1, 4, None, 4, window=16),
    PairSizes(1, 31, 33, 32, 17, 3, None, 2, window=8),
    PairSizes(2, 32, 31, 31, 33, 2, 1, 3, window=40),
    PairSizes(1, 33, 32, 17, 31, 1, None, 2, window=9),
    PairSizes(2, 33, 33, 48, 32, 2, None, 1),
    PairSizes(5, 3, 9, 64, 15, 2, 3, 2),
    PairSizes(2, 9, 16, 130, 3, 2, None, 2),
    PairSizes(3, 70, 8, 5, 3, 2, None, 2, window=5),
    PairSizes(2, 17, 16, 3, 2, 5, 4, 4),
    PairSizes(3, 20, 8, 8, 1, 6, None, 4),  # 2 MiB a table: positions are taken by the address of their query
]

EMPTY_PAIR_SIZES = [
    PairSizes(0, 5, 8, 8, 4, 2, None, 2),
    PairSizes(3, 0, 8, 9, 4, 2, 1, 2, window=2),
]


def short_name(sizes: NamedTuple) -> str:
    """What is set, without the leading n_: "B2-T7-..."."""
    named = sizes._asdict().items()
    return "-".join(f"{name.removeprefix('n_')}{value}" for name, value in named if value not in (None, False))


def is_small(sizes: LookupSizes | PairSizes) -> bool:
    """Whether the transcription, in plain Python, is done with it in a moment."""
    n_row_bits = sizes.n_comparisons
    n_readings = sizes.B * sizes.T * sizes.n_tables
    if isinstance(sizes, PairSizes):
        n_row_bits += (sizes.n_key_comparisons or sizes.n_comparisons) + sizes.n_position_bits
        n_readings *= min(sizes.T, sizes.window or sizes.T)
    return n_readings * sizes.K < 100_000 and sizes.n_tables * 2**n_row_bits * sizes.K < 100_000


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for each case."""
    return torch.Generator().manual_seed(seed)


def integers(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Float tensor of integers low..high, both included."""
    return torch.randint(low, high + 1, shape, generator=generator).float()


def exact_latencies(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """(..., n): neuron k fires at 0 or at m, m = 1, 3, 7 by k modulo 3."""
    magnitude = torch.tensor([MAGNITUDES[k % 3] for k in range(shape[-1])])
    return integers(0, 1, shape, generator) * magnitude


def exact_anchors(n_tables: int, n_comparisons: int, n: int, generator: torch.Generator) -> Tensor:
    """(n_tables, n_comparisons, 2): two neurons of the same class modulo 3, now and then twice the same."""
    first = torch.randint(n, (n_tables, n_comparisons), generator=generator)
    in_class = (n - 1 - first % 3) // 3 + 1
    step = torch.randint(1 << 30, first.shape, generator=generator) % in_class
    return torch.stack([first, first % 3 + 3 * step], dim=-1).int()


def lookup_case(sizes: LookupSizes, *, values: str, seed: int = 0) -> tuple[Arguments, Tensor]:
    """(keyword arguments of `lookup`, v = dL/dy); values: "integer" or "real"."""
    generator = seeded(seed)
    B, T, n, K, n_tables, n_comparisons, max_delay, n_history, residual = sizes
    if residual and n != K:
        raise AssertionError("a residual layer has as many outputs as inputs")
    anchors = exact_anchors(n_tables, n_comparisons, n, generator)
    shape = (n_tables, 2**n_comparisons, K)
    if values == "integer":
        x = exact_latencies((B, T, n), generator)
        history = None if n_history is None else exact_latencies((B, n_history, n), generator)
        tables, v = integers(-3, 3, shape, generator), integers(-2, 2, (B, T, K), generator)
    else:
        anchors = torch.randint(n, anchors.shape, generator=generator).int()
        x = torch.randn(B, T, n, generator=generator)
        history = None if n_history is None else torch.randn(B, n_history, n, generator=generator)
        tables, v = torch.randn(shape, generator=generator), torch.randn(B, T, K, generator=generator)
    delays = None if max_delay is None else torch.randint(max_delay + 1, anchors.shape, generator=generator).int()
    arguments = {"x": x, "tables": tables, "anchors": anchors, "delays": delays}
    return arguments | {"history": history, "residual": residual}, v


def pair_case(sizes: PairSizes, *, values: str, seed: int = 0) -> tuple[Arguments, Tensor]:
    """(keyword arguments of `pair_lookup` but position_gradient, v = dL/dy); values: "integer" or "real"."""
    generator = seeded(seed)
    B, T, n, K, n_tables, n_comparisons, n_key_comparisons, n_position_bits, window = sizes
    n_row_bits = n_comparisons + (n_key_comparisons or n_comparisons) + n_position_bits
    n_distances = max(1, T if window is None else min(T, window + 1))
    shape, code_shape = (n_tables, 2**n_row_bits, K), (n_tables, n_distances, n_position_bits)
    anchors = exact_anchors(n_tables, n_comparisons, n, generator)
    key_anchors = None
    if n_key_comparisons is not None:
        key_anchors = exact_anchors(n_tables, n_key_comparisons, n, generator)
    if values == "integer":
        x = exact_latencies((B, T, n), generator)
        levels = torch.tensor([0.0, *MAGNITUDES, *(-m for m in MAGNITUDES)])
        position_code = levels[torch.randint(len(levels), code_shape, generator=generator)]
        tables, v = integers(-3, 3, shape, generator), integers(-2, 2, (B, T, K), generator)
    else:
        x, position_code = (
            torch.randn(B, T, n, generator=generator),
            torch.randn(code_shape, generator=generator),
        )
        tables, v = torch.randn(shape, generator=generator), torch.randn(B, T, K, generator=generator)
    arguments = {"x": x, "tables": tables, "anchors": anchors, "position_code": position_code}
    return arguments | {"key_anchors": key_anchors, "window": window}, v


def readout_case(sizes: LookupSizes, *, values: str, seed: int = 0) -> tuple[Arguments, Tensor]:
    """(keyword arguments of `readout_cross_entropy`, dL/dnats)."""
    arguments, _ = lookup_case(sizes._replace(residual=False), values=values, seed=seed)
    generator = seeded(seed + 1)
    del arguments["residual"]
    arguments["targets"] = torch.randint(sizes.K, (sizes.B, sizes.T), generator=generator)
    return arguments, torch.randn(sizes.B, sizes.T, generator=generator)


def as_double(arguments: Arguments) -> Arguments:
    """The same values in float64."""
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }


def as_lists(arguments: Arguments) -> Arguments:
    """The same values as nested lists, for the transcription."""
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in arguments.items()}


def differentiate(operator, arguments: Arguments, v: Tensor, leaves: tuple[str, ...], **options) -> list[Tensor]:
    """[y, dL/d(leaf) for each of `leaves`] of L = (y * v).sum(), on copies of the leaves.

    A leaf that the result does not depend on has the gradient None or 0; it counts as 0 here.
    """
    copies = {name: arguments[name].detach().clone().requires_grad_() for name in leaves}
    y = operator(**(arguments | copies), **options)
    y.backward(v)
    gradients = [torch.zeros_like(copy) if copy.grad is None else copy.grad for copy in copies.values()]
    return [y.detach(), *gradients]


def assert_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Shape, type and every value equal; a NaN equals nothing."""
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(one, other), f"largest difference {(one - other).abs().max()}"


def assert_near(actual: list[Tensor], expected: list[Any], rtol: float, atol: float) -> None:
    """Equal within rounding; `expected` may be nested lists."""
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(
            one.double(), torch.as_tensor(other, dtype=torch.float64).reshape(one.shape), rtol=rtol, atol=atol
        )


@contextmanager
def using_threads(n_threads: int) -> Iterator[None]:
    """Run the block on so many threads, then restore."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def guarded_memory() -> Iterator[None]:
    """Memory for outputs starts as NaN (integers as nonsense), with guard words around what the kernels get.

    The guards are checked at the end of the block: a kernel that wrote past an output has changed them.
    """
    n_guards = 32
    blocks: list[tuple[np.ndarray, int]] = []

    def nonsense(dtype: np.dtype) -> float | int:
        return np.nan if dtype.kind == "f" else np.iinfo(dtype).max - 5

    def empty(shape, dtype=np.float64):
        dtype, count = np.dtype(dtype), int(np.prod(shape))
        block = np.full(count + 2 * n_guards, nonsense(dtype), dtype=dtype)
        blocks.append((block, count))
        return block[n_guards : n_guards + count].reshape(shape)

    def zeros(shape, dtype=np.float64):
        array = empty(shape, dtype)
        array[...] = 0
        return array

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", empty)
        patch.setattr(np, "zeros", zeros)
        torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
    for block, count in blocks:
        guards = np.concatenate([block[:n_guards], block[n_guards + count :]])
        assert np.array_equal(guards, np.full_like(guards, nonsense(block.dtype)), equal_nan=block.dtype.kind == "f")
