"""Which arithmetic runs: a native kernel where one fits, otherwise the reference in plain PyTorch.

Both give the same results: the same bits on integer-valued data, and within rounding otherwise (a native kernel adds
in another order). All native kernels give the same bits as one another, for any number of threads.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from types import ModuleType

import torch

from polychron.ops import table_pages

try:
    from polychron import _native

    native: ModuleType | None = _native
    _missing = ""
except ImportError as error:  # the package works without its extension, only slower
    native = None
    _missing = str(error)

REFERENCE = "reference"

_forced_reference = False
_warned = False


def available_kernels() -> list[str]:
    """Names of the arithmetics that run on this machine: the reference first, the fastest last.

    Example:
        >>> available_kernels()[0]
        'reference'
    """
    return [REFERENCE, *(native.available_kernels() if native else [])]


class use_kernel:  # noqa: N801 - reads as a statement
    """Chooses the arithmetic by name, from now on or within a ``with`` block.

    Args:
        name: one of :func:`available_kernels`.

    Raises:
        ValueError: no such kernel on this machine.

    Example:
        >>> with use_kernel("reference"):
        ...     kernel_info()["kernel"]
        'reference'
    """

    def __init__(self, name: str):
        self._before = current_kernel()
        _choose(name)

    def __enter__(self) -> use_kernel:
        return self

    def __exit__(self, *_: object) -> None:
        _choose(self._before)


def _choose(name: str) -> None:
    global _forced_reference
    if name not in available_kernels():
        reason = f"; the extension is missing ({_missing})" if native is None else ""
        raise ValueError(f"kernel must be one of {', '.join(available_kernels())} here; got {name!r}{reason}")
    _forced_reference = name == REFERENCE
    if not _forced_reference and native is not None:
        native.use_kernels(name)


def current_kernel() -> str:
    """Name of the arithmetic that runs float32 CPU tensors now."""
    return REFERENCE if native is None or _forced_reference else native.current_kernels()


def runs_native(tensor: torch.Tensor) -> bool:
    """Whether operations on ``tensor`` go to the native kernels: float32, on the CPU, extension present."""
    return tensor.dtype == torch.float32 and _native_on(tensor.device)


def reads_native(tables: torch.Tensor) -> bool:
    """Whether the native kernels can read these tables: float32 or bfloat16, on the CPU, extension present."""
    return tables.dtype in (torch.float32, torch.bfloat16) and _native_on(tables.device)


def _native_on(device: torch.device) -> bool:
    global _warned
    if _forced_reference or device.type != "cpu":
        return False
    if native is None:
        if not _warned:
            _warned = True
            warnings.warn(
                f"polychron's native kernels are missing ({_missing}); the reference runs instead: same results, "
                "much slower. Reinstall with a C++ compiler present.",
                RuntimeWarning,
                stacklevel=5,
            )
        return False
    return True


def run_uncompiled(function: Callable, *arguments: object) -> torch.Tensor:
    """``function(*arguments)``, which ``torch.compile`` is to call as it is, going on after it."""
    if not torch.compiler.is_compiling():
        return function(*arguments)
    from polychron.ops.uncompiled import call  # imports the compiler: two seconds that only its users should pay

    return call(function, *arguments)


def kernel_info() -> dict[str, object]:
    """What runs on this machine, and which memory the tables got.

    Returns:
        ``kernel``: the arithmetic of float32 CPU tensors. ``available``: those that could be forced. ``threads``.
        ``huge_pages``: the system's setting: ``always``, ``madvise``, ``never`` or ``unknown``. ``table_bytes``: of
        tables that huge pages were asked for (those of 2 MiB and more, as layers allocate them). ``huge_page_bytes``:
        how many of these lie on huge pages now; None where the system does not tell.

    Example:
        >>> sorted(kernel_info())
        ['available', 'huge_page_bytes', 'huge_pages', 'kernel', 'table_bytes', 'threads']
    """
    return {
        "kernel": current_kernel(),
        "available": available_kernels(),
        "threads": torch.get_num_threads(),
        "huge_pages": table_pages.setting(),
        "table_bytes": table_pages.asked_bytes(),
        "huge_page_bytes": table_pages.huge_bytes(),
    }


if os.environ.get("POLYCHRON_KERNEL"):
    _choose(os.environ["POLYCHRON_KERNEL"])
