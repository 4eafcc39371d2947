"""Which pages the system gave the tables: huge ones are asked for and may be refused, or be taken back."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np

HUGE_PAGE = 2 << 20
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPPINGS = Path("/proc/self/smaps")

_asked: dict[int, int] = {}  # address of memory that huge pages were asked for, and its bytes; it is there still


def remember(tables: np.ndarray) -> None:
    """Counts tables that huge pages were asked for, until their memory is given back."""
    if tables.nbytes < HUGE_PAGE:
        return
    address = tables.ctypes.data
    _asked[address] = tables.nbytes
    weakref.finalize(tables, _asked.pop, address, None).atexit = False


def setting() -> str:
    """The system's setting: ``always``, ``madvise`` (who asks gets them), ``never``, or ``unknown``."""
    try:
        return _SETTING.read_text().partition("[")[2].partition("]")[0] or "unknown"
    except OSError:
        return "unknown"


def asked_bytes() -> int:
    """Bytes of tables that lie in memory of their own, with huge pages asked for."""
    return sum(_asked.values())


def huge_bytes() -> int | None:
    """How many of :func:`asked_bytes` lie on huge pages; None where the system does not tell."""
    try:
        text = _MAPPINGS.read_text()
    except OSError:
        return None
    return _huge_bytes(text, dict(_asked))


def _huge_bytes(mappings: str, blocks: dict[int, int]) -> int:
    """Of blocks (address: bytes), from the text of smaps.

    A mapping may hold several blocks, and something else between them: it counts as far as they fill it.

    Example:
        >>> text = "200000-a00000 rw-p 00000000 00:00 0\\nAnonHugePages:      6144 kB\\n"
        >>> _huge_bytes(text, {0x200000: 4 << 20, 0x600000: 4 << 20}) >> 20
        6
    """
    total = inside = 0
    for line in mappings.splitlines():
        head, _, rest = line.partition(" ")
        if head == "AnonHugePages:":
            total += min(int(rest.split()[0]) * 1024, inside)
        elif "-" in head and not head.endswith(":"):
            begin, end = (int(part, 16) for part in head.split("-"))
            inside = sum(
                max(0, min(end, address + n_bytes) - max(begin, address)) for address, n_bytes in blocks.items()
            )
    return total
