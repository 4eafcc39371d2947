"""Figures drawn without a display, by matplotlib where it is installed."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from polychron.analysis.files import written_beside
from polychron.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NO_PLOTS = "a plot needs a package that is not installed: pip install 'polychron[plots]'"


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(NO_PLOTS) from None
    return Figure(figsize=(width, height), layout="constrained")


@contextlib.contextmanager
def saved_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure to draw into; it is written beside ``path`` and renamed when the block ends well.

    Raises:
        InputError: matplotlib is not installed, the ending names no format it knows, or the file cannot be written.
    """
    figure = new_figure(width, height)
    kind = path.suffix.removeprefix(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise InputError(
            f"a plot's file must end in one of {', '.join('.' + name for name in sorted(known))}; got {path}"
        )
    yield figure
    with written_beside(path) as scratch:
        figure.savefig(scratch, format=kind, dpi=150)
