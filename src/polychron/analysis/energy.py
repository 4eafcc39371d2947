"""Energy of one token under a named table of a 45 nm process, memory included. Modelled, never measured.

Operations and accesses: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014. Its memory
figures are per 64-bit access; here a row is read in accesses of 64 bits, as if every one of them were used whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from polychron.analysis.cost import ELEMENT_BYTES, LATENCY_BYTES, ModelCost
from polychron.errors import InputError

TABLE_NAME = "Horowitz, ISSCC 2014, 45 nm"

# Picojoules. int8 rows are summed in int32, bfloat16 ones in float32, which is also what multiplies them.
ADD_PJ = {"float32": 0.9, "float16": 0.4, "bfloat16": 0.9, "int8": 0.1}
MULTIPLY_PJ = {"float32": 3.7, "float16": 1.1, "bfloat16": 3.7, "int8": 0.2}
SRAM_PJ = ((8 * 2**10, "8 kB SRAM", 10.0), (32 * 2**10, "32 kB SRAM", 20.0), (2**20, "1 MB SRAM", 100.0))
DRAM_PJ = (1300.0, 2600.0)
ACCESS_BYTES = 8
# What papers on spiking networks commonly set side by side, memory left out.
CONVENTION_PJ = {"multiply-accumulate": 4.6, "accumulate": 0.9}


@dataclass(frozen=True)
class Energy:
    """Nanojoules of one token, split by what they are spent on; of what may lie in DRAM (lowest, highest).

    Attributes:
        memory: the smallest memory of the table that holds the tables, with a hyperplane's numbers.
        arithmetic: comparisons and additions; of a variant also multiplications.
        latencies: reading latencies, from 8 kB of SRAM.
        rows: reading the rows, and a hyperplane's numbers, from ``memory``.
        key_memory: the smallest that holds the indices that attention remembers; None where there is no attention.
        keys: reading these.
        place_memory: the smallest that holds the index of counted contexts and the places of recent tables; None where
            there are neither.
        places: reading what finds the rows there.
    """

    memory: str
    arithmetic: float
    latencies: float
    rows: tuple[float, float]
    key_memory: str | None = None
    keys: tuple[float, float] = (0.0, 0.0)
    place_memory: str | None = None
    places: tuple[float, float] = (0.0, 0.0)

    @property
    def total(self) -> tuple[float, float]:
        """(lowest, highest) of all together."""
        read = zip(self.rows, self.keys, self.places, strict=True)
        return tuple(self.arithmetic + self.latencies + sum(parts) for parts in read)

    @property
    def arithmetic_share(self) -> float:
        """The arithmetic's part of the lowest total: what the lack of multiplications can bear on."""
        return self.arithmetic / self.total[0]


def model_energy(cost: ModelCost, element: str = "float32") -> Energy:
    """Energy of one token.

    Args:
        cost: as :func:`polychron.analysis.count_cost` counts it.
        element: type of the tables' numbers: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"``.

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
    n_bytes, number_bytes = ELEMENT_BYTES[element], LATENCY_BYTES[element]
    arithmetic = (cost.comparisons + cost.additions) * ADD_PJ[element]
    arithmetic += cost.multiplications * (MULTIPLY_PJ[element] + ADD_PJ[element])
    directions = cost.direction_bytes(number_bytes)
    latency_bytes = cost.latency_bytes(number_bytes) - directions - cost.key_bytes
    memory, rows = _read(cost.row_bytes(n_bytes) + directions, cost.table_bytes(n_bytes) + directions)
    key_memory, keys = _read(cost.key_bytes, cost.key_bytes)
    place_memory, places = _read(cost.place_bytes, cost.place_memory_bytes)
    return Energy(
        memory=memory,
        arithmetic=arithmetic / 1000,
        latencies=latency_bytes / ACCESS_BYTES * SRAM_PJ[0][2] / 1000,
        rows=rows,
        key_memory=key_memory if cost.key_bytes else None,
        keys=keys,
        place_memory=place_memory if cost.place_bytes else None,
        places=places,
    )


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


def _read(n_bytes: int, among: int) -> tuple[str, tuple[float, float]]:
    """Name of the smallest memory that holds ``among`` bytes; nanojoules (lowest, highest) of reading some of them."""
    memory, lowest, highest = _memory(among)
    accesses = n_bytes / ACCESS_BYTES
    return memory, (accesses * lowest / 1000, accesses * highest / 1000)


def _memory(n_bytes: int) -> tuple[str, float, float]:
    """Name of the smallest memory that holds so much, and picojoules of an access: lowest, highest."""
    for size, name, pj in SRAM_PJ:
        if n_bytes <= size:
            return name, pj, pj
    return "DRAM", *DRAM_PJ
