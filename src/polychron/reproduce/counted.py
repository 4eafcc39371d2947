"""Items that are counted, not measured: Tables I, III and IV, and the capacities."""

from __future__ import annotations

from pathlib import Path

from polychron import analysis, models
from polychron.analysis.capacity import power_of_ten
from polychron.reproduce.outcome import CONFIRMED, NOT_CONFIRMED, Finding, Reproduction
from polychron.twins import PUBLISHED_SIZE
from polychron.twins.transformer import FEED_FORWARD

N_POSITIONS = 32
MOST_NEURONS = 200  # of the capacities: as many as the picture has
_BYTES = 256
_UNITS = {"K": 10**3, "M": 10**6}


def _equal(claim: str, published: int | str, ours: int | str, note: str = "") -> Finding:
    """A figure that must come out to the unit."""
    text = [f"{value:,}" if isinstance(value, int) else value for value in (published, ours)]
    return Finding(claim, *text, CONFIRMED if published == ours else NOT_CONFIRMED, note)


def _rounds_to(published: str, value: int) -> bool:
    """Whether a number is, rounded, one that is published in thousands or millions.

    Example:
        >>> _rounds_to("5.4K", 5_376), _rounds_to("5.4K", 5_450), _rounds_to("5M", 5_259_264)
        (True, False, True)
    """
    figure, unit = published[:-1], published[-1]
    n_decimals = len(figure.partition(".")[2])
    return f"{value / _UNITS[unit]:.{n_decimals}f}" == figure


def _rounded(claim: str, published: str, ours: int, note: str = "") -> Finding:
    """A figure that is published in words: ours, which is to the unit, must round to it."""
    return Finding(claim, published, f"{ours:,}", CONFIRMED if _rounds_to(published, ours) else NOT_CONFIRMED, note)


def _straight_line(bandwidth: analysis.Bandwidth) -> str:
    return f"{bandwidth.constant:,} + {bandwidth.slope} n"


def table1() -> Reproduction:
    """Sizes of the recurrent network, and what it reads for a token: with the rows, which Table IV leaves out."""
    config = models.preset("recurrent", "paper", _BYTES)
    recurrent, readout = analysis.count_cost(config).layers
    total = analysis.published_synapses(config)
    embedding = total - recurrent.synapses - readout.synapses
    latencies = 2 * recurrent.comparisons
    bandwidth = latencies + recurrent.additions
    head = analysis.SpikingHead()
    at_one, at_one_with_rows = head.bandwidth.at(N_POSITIONS), head.bandwidth_with_rows.at(N_POSITIONS)
    ways = ((latencies, head.bandwidth), (bandwidth, head.bandwidth_with_rows))  # without rows and with them
    one_way = any(_rounds_to("5.4K", one) and _straight_line(four) == "120 + 30 n" for one, four in ways)
    _, at_32, rows, *_ = analysis.critique(N_POSITIONS)
    findings = (
        _equal("setting of the recurrent network", "context 32, n = 64, n_t = 64, n_c = 10",
               f"context {config.context}, n = {config.n_neurons}, n_t = {config.n_tables}, "
               f"n_c = {config.n_comparisons}", "the preset `recurrent paper`, with a vocabulary of 256"),
        _rounded("embedder", "16K", embedding, "256 n"),
        _rounded("footprint of S", "4M", recurrent.synapses, "n_t 2^n_c n"),
        _rounded("bandwidth of S for a token", "5.4K", bandwidth,
                 f"2 n_t n_c + n_t n: {latencies:,} latencies compared and {recurrent.additions:,} numbers in the rows "
                 "that are read"),
        _rounded("unembedder", "1M", readout.synapses,
                 f"{config.readout_n_tables} tables of {config.readout_n_comparisons} comparisons: this division of "
                 "the published figure is ours"),
        _rounded("whole network", "5M", total,
                 "trained on a text it has the vocabulary of that text, and fewer numbers"),
        Finding(
            "bandwidth is counted in one way in Tables I and IV", "(implied)",
            f"Table I {bandwidth:,}, without rows {latencies:,}; Table IV {at_one:,} at {N_POSITIONS} positions, with "
            f"rows {at_one_with_rows:,}", CONFIRMED if one_way else NOT_CONFIRMED,
            "Table I counts the rows that are read, n_t n; Table IV leaves those of attention out. Counted there as "
            f"here, {at_32.ratio:,.0f} times less bandwidth becomes {rows.ratio:,.0f}",
        ),
    )  # fmt: skip
    measured = {"embedding": embedding, "recurrent": recurrent.synapses, "bandwidth": bandwidth,
                "readout": readout.synapses, "synapses": total}  # fmt: skip
    return Reproduction("table1", "sizes of the recurrent network (Table I), recomputed", findings, measured=measured)


def table3() -> Reproduction:
    """Settings of both transformers; synapses of one head, of an FFN and of the whole."""
    config = models.preset("transformer", "paper", _BYTES)
    attention, ffn, *_ = analysis.count_cost(config).layers
    whole = analysis.published_synapses(config)
    dense = PUBLISHED_SIZE
    findings = (
        _equal("setting of the spiking transformer", "N = 6, 4 heads, n = 32, n_t = 16, n_c = 6, p = 4",
               f"N = {config.n_layers}, {config.n_heads} heads, n = {config.n_neurons}, n_t = {config.n_tables}, "
               f"n_c = {config.n_comparisons}, p = {config.n_position_bits}", "the preset `transformer paper`"),
        _equal("synapses of one head's attention", 33_554_432, attention.synapses // config.n_heads,
               "n_t 2^(2 n_c + p) n"),
        _equal("synapses of an FFN", 32_768, ffn.synapses, "n_t 2^n_c n"),
        _equal("synapses of the whole transformer", 805_773_312, whole,
               "with a readout of as many tables and the latencies of 256 tokens"),
        _equal("setting of the dense transformer", "N = 6, h = 8, d = 512, d_ff = 2048, d_k = 64",
               f"N = {dense.n_layers}, h = {dense.n_heads}, d = {dense.width}, d_ff = {FEED_FORWARD * dense.width}, "
               f"d_k = {dense.width // dense.n_heads}", "the twin of `fig13 --scale full`"),
    )  # fmt: skip
    measured = {"attention_of_a_head": attention.synapses // config.n_heads, "ffn": ffn.synapses, "synapses": whole}
    title = "settings and sizes of the transformers (Table III), recomputed"
    return Reproduction("table3", title, findings, measured=measured)


def table4() -> Reproduction:
    """Operations, bandwidth and synapses, to the unit; and the 10,000 times with what it leaves out."""
    head, dense = analysis.SpikingHead(), analysis.DenseLayer()
    constant, at_32, rows, both, operations, held = analysis.critique(N_POSITIONS)
    findings = (
        _equal("operations of a spiking layer, 32 positions", 172_800, head.operations(N_POSITIONS),
               "one head, n = 16, n_t = 10, n_c = 6, p = 4: not the experiment's setting, which is Table III's"),
        _equal("operations of a dense layer, 32 positions", 235_405_312, dense.operations(N_POSITIONS),
               "the published form is inferred"),
        _equal("numbers read for a token, spiking", "120 + 30 n", _straight_line(head.bandwidth)),
        _equal("numbers read for a token, dense", "1,048,576 + 576 n", _straight_line(dense.bandwidth)),
        _equal("synapses of a spiking layer", 10_496_000, head.synapses, "n_t n (2^(2 n_c + p) + 2^n_c)"),
        _equal("synapses of a dense layer", 3_145_728, dense.synapses, "4 d^2 + 2 d d_ff at d = 512, d_ff = 2048"),
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
        Finding(
            "much smaller size", "(in words)", f"{held.spiking / held.dense:.1f} times as many synapses",
            CONFIRMED if held.spiking < held.dense else NOT_CONFIRMED,
            "a spiking layer holds more numbers than the dense one beside it; it touches fewer",
        ),
    )  # fmt: skip
    ratios = {line.claim: line.ratio for line in analysis.critique(N_POSITIONS)}
    title = "operations, bandwidth and synapses (Table IV), recomputed"
    return Reproduction("table4", title, findings, measured=ratios)


def orders_exceed_rates_from(epsilon: float) -> int | None:
    """Neurons from which on their orders are more than their rates' directions, up to `MOST_NEURONS`; None: not there.

    Example:
        >>> orders_exceed_rates_from(0.1), orders_exceed_rates_from(1.0), orders_exceed_rates_from(3.0)
        (2, 6, None)
    """
    start = None
    for n in range(1, MOST_NEURONS + 1):
        if analysis.log10_orders(n) <= analysis.log10_rates(n, epsilon):
            start = None
        elif start is None:
            start = n
    return start


def _from(n_neurons: int | None) -> str:
    return "nowhere" if n_neurons is None else f"from n = {n_neurons} on"


def fig3() -> Reproduction:
    """Capacity: orders of spikes beside directions of rates."""
    orders, times = analysis.log10_orders(60), analysis.log10_times(100, 100)
    small, large = (orders_exceed_rates_from(epsilon) for epsilon in (0.1, 1.0))
    findings = (
        Finding("orders in which 60 neurons can fire", "more than 10^80", f"{power_of_ten(orders)}",
                CONFIRMED if orders > 80 else NOT_CONFIRMED, "log10 60! by the logarithm of the gamma function"),
        Finding("patterns of 100 neurons in 100 bins of time", "10^200", f"{power_of_ten(times)}",
                CONFIRMED if round(times, 9) == 200 else NOT_CONFIRMED),
        Finding("orders outnumber directions of rates that are nearly orthogonal", "n! beside exp(eps^2 n)",
                f"{_from(small)} at eps = 0.1, {_from(large)} at eps = 1",
                NOT_CONFIRMED if None in (small, large) else CONFIRMED,
                f"compared for every n up to {MOST_NEURONS}; exp(eps^2 n) is an order of growth, without its constant; "
                "what a network can *learn* to tell apart is bounded by its rows"),
    )  # fmt: skip

    def draw(path: Path) -> None:
        analysis.plot_capacity(path)

    rates = analysis.log10_rates(60, 0.1)
    measured = {"log10_orders_60": orders, "log10_times_100_100": times, "log10_rates_60": rates,
                "orders_exceed_rates_from": {"0.1": small, "1.0": large}}  # fmt: skip
    return Reproduction("fig3", "capacity of spike orders and of rates", findings, measured=measured, draw=draw)
