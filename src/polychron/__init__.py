"""Neural networks made of look-up tables addressed by spike order."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polychron.ops import kernel_info, use_kernel

try:
    __version__ = version("polychron")
except PackageNotFoundError:  # read from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__", "kernel_info", "use_kernel"]


def __getattr__(name: str) -> Any:
    """Loads PyTorch with the first name that needs it: ``polychron --help`` does not wait for it."""
    if name in ("kernel_info", "use_kernel"):
        from polychron import ops

        return getattr(ops, name)
    raise AttributeError(f"module 'polychron' has no attribute {name!r}")
