"""The paper's own accounting: Table IV recomputed, and what they leave out.

The published figures come out with n = 16, n_t = 10, n_c = 6, p = 4 and 32 positions, which is not the setting of the
paper's experiment (n = 32, n_t = 16, four heads).
"""

# n neurons, I table, R comparison, T position, D width of a dense layer

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bandwidth:
    """Numbers read for one new token: ``constant + slope * n_positions``.

    Example:
        >>> Bandwidth(constant=120, slope=30).at(32)
        1080
    """

    constant: int
    slope: int

    def at(self, n_positions: int) -> int:
        """With so many positions in the context."""
        return self.constant + self.slope * n_positions


@dataclass(frozen=True)
class SpikingHead:
    """One head of one layer of the paper's transformer, attention and FFN, as Table IV counts it.

    Attributes:
        n_neurons: n, neurons in the latency vector.
        n_tables: n_t.
        n_comparisons: n_c.
        n_position_bits: p.

    Source: Spiking Manifesto, Table IV.

    Example:
        >>> head = SpikingHead()
        >>> head.synapses, head.operations(32), head.bandwidth
        (10496000, 172800, Bandwidth(constant=120, slope=30))
    """

    n_neurons: int = 16
    n_tables: int = 10
    n_comparisons: int = 6
    n_position_bits: int = 4

    @property
    def synapses(self) -> int:
        """n_t n (2^(2 n_c + p) + 2^n_c): the tables of attention and of the FFN."""
        n_rows = 2 ** (2 * self.n_comparisons + self.n_position_bits) + 2**self.n_comparisons
        return self.n_tables * self.n_neurons * n_rows

    def operations(self, n_positions: int) -> int:
        """n_inp^2 n_t n + n_inp (2 n_t n_c + n_t n): additions and comparisons for a whole context."""
        additions = self.n_tables * self.n_neurons
        comparisons = 2 * self.n_tables * self.n_comparisons
        return n_positions**2 * additions + n_positions * (comparisons + additions)

    @property
    def bandwidth(self) -> Bandwidth:
        """2 n_t n_c + 3 n_t n_inp: latencies compared, and three indices a table and position; rows are not counted."""
        return Bandwidth(2 * self.n_tables * self.n_comparisons, 3 * self.n_tables)

    @property
    def bandwidth_with_rows(self) -> Bandwidth:
        """The same with the rows that are added: n_t n more numbers for every position."""
        published = self.bandwidth
        return Bandwidth(published.constant, published.slope + self.n_tables * self.n_neurons)


@dataclass(frozen=True)
class DenseLayer:
    """One layer of the dense transformer that Table IV sets beside it.

    Attributes:
        width: d.
        hidden: d_ff, neurons of the MLP.
        key_width: d_k, width of a head.

    Source: Spiking Manifesto, Table IV.

    Example:
        >>> layer = DenseLayer()
        >>> layer.synapses, layer.operations(32), layer.bandwidth
        (3145728, 235405312, Bandwidth(constant=1048576, slope=576))
    """

    width: int = 512
    hidden: int = 2048
    key_width: int = 64

    @property
    def synapses(self) -> int:
        """4 d^2 + 2 d d_ff."""
        return 4 * self.width**2 + 2 * self.width * self.hidden

    def operations(self, n_positions: int) -> int:
        """n_inp^2 d + n_inp (12 d^2 + 4 d d_ff).

        Inferred: this form gives the published figure to the unit; other divisions of the same sum between d^2 and
        d d_ff would too, since d_ff = 4 d.
        """
        return n_positions**2 * self.width + n_positions * (12 * self.width**2 + 4 * self.width * self.hidden)

    @property
    def bandwidth(self) -> Bandwidth:
        """4 d^2 + (d + d_k) n_inp: the attention's matrices and the cache; the MLP's matrices are not counted."""
        return Bandwidth(4 * self.width**2, self.width + self.key_width)

    @property
    def bandwidth_with_mlp(self) -> Bandwidth:
        """The same with the MLP's matrices: 2 d d_ff more."""
        published = self.bandwidth
        return Bandwidth(published.constant + 2 * self.width * self.hidden, published.slope)


@dataclass(frozen=True)
class Comparison:
    """How many times more the dense transformer takes, and what that figure rests on.

    Attributes:
        claim: what is counted.
        dense: the dense transformer's.
        spiking: the spiking one's.
    """

    claim: str
    dense: int
    spiking: int

    @property
    def ratio(self) -> float:
        """Dense / spiking; below 1 where the spiking one takes more."""
        return self.dense / self.spiking


def critique(
    n_positions: int = 32, head: SpikingHead | None = None, layer: DenseLayer | None = None
) -> list[Comparison]:
    """The "10,000 times" of the paper, first as published, then with what each side leaves out.

    Example:
        >>> [round(line.ratio, 1) for line in critique()]
        [8738.1, 988.0, 172.1, 510.3, 1362.3, 0.3]
    """
    head, layer = head or SpikingHead(), layer or DenseLayer()
    return [
        Comparison("bandwidth, constant terms only (the published 10,000)", layer.bandwidth.constant,
                   head.bandwidth.constant),
        Comparison(f"bandwidth at {n_positions} positions, both terms", layer.bandwidth.at(n_positions),
                   head.bandwidth.at(n_positions)),
        Comparison("the same, the rows that are added counted too", layer.bandwidth.at(n_positions),
                   head.bandwidth_with_rows.at(n_positions)),
        Comparison("the same, the dense MLP's matrices counted too", layer.bandwidth_with_mlp.at(n_positions),
                   head.bandwidth_with_rows.at(n_positions)),
        Comparison(f"operations at {n_positions} positions", layer.operations(n_positions),
                   head.operations(n_positions)),
        Comparison("synapses held", layer.synapses, head.synapses),
    ]  # fmt: skip


# The paper's proportion: a brain of 10^15 synapses and 20 W, scaled down to the 10^11 parameters of a language model.
BRAIN_SYNAPSES = 10**15
BRAIN_WATTS = 20.0
MODEL_PARAMETERS = 10**11


def brain_proportion() -> float:
    """Watts of a brain scaled down to a language model's size: a proportion, nothing that was measured or modelled.

    Example:
        >>> f"{brain_proportion() * 1000:g} mW"
        '2 mW'
    """
    return BRAIN_WATTS * MODEL_PARAMETERS / BRAIN_SYNAPSES
