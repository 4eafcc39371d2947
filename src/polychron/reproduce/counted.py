"""Items that are counted, not measured: Tables III and IV, and the capacities."""

from __future__ import annotations

from pathlib import Path

from polychron import analysis, models
from polychron.analysis.capacity import power_of_ten
from polychron.reproduce.outcome import CONFIRMED, NOT_CONFIRMED, Finding, Reproduction

N_POSITIONS = 32
_BYTES = 256


def _equal(claim: str, published: int | str, ours: int | str, note: str = "") -> Finding:
    """A figure that must come out to the unit."""
    text = [f"{value:,}" if isinstance(value, int) else value for value in (published, ours)]
    return Finding(claim, *text, CONFIRMED if published == ours else NOT_CONFIRMED, note)


def table3() -> Reproduction:
    """Synapses: of one head and its FFN, of a dense layer, of the whole transformer."""
    head, dense = analysis.SpikingHead(), analysis.DenseLayer()
    whole = analysis.published_synapses(models.preset("transformer", "paper", _BYTES))
    findings = (
        _equal("synapses of a spiking layer with one head", 10_496_000, head.synapses,
               "n_t n (2^(2 n_c + p) + 2^n_c) at n = 16, n_t = 10, n_c = 6, p = 4: not the experiment's setting"),
        _equal("synapses of a dense layer", 3_145_728, dense.synapses, "4 d^2 + 2 d d_ff at d = 512, d_ff = 2048"),
        _equal("synapses of the published transformer", 805_773_312, whole, "counted from the preset `paper`"),
        Finding(
            "much smaller size", "(in words)", f"{head.synapses / dense.synapses:.1f} times as many synapses",
            NOT_CONFIRMED, "a spiking layer holds more numbers than the dense one beside it; it touches fewer",
        ),
    )  # fmt: skip
    return Reproduction("table3", "synapses (Table III), recomputed", findings, measured={"synapses": whole})


def table4() -> Reproduction:
    """Operations and bandwidth, to the unit; and the 10,000 times with what it leaves out."""
    head, dense = analysis.SpikingHead(), analysis.DenseLayer()
    form = lambda bandwidth: f"{bandwidth.constant:,} + {bandwidth.slope} n"  # noqa: E731
    constant, at_32, rows, both, operations, _ = analysis.critique(N_POSITIONS)
    findings = (
        _equal("operations of a spiking layer, 32 positions", 172_800, head.operations(N_POSITIONS)),
        _equal("operations of a dense layer, 32 positions", 235_405_312, dense.operations(N_POSITIONS),
               "the published form is inferred"),
        _equal("numbers read for a token, spiking", "120 + 30 n", form(head.bandwidth)),
        _equal("numbers read for a token, dense", "1,048,576 + 576 n", form(dense.bandwidth)),
        Finding(
            "10,000 times less bandwidth", "10,000", f"{constant.ratio:,.0f}, {at_32.ratio:,.0f}, {rows.ratio:,.0f}",
            NOT_CONFIRMED,
            f"{constant.ratio:,.0f} of the constant terms alone; {at_32.ratio:,.0f} at 32 positions; {rows.ratio:,.0f} "
            f"with the rows that are added counted, {both.ratio:,.0f} with the dense MLP's matrices as well",
        ),
        Finding(
            "10,000 times less compute", "10,000", f"{operations.ratio:,.0f}", NOT_CONFIRMED,
            f"{operations.dense:,} / {operations.spiking:,} operations, for 32 positions",
        ),
    )  # fmt: skip
    ratios = {line.claim: line.ratio for line in analysis.critique(N_POSITIONS)}
    return Reproduction("table4", "operations and bandwidth (Table IV), recomputed", findings, measured=ratios)


def fig3() -> Reproduction:
    """Capacity: orders of spikes beside directions of rates."""
    orders, times = analysis.log10_orders(60), analysis.log10_times(100, 100)
    rates = analysis.log10_rates(60, 0.1)
    findings = (
        Finding("orders in which 60 neurons can fire", "more than 10^80", f"{power_of_ten(orders)}",
                CONFIRMED if orders > 80 else NOT_CONFIRMED, "log10 60! by the logarithm of the gamma function"),
        Finding("patterns of 100 neurons in 100 bins of time", "10^200", f"{power_of_ten(times)}",
                CONFIRMED if round(times, 9) == 200 else NOT_CONFIRMED),
        Finding("directions of 60 rates that are nearly orthogonal", "exp(eps^2 n)", f"{power_of_ten(rates)} at 0.1",
                CONFIRMED, "an order of growth; what a network can *learn* to tell apart is bounded by its rows"),
    )  # fmt: skip

    def draw(path: Path) -> None:
        analysis.plot_capacity(path)

    measured = {"log10_orders_60": orders, "log10_times_100_100": times, "log10_rates_60": rates}
    return Reproduction("fig3", "capacity of spike orders and of rates", findings, measured=measured, draw=draw)
