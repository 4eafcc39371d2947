import base64
import re
import struct
import xml.dom.minidom
import zlib

import numpy as np
import pytest

from polychron.analysis.drawing import Axes, heat_map, spike_raster


def test_a_heat_map_is_a_png_whose_opacity_is_the_value():
    values = np.array([[0.0, 0.5, 1.0], [2.0, -1.0, 0.25]])
    png = base64.b64decode(re.search(r"base64,([^\"]+)", heat_map(values, (1, 2, 3))).group(1))
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length]) == (zlib.crc32(kind + data),)
        chunks[kind] = data
        at += 12 + length
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (3, 2, 8, 6, 0, 0, 0)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(2, 13)
    assert not lines[:, 0].any()  # no filter
    pixels = lines[:, 1:].reshape(2, 3, 4)
    assert pixels[..., 3].tolist() == [[0, 128, 255], [255, 0, 64]]
    assert (pixels[..., :3] == (1, 2, 3)).all()


def test_points_lie_where_the_axes_say():
    axes = Axes((0, 10), (0, 1), "x", "y", width=154, height=144)
    assert axes.place(0, 0) == (44, 110)
    assert axes.place(10, 1) == (144, 10)
    assert axes.place(5, 0.5) == (94, 60)
    axes.dots([(5, 0.5)], "good")
    assert 'd="M94.0 60.0h.01"' in axes.svg("one point")


@pytest.mark.parametrize("title", ["plain", "<&\"'"])
def test_pictures_are_well_formed_whatever_they_are_called(title: str):
    axes = Axes((0, 1), (0, 1), title, title)
    axes.bar(0, 1, 1, "plain", title)
    axes.x_ticks([(0, title)])
    axes.y_ticks([(0, title)])
    axes.line([(0, 0), (1, 1)], "bound")
    picture = xml.dom.minidom.parseString(axes.svg(title))
    assert picture.documentElement.getAttribute("aria-label") == title
    raster = xml.dom.minidom.parseString(spike_raster(np.zeros((2, 3)), ("<", "&"), (0, 7, 9), title))
    assert [text.firstChild.data for text in raster.getElementsByTagName("text")][:2] == ["<", "&"]


def test_early_spikes_stand_left_in_their_window():
    latencies = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.2]])
    drawn = spike_raster(latencies, ("a", "b"), (0, 1, 2), "two windows", step=20, row=6)
    places = {}
    for style in ("early", "late"):
        d = re.search(rf'class="spikes {style}" d="([^"]*)"', drawn).group(1)
        places[style] = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)v", d)]
    early, late = places["early"], places["late"]
    assert len(early) + len(late) == 6
    assert all((x - 40) % 20 < 10 for x, _ in early)
    assert all((x - 40) % 20 >= 10 - 1e-9 for x, _ in late)
    assert (early[0][1], late[0][1]) == (6.5, 12.5)  # neuron 0 of the first window early, neuron 1 late
