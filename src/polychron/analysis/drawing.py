"""Small pictures as SVG that follow the page's colours, and heat maps as PNG, both to be embedded in HTML."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34


class Axes:
    """A frame with ticks into which marks are drawn in the data's units; :meth:`svg` is the picture.

    Args:
        x: (lowest, highest).
        y: (lowest, highest).
        x_label: below the frame.
        y_label: beside it.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str,
        width: int = WIDTH,
        height: int = HEIGHT,
    ):
        self._x, self._y = x, y
        self._width, self._height = width, height
        self._marks: list[str] = []
        middle = (_LEFT + width - _RIGHT) / 2
        self._text(middle, height - 4, x_label, "label")
        up = (_TOP + height - _BOTTOM) / 2
        self._marks.append(
            f'<text class="label" text-anchor="middle" transform="translate(10 {up:.1f}) rotate(-90)">'
            f"{html.escape(y_label)}</text>"
        )

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point's pixels."""
        (x0, x1), (y0, y1) = self._x, self._y
        return (
            _LEFT + (x - x0) / ((x1 - x0) or 1) * (self._width - _LEFT - _RIGHT),
            self._height - _BOTTOM - (y - y0) / ((y1 - y0) or 1) * (self._height - _TOP - _BOTTOM),
        )

    def x_ticks(self, ticks: Sequence[tuple[float, str]]) -> None:
        """Labels below the frame."""
        for at, label in ticks:
            x, y = self.place(at, self._y[0])
            self._text(x, y + 13, label, "tick")

    def y_ticks(self, ticks: Sequence[tuple[float, str]]) -> None:
        """Labels beside the frame, with lines across it."""
        for at, label in ticks:
            x, y = self.place(self._x[0], at)
            end, _ = self.place(self._x[1], at)
            self._marks.append(f'<path class="grid" d="M{x:.1f} {y:.1f}H{end:.1f}"/>')
            self._text(x - 5, y + 3.5, label, "tick", anchor="end")

    def bar(self, x0: float, x1: float, y: float, style: str, title: str) -> None:
        """A bar from the frame's bottom up to y."""
        left, top = self.place(x0, y)
        right, bottom = self.place(x1, self._y[0])
        self._marks.append(
            f'<rect class="{style}" x="{left + 0.75:.1f}" y="{top:.1f}" width="{max(0.5, right - left - 1.5):.1f}" '
            f'height="{max(0.0, bottom - top):.1f}"><title>{html.escape(title)}</title></rect>'
        )

    def dots(self, points: Sequence[tuple[float, float]], style: str, radius: float = 1.8) -> None:
        """Points."""
        spots = (self.place(x, y) for x, y in points)
        d = "".join(f"M{x:.1f} {y:.1f}h.01" for x, y in spots)
        self._marks.append(f'<path class="dots {style}" stroke-width="{2 * radius:g}" d="{d}"/>')

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Points joined."""
        d = "L".join(f"{x:.1f} {y:.1f}" for x, y in (self.place(*point) for point in points))
        self._marks.append(f'<path class="line {style}" d="M{d}"/>')

    def _text(self, x: float, y: float, text: str, style: str, anchor: str = "middle") -> None:
        self._marks.append(
            f'<text class="{style}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{html.escape(text)}</text>'
        )

    def svg(self, title: str) -> str:
        """The picture."""
        return svg_of(self._width, self._height, "".join(self._marks), title)


def svg_of(width: float, height: float, marks: str, title: str) -> str:
    """Marks as an SVG element that says what it shows."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{html.escape(title, quote=True)}">{marks}</svg>'
    )


def heat_map(values: np.ndarray, colour: tuple[int, int, int]) -> str:
    """Values (height, width) in [0, 1] as an <img> of one colour, more of it where they are higher.

    The colour's opacity carries the value: the picture suits a light page and a dark one.

    Example:
        >>> heat_map(np.zeros((1, 2)), (0, 0, 0))[:27]
        '<img alt="" src="data:image'
    """
    height, width = values.shape
    pixels = np.empty((height, width, 4), dtype=np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = np.rint(255 * values.clip(0, 1))
    code = base64.b64encode(_png(pixels)).decode()
    return f'<img alt="" src="data:image/png;base64,{code}">'


def _png(pixels: np.ndarray) -> bytes:
    """(height, width, 4) uint8 as a PNG file (ISO/IEC 15948): eight bits a channel, no filter."""
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def spike_raster(
    latencies: np.ndarray, labels: Sequence[str], neurons: Sequence[int], title: str, step: int = 21, row: int = 6
) -> str:
    """Spikes (T, n) as a raster: a line a neuron, a window of time a position; in it early spikes stand left.

    Time inside a window is linear in the latency; the half percent of the picture's spikes that is furthest out on
    either side is drawn at the window's edge.
    """
    T, n = latencies.shape
    first, last = (float(edge) for edge in np.quantile(latencies, (0.005, 0.995)))
    inside = (latencies - first) / ((last - first) or 1.0) - 0.5
    width, height = T * step + 46, n * row + 40
    left, top = 40, 6
    marks = []
    for t in range(T):
        if t % 2 == 0:
            marks.append(f'<rect class="stripe" x="{left + t * step}" y="{top}" width="{step}" height="{n * row}"/>')
    place = left + step * (np.arange(T)[:, None] + 0.5 + 0.92 * inside.clip(-0.5, 0.5))
    early = inside < 0
    for style, chosen in (("early", early), ("late", ~early)):
        d = "".join(f"M{place[t, k]:.1f} {top + k * row + 0.5:.1f}v{row - 1}" for t, k in np.argwhere(chosen).tolist())
        marks.append(f'<path class="spikes {style}" d="{d}"/>')
    below = top + n * row
    for t, label in enumerate(labels):
        marks.append(
            f'<text class="byte" text-anchor="middle" x="{left + (t + 0.5) * step}" y="{below + 14}">'
            f"{html.escape(label)}</text>"
        )
    for k in {0, n - 1}:
        marks.append(
            f'<text class="tick" text-anchor="end" x="{left - 5}" y="{top + (k + 0.5) * row + 3.5}">{neurons[k]}</text>'
        )
    marks.append(
        f'<text class="label" text-anchor="middle" transform="translate(12 {top + n * row / 2}) rotate(-90)">neuron'
        f"</text>"
    )
    marks.append(
        f'<text class="label" x="{left}" y="{below + 30}">a window reaches from latency {first:.3g} '
        f"to {last:.3g}</text>"
    )
    return svg_of(width, height, "".join(marks), title)
