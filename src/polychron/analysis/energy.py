"""Energy of one token under a named table of a 45 nm process, memory included. Modelled, never measured.

Operations and accesses: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014. Its memory
figures are per 64-bit access; here a row is read in accesses of 64 bits, as if every one of them were used whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from polychron.analysis.cost import ELEMENT_BYTES, ModelCost
from polychron.errors import InputError

TABLE_NAME = "Horowitz, ISSCC 2014, 45 nm"

# Picojoules.
ADD_PJ = {"float32": 0.9, "float16": 0.4, "int8": 0.1}  # int8 rows are summed in int32
MULTIPLY_PJ = {"float32": 3.7, "float16": 1.1, "int8": 0.2}
SRAM_PJ = ((8 * 2**10, "8 kB SRAM", 10.0), (32 * 2**10, "32 kB SRAM", 20.0), (2**20, "1 MB SRAM", 100.0))
DRAM_PJ = (1300.0, 2600.0)
ACCESS_BYTES = 8
# What papers on spiking networks commonly set side by side, memory left out.
CONVENTION_PJ = {"multiply-accumulate": 4.6, "accumulate": 0.9}


@dataclass(frozen=True)
class Energy:
    """Nanojoules of one token, split by what they are spent on.

    Attributes:
        memory: the smallest memory of the table that holds the tables.
        arithmetic: comparisons and additions; of a variant also multiplications.
        latencies: reading latencies and remembered indices, from 8 kB of SRAM.
        rows: (lowest, highest) for reading the rows from ``memory``.
    """

    memory: str
    arithmetic: float
    latencies: float
    rows: tuple[float, float]

    @property
    def total(self) -> tuple[float, float]:
        """(lowest, highest) of all together."""
        return tuple(self.arithmetic + self.latencies + rows for rows in self.rows)

    @property
    def arithmetic_share(self) -> float:
        """The arithmetic's part of the lowest total: what the lack of multiplications can bear on."""
        return self.arithmetic / self.total[0]


def model_energy(cost: ModelCost, element: str = "float32") -> Energy:
    """Energy of one token.

    Args:
        cost: as :func:`polychron.analysis.count_cost` counts it.
        element: type of the tables' numbers: ``"float32"``, ``"float16"`` or ``"int8"``.

    Raises:
        InputError: an unknown element.

    Example:
        >>> from polychron.analysis.cost import count_cost
        >>> from polychron.models import DelayConfig
        >>> model_energy(count_cost(DelayConfig(vocabulary_size=83)), "int8").memory
        'DRAM'
    """
    if element not in ELEMENT_BYTES:
        raise InputError(f"element must be one of {', '.join(ELEMENT_BYTES)}; got {element!r}")
    n_bytes = ELEMENT_BYTES[element]
    memory, *row_pj = _memory(cost.table_bytes(n_bytes))
    arithmetic = (cost.comparisons + cost.additions) * ADD_PJ[element]
    arithmetic += cost.multiplications * (MULTIPLY_PJ[element] + ADD_PJ[element])
    latencies = cost.latency_bytes(n_bytes) / ACCESS_BYTES * SRAM_PJ[0][2]
    accesses = cost.row_bytes(n_bytes) / ACCESS_BYTES
    lowest, highest = (accesses * pj / 1000 for pj in row_pj)
    return Energy(memory, arithmetic / 1000, latencies / 1000, (lowest, highest))


def dense_energy(n_weights: int, element: str = "float32") -> tuple[float, float]:
    """Nanojoules (lowest, highest) of a dense network that reads each weight once a token, in the same table.

    Example:
        >>> low, high = dense_energy(1_000_000)   # 4 MB: DRAM
        >>> round(low), round(high)
        (654600, 1304600)
    """
    _, lowest, highest = _memory(n_weights * ELEMENT_BYTES[element])
    accesses = n_weights * ELEMENT_BYTES[element] / ACCESS_BYTES
    arithmetic = n_weights * (MULTIPLY_PJ[element] + ADD_PJ[element])
    return (arithmetic + accesses * lowest) / 1000, (arithmetic + accesses * highest) / 1000


def _memory(n_bytes: int) -> tuple[str, float, float]:
    """Name of the smallest memory that holds so much, and picojoules of an access: lowest, highest."""
    for size, name, pj in SRAM_PJ:
        if n_bytes <= size:
            return name, pj, pj
    return "DRAM", *DRAM_PJ
