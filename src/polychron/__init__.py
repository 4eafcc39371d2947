"""Neural networks made of look-up tables addressed by spike order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polychron.ops import kernel_info, use_kernel

    __version__: str

__all__ = ["__version__", "kernel_info", "use_kernel"]


def __getattr__(name: str) -> Any:
    """Loads what a name needs when it is first asked for: ``polychron --help`` does not wait for PyTorch."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("polychron")
        except PackageNotFoundError:  # read from a source tree that was never installed
            return "0+unknown"
    if name in ("kernel_info", "use_kernel"):
        from polychron import ops

        return getattr(ops, name)
    raise AttributeError(f"module 'polychron' has no attribute {name!r}")
