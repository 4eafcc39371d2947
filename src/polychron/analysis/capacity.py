r"""How many patterns a network can tell apart, as powers of ten: none of these numbers fits a float.

.. math:: \text{rates: } e^{\varepsilon^2 n},\quad \text{orders: } n!,\quad
          \text{times: } m^n,\quad \text{addresses: } 2^{n_t n_c}
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polychron.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LN10 = math.log(10)


def log10_rates(n_neurons: int, epsilon: float = 0.1) -> float:
    """log10 exp(eps^2 n): directions of n rates that are nearly orthogonal, to within eps.

    Example:
        >>> round(log10_rates(1000), 2)
        4.34
    """
    _require_count("n_neurons", n_neurons)
    if not 0 <= epsilon < math.inf:
        raise InputError(f"epsilon must be finite and not negative; got {epsilon}")
    return epsilon**2 * n_neurons / _LN10


def log10_orders(n_neurons: int) -> float:
    """log10 n!: orders in which n neurons can fire one spike each.

    Example:
        >>> round(log10_orders(60), 2)   # more than the atoms of the visible universe
        81.92
    """
    _require_count("n_neurons", n_neurons)
    return math.lgamma(n_neurons + 1) / _LN10


def log10_times(n_neurons: int, n_bins: int) -> float:
    """log10 m^n: patterns of n spikes, each in one of m bins of time.

    Example:
        >>> log10_times(100, 100)
        200.0
    """
    _require_count("n_neurons", n_neurons)
    _require_count("n_bins", n_bins)
    return n_neurons * math.log10(n_bins)


def log10_patterns(n_neurons: int, n_bins: int) -> float:
    """The paper's capacity of a spiking layer: log10 n! where n < m, otherwise log10 m^n.

    Example:
        >>> log10_patterns(100, 100), round(log10_patterns(100, 101), 2)
        (200.0, 157.97)
    """
    return log10_orders(n_neurons) if n_neurons < n_bins else log10_times(n_neurons, n_bins)


def log10_addresses(n_tables: int, n_comparisons: int) -> float:
    """log10 2^(n_t n_c): addresses that the tables of one layer form together, an upper bound of what it tells apart.

    Of n neurons no more than n! orders exist, so that for many tables :func:`log10_orders` is the lower bound.

    Example:
        >>> round(log10_addresses(n_tables=16, n_comparisons=6), 1)
        28.9
    """
    _require_count("n_tables", n_tables)
    _require_count("n_comparisons", n_comparisons)
    return n_tables * n_comparisons * math.log10(2)


def power_of_ten(log10: float) -> str:
    """A number for people: as it is while it is short, then as a power of ten.

    Example:
        >>> power_of_ten(2.0), power_of_ten(157.97), power_of_ten(0.004)
        ('100', '10^158.0', '1.01')
    """
    return f"{10**log10:.3g}" if log10 < 4 else f"10^{log10:.1f}"


def plot_capacity(path: Path, n_neurons: Sequence[int] = tuple(range(2, 201)), n_bins: int = 100) -> None:
    """Draws the capacities over n into a PNG, SVG or PDF file.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    from polychron.analysis.plots import saved_figure

    with saved_figure(path, width=7.5, height=4.6) as figure:
        _draw(figure.subplots(), list(n_neurons), n_bins)


def _draw(axes: Axes, n: list[int], n_bins: int) -> None:
    axes.plot(n, [log10_orders(k) for k in n], label="orders of spikes, n!")
    axes.plot(n, [log10_times(k, n_bins) for k in n], label=f"spikes in {n_bins} bins, {n_bins}$^n$", linestyle="--")
    axes.plot(n, [log10_addresses(16, 6)] * len(n), label="addresses of 16 tables x 6 comparisons", linestyle=":")
    for epsilon in (0.1, 0.3):
        axes.plot(
            n, [log10_rates(k, epsilon) for k in n], label=rf"rates, $e^{{\epsilon^2 n}}$, $\epsilon$ = {epsilon}"
        )
    axes.set(xlabel="neurons n", ylabel="patterns, as a power of ten", title="What n neurons can tell apart")
    axes.grid(alpha=0.3)
    axes.legend()


def _require_count(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name} must be at least 1; got {value}")
