"""Horizontal edges by table look-up: a 3x3 patch of a picture is the address of one of 512 rows (paper, section VIII).

    python examples/edge_detectors.py edges.png
    python examples/edge_detectors.py edges.png --picture photo.png

Nine comparisons with a threshold form the address: bit 0 is the patch's first pixel, bit 8 its last, so that three
bright pixels above six dark ones are 000000111 = 7. One neuron a row makes "neuron 7 fires" mean "there is a horizontal
edge here". No row but the one addressed is read, and nothing is multiplied.

Needs matplotlib: pip install 'polychron[plots]'.
"""

# T patch, J row, K feature

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from polychron.analysis.plots import saved_figure
from polychron.errors import InputError
from polychron.ops import lookup

SIDE = 3
N_BITS = SIDE * SIDE
# Address of a patch in which the named side is bright and the rest dark.
EDGES = {
    "bright above": 0b000000111,
    "bright below": 0b111000000,
    "bright left": 0b001001001,
    "bright right": 0b100100100,
}


def patches(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W) as its 3x3 patches, row after row: ((H - 2) (W - 2), 9).

    Example:
        >>> patches(np.arange(12).reshape(3, 4)).tolist()[0]
        [0, 1, 2, 4, 5, 6, 8, 9, 10]
    """
    return np.lib.stride_tricks.sliding_window_view(picture, (SIDE, SIDE)).reshape(-1, N_BITS)


def addresses(picture: np.ndarray, threshold: float) -> np.ndarray:
    """The row that each patch of a picture (H, W) reads, (H - 2, W - 2) int64: the network's own layer, with one table.

    A tenth neuron fires at the threshold; comparison r is of pixel r with it.

    Example:
        >>> bright_above = np.array([[1.0] * 3, [0.0] * 3, [0.0] * 3])
        >>> addresses(bright_above, threshold=0.5).tolist()
        [[7]]
    """
    cut = patches(picture.astype(np.float32))
    x = torch.from_numpy(np.column_stack([cut, np.full(len(cut), threshold, dtype=np.float32)]))
    anchors = torch.tensor([[[pixel, N_BITS] for pixel in range(N_BITS)]], dtype=torch.int32)
    rows = torch.arange(2.0**N_BITS)[None, :, None]  # row j holds the number j: what is read is the address
    shape = picture.shape[0] - SIDE + 1, picture.shape[1] - SIDE + 1
    return lookup(x, rows, anchors)[:, 0].long().reshape(shape).numpy()


def drawn_scene(height: int = 96, width: int = 144) -> np.ndarray:
    """A disc, a rectangle and a slope on a dark ground, (H, W) float32 in [0, 1]."""
    y, x = np.mgrid[:height, :width]
    scene = np.zeros((height, width), dtype=np.float32)
    scene[(y - 34) ** 2 + (x - 36) ** 2 < 22**2] = 0.9
    scene[20:60, 80:128] = 0.8
    scene[y > 78 + 8 * np.sin(x / 18)] = 0.7
    return scene


def read_picture(path: Path) -> np.ndarray:
    """Brightness (H, W) float32 in [0, 1] of a PNG or JPEG file.

    Raises:
        InputError: it cannot be read, or is smaller than a patch.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.thumbnail((512, 512))
            picture = np.asarray(image.convert("L"), dtype=np.float32) / 255
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {path} as a picture: {error}") from None
    if min(picture.shape) < SIDE:
        raise InputError(f"a picture must have {SIDE} x {SIDE} pixels at least; got {picture.shape}")
    return picture


def draw(path: Path, picture: np.ndarray, address: np.ndarray) -> None:
    """The picture, where each of the four detectors fires, and how often each row is read."""
    with saved_figure(path, width=11, height=6) as figure:
        grid = figure.subplot_mosaic([["picture", *list(EDGES)[:2]], ["rows", *list(EDGES)[2:]]])
        grid["picture"].imshow(picture, cmap="gray", vmin=0, vmax=1)
        grid["picture"].set_title("the picture")
        for name, row in EDGES.items():
            grid[name].imshow(picture[1:-1, 1:-1], cmap="gray", vmin=0, vmax=3)
            y, x = np.nonzero(address == row)
            grid[name].scatter(x, y, s=6, marker="s", color="crimson")
            grid[name].set_title(f"neuron {row}, {name}: fires {len(x)} times", fontsize=10)
        for name, axes in grid.items():
            if name != "rows":
                axes.set(xticks=[], yticks=[])
        counts = np.bincount(address.ravel(), minlength=2**N_BITS)
        grid["rows"].bar(np.arange(2**N_BITS), counts, width=3)
        grid["rows"].set(yscale="log", xlabel="row", ylabel="readings")
        grid["rows"].set_title(f"{np.count_nonzero(counts)} of {2**N_BITS} rows are read")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the detectors' answers to a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="where to draw: .png, .svg or .pdf")
    parser.add_argument("--picture", type=Path, help="a PNG or JPEG file (default: a drawn scene)")
    parser.add_argument("--threshold", type=float, default=0.5, help="brightness between dark and bright")
    given = parser.parse_args(arguments)
    try:
        picture = drawn_scene() if given.picture is None else read_picture(given.picture)
        address = addresses(picture, given.threshold)
        draw(given.out, picture, address)
    except InputError as error:
        parser.error(str(error))
    for name, row in EDGES.items():
        print(f"neuron {row:3} ({row:09b}, {name}): {np.count_nonzero(address == row):,} of {address.size:,} patches")


if __name__ == "__main__":
    main()
