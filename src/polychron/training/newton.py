"""The least of a convex cost by Newton's method, near where it begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_STEPS = 20

# Nats of all positions, their slope (n,) and curvature (n, n), at factors (n,).
Cost = Callable[[Tensor], tuple[float, Tensor, Tensor]]


def least(start: Tensor, cost: Cost, towards: Tensor, strength: Tensor, *, lowest: float = -math.inf) -> Tensor:
    r"""The numbers x at which :math:`\mathrm{cost}(x) + \tfrac12 \sum_k s_k (x_k - m_k)^2` is least.

    Newton's steps, halved while they lead uphill; at most twenty.

    Args:
        start: where to begin, (n,) float64.
        cost: convex; its value, slope (n,) and curvature (n, n), float64.
        towards: m, (n,).
        strength: s, (n,), not negative.
        lowest: no number is taken below it.

    Example:
        >>> bowl = lambda x: (float(x @ x), 2 * x, 2 * torch.eye(1, dtype=torch.float64))
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> least(one, bowl, towards=one, strength=2 * one).tolist()   # x^2 + (x - 1)^2
        [0.5]
    """
    ridge = torch.diag(strength + 1e-9)

    def with_prior(at: Tensor) -> tuple[float, Tensor, Tensor]:
        value, slope, curvature = cost(at)
        away = at - towards
        return value + float(strength @ away**2) / 2, slope + strength * away, curvature + ridge

    found = start
    value, slope, curvature = with_prior(found)
    for _ in range(_STEPS):
        step = torch.linalg.solve(curvature, slope)
        while True:  # Newton's step may lead too far
            tried = (found - step).clamp(min=lowest)
            after = with_prior(tried)
            if after[0] <= value or step.abs().max() < 1e-4:
                break
            step = step / 2
        moved = (tried - found).abs().max()
        if after[0] > value:
            break
        found, (value, slope, curvature) = tried, after
        if moved < 1e-3:
            break
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block PyTorch's operations run on the thread that calls them."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@contextmanager
def side_by_side() -> Iterator[Callable[..., Iterator[Any]]]:
    """A ``map`` that calls on as many threads as PyTorch has, each of whose operations runs on one.

    What is made of its results in their order has the same bits for any number of threads.
    """
    n_threads = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(n_threads) as pool:  # threads that begin within know of one as well
        yield pool.map
