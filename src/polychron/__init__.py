"""Neural networks made of look-up tables addressed by spike order."""

from importlib.metadata import PackageNotFoundError, version

from polychron.ops import kernel_info, use_kernel

try:
    __version__ = version("polychron")
except PackageNotFoundError:  # read from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__", "kernel_info", "use_kernel"]
