"""Which arithmetic runs: native kernels on the CPU, Triton's on CUDA devices, otherwise the reference in plain PyTorch.

All give the same results: the same bits on integer-valued data, and within rounding otherwise (a kernel adds in another
order). All native kernels give the same bits as one another, for any number of threads.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

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
TRITON = "triton"

_float32 = torch.float32
# PyTorch's threads wait awake for its next operation, for some milliseconds, on the cores that a kernel wants: then
# they compute it themselves.
_shares_threads = native is not None and (
    "parallel backend: OpenMP" in torch.__config__.parallel_info() and native.share_openmp_team(True)
)
_forced: str | None = None  # the reference, or Triton on CPU tensors
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
        name: one of :func:`available_kernels`; CUDA tensors go to Triton's kernels under all of them but
            ``"reference"``. Or ``"triton"``: for CPU tensors, too, which takes its interpreter, ``TRITON_INTERPRET=1``.

    Raises:
        ValueError: no such kernel on this machine.

    Example:
        >>> with use_kernel("reference"):
        ...     kernel_info()["kernel"]
        'reference'
    """

    def __init__(self, name: str):
        self._before = _forced, None if native is None else native.current_kernels()
        _choose(name)

    def __enter__(self) -> use_kernel:
        return self

    def __exit__(self, *_: object) -> None:
        global _forced
        _forced, kernels = self._before
        if native is not None:
            native.use_kernels(kernels)


def _choose(name: str) -> None:
    global _forced
    if name == TRITON and has_triton():
        _forced = TRITON
        return
    if name not in available_kernels():
        reason = f"; the extension is missing ({_missing})" if native is None else ""
        raise ValueError(f"kernel must be one of {', '.join(available_kernels())} here; got {name!r}{reason}")
    _forced = REFERENCE if name == REFERENCE else None
    if _forced is None and native is not None:
        native.use_kernels(name)


def current_kernel() -> str:
    """Name of the arithmetic that runs float32 CPU tensors now."""
    if _forced is not None:
        return _forced
    return REFERENCE if native is None else native.current_kernels()


def runs_native(tensor: torch.Tensor) -> bool:
    """Whether operations on ``tensor`` go to the native kernels: float32, on the CPU, extension present."""
    if _forced is None and native is not None:  # the usual case by one look
        return tensor.is_cpu and tensor.dtype is _float32
    return tensor.dtype == torch.float32 and native_on(tensor.device)


def reads_native(tables: torch.Tensor) -> bool:
    """Whether the native kernels can read these tables: float32 or bfloat16, on the CPU, extension present."""
    return tables.dtype in (torch.float32, torch.bfloat16) and native_on(tables.device)


def native_on(device: torch.device) -> bool:
    """Whether operations on whole numbers of this device go to the native kernels."""
    global _warned
    if _forced is not None or device.type != "cpu":
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


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; it is imported at the first call that needs it."""
    return importlib.util.find_spec("triton") is not None


def runs_triton(tensor: torch.Tensor) -> bool:
    """Whether operations on ``tensor`` go to Triton's kernels: float32, on a CUDA device, Triton installed."""
    if tensor.dtype != torch.float32 or _forced == REFERENCE:
        return False
    return _forced == TRITON or (tensor.is_cuda and has_triton())


def arithmetic(tensor: torch.Tensor, operation: str) -> ModuleType:
    """The module of ``polychron.ops.<operation>`` whose functions compute on ``tensor``: native, triton, reference."""
    name = "native" if runs_native(tensor) else TRITON if runs_triton(tensor) else REFERENCE
    return importlib.import_module(f"polychron.ops.{operation}.{name}")


def run_uncompiled(function: Callable, *arguments: object) -> Any:
    """``function(*arguments)``, which ``torch.compile`` is to call as it is, going on after it."""
    if not torch.compiler.is_compiling():
        return function(*arguments)
    from polychron.ops.uncompiled import call  # imports the compiler: two seconds that only its users should pay

    return call(function, *arguments)


def kernel_info() -> dict[str, object]:
    """What runs on this machine, and which memory the tables got.

    Returns:
        ``kernel``: the arithmetic of float32 CPU tensors. ``available``: those that could be forced. ``cuda``: that of
        float32 CUDA tensors, ``triton`` where it is installed, otherwise ``reference``. ``threads``.
        ``shares_threads``: whether kernels run on PyTorch's own threads while these are awake.
        ``huge_pages``: the system's setting: ``always``, ``madvise``, ``never`` or ``unknown``. ``table_bytes``: of
        tables that huge pages were asked for (those of 2 MiB and more, as layers allocate them). ``huge_page_bytes``:
        how many of these lie on huge pages now; None where the system does not tell.

    Example:
        >>> sorted(kernel_info())
        ['available', 'cuda', 'huge_page_bytes', 'huge_pages', 'kernel', 'shares_threads', 'table_bytes', 'threads']
    """
    return {
        "kernel": current_kernel(),
        "available": available_kernels(),
        "cuda": TRITON if has_triton() and _forced != REFERENCE else REFERENCE,
        "threads": torch.get_num_threads(),
        "shares_threads": _shares_threads,
        "huge_pages": table_pages.setting(),
        "table_bytes": table_pages.asked_bytes(),
        "huge_page_bytes": table_pages.huge_bytes(),
    }


if os.environ.get("POLYCHRON_KERNEL"):
    _choose(os.environ["POLYCHRON_KERNEL"])
