import math
from fractions import Fraction

import pytest

from polychron.analysis import log10_addresses, log10_orders, log10_patterns, log10_rates, log10_times, plot_capacity
from polychron.analysis.capacity import power_of_ten
from polychron.errors import InputError


@pytest.mark.parametrize("n", [1, 2, 5, 20, 60, 170])
def test_small_capacities_are_exact(n):
    assert log10_orders(n) == pytest.approx(math.log10(math.factorial(n)), abs=1e-9)
    assert log10_times(n, 3) == pytest.approx(math.log10(3**n))
    assert log10_rates(n, 0.5) == pytest.approx(math.log10(math.exp(Fraction(1, 4) * n)))
    assert log10_addresses(n, 2) == pytest.approx(math.log10(2 ** (2 * n)))


def test_huge_capacities_do_not_overflow():
    assert log10_orders(10**9) == pytest.approx(8_565_705_522.996, abs=1)
    assert math.isfinite(log10_rates(10**12))
    assert math.isfinite(log10_addresses(65536, 30))


def test_the_published_examples():
    assert log10_times(100, 100) == 200
    assert log10_orders(60) > 80
    assert log10_patterns(100, 101) == log10_orders(100)
    assert log10_patterns(101, 100) == log10_times(101, 100)


def test_numbers_for_people():
    assert [power_of_ten(x) for x in (0.0, 3.0, 4.0, 1e6)] == ["1", "1e+03", "10^4.0", "10^1000000.0"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log10_orders(0), "n_neurons must be at least 1"),
        (lambda: log10_times(3, 0), "n_bins must be at least 1"),
        (lambda: log10_rates(3, math.nan), "epsilon must be finite"),
        (lambda: log10_addresses(1, 0), "n_comparisons must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_plot_replaces_the_file_and_leaves_nothing_beside_it(tmp_path, ending):
    path = tmp_path / f"capacity.{ending}"
    path.write_bytes(b"old")
    plot_capacity(path, n_neurons=range(2, 20))
    assert path.stat().st_size > 1000
    assert list(tmp_path.iterdir()) == [path]


def test_a_plot_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"must end in one of .*\.png"):
        plot_capacity(tmp_path / "capacity.doc")
    with pytest.raises(InputError, match="cannot write"):
        plot_capacity(tmp_path / "nowhere" / "capacity.png")
