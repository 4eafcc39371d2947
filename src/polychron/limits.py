"""What this machine can hold, asked before memory is taken: a refusal beats a killed process."""

from __future__ import annotations

import os
from pathlib import Path

from polychron.errors import InputError


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, or None where the system does not say.

    The smaller of Linux' ``MemAvailable`` and what the process' control group (a container's limit) leaves.
    """
    limits = [limit for limit in (_machine_memory(), _control_group_memory()) if limit is not None]
    return min(limits, default=None)


def require_memory(n_bytes: int, purpose: str, advice: str) -> None:
    """Raise InputError if ``n_bytes`` for ``purpose`` do not fit into what is available.

    Example:
        >>> require_memory(1 << 60, "the tables", "take a smaller preset")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        polychron.errors.InputError: the tables need 1152921504.6 GB of memory ...
    """
    available = available_memory()
    if available is not None and n_bytes > available:
        raise InputError(
            f"{purpose} need {format_bytes(n_bytes)} of memory and {format_bytes(available)} are available: {advice}"
        )


def format_bytes(n_bytes: int) -> str:
    """Bytes for people, in powers of 1000.

    Example:
        >>> format_bytes(999), format_bytes(1_500), format_bytes(3_223_093_248)
        ('999 bytes', '1.5 kB', '3.2 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"


def _machine_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:  # other Unixes: what is installed, for want of what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _control_group_memory(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a version 2 control group leaves; cached files count as free, for the kernel gives them back."""
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        statistics = dict(line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, int(limit) - int(statistics["anon"]))
    except (OSError, ValueError, KeyError):
        return None
