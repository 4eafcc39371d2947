"""What the C of every kind of model shares: arrays, layers, the reader of a file of tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polychron.export.c_arrays import HEADER_WORDS, MAGIC, VERSION, Arrays, fill
from polychron.export.c_layers import add_layer, comparisons, longest_delay, n_rows_at_once, row_type
from polychron.export.network import TableLayer

_MAXIMUM_SHIFT = 15


@dataclass(frozen=True)
class Member:
    """A member of the state: an array, or a number where ``length`` is 0."""

    c_type: str
    name: str
    length: int = 0

    @property
    def text(self) -> str:
        """Its declaration."""
        return f"  {self.c_type} {self.name}{f'[{self.length}]' if self.length else ''};"

    @property
    def n_bytes(self) -> int:
        """Its size; pointers are counted as 4 bytes."""
        size = np.dtype(self.c_type.removesuffix("_t")).itemsize if self.c_type.endswith("_t") else 4
        return size * max(1, self.length)


class ModelText:
    """Arrays and functions of a model's layers.

    Args:
        layers: in order, the readout last.
        name: of the source; everything public begins with it.
        n_neurons: latencies.
        in_file: arrays stand in a file.
    """

    def __init__(self, layers: tuple[TableLayer, ...], name: str, n_neurons: int, in_file: bool) -> None:
        self.layers = layers
        self.name = name
        self.n_neurons = n_neurons
        self.arrays = Arrays(in_file)
        self.checks: list[str] = []
        self.row_type = row_type(layers)

    def add(self, c_type: str, name: str, values: np.ndarray, wrong: str | None = None) -> None:
        """An array, and in C what must not be said of its number k."""
        self.arrays.add(c_type, name, values)
        if wrong is not None:
            self._check(name, wrong)

    def _check(self, name: str, wrong: str) -> None:
        self.checks.append(f"  for (k = 0; k < {self.arrays.sizes[name]}; ++k) {{\n    if ({wrong}) return 4;\n  }}\n")

    def add_layers(self) -> str:
        """The arrays of all layers; returns their functions."""
        tables = "const unsigned char *tables, " if self.arrays.in_file else ""
        functions = []
        for at, layer in enumerate(self.layers):
            functions.append(add_layer(self.arrays, at, layer, self.n_neurons, tables, self.row_type))
            n_bytes = 2 * self.n_neurons * (longest_delay(layer) + 1)
            for name, wrong in (
                ("shifts", f"shifts_{at}[k] > {_MAXIMUM_SHIFT}"),
                ("pairs", f"pairs_{at}[k] & 1 || pairs_{at}[k] >= {n_bytes}"),
                ("key_pairs", f"key_pairs_{at}[k] & 1 || key_pairs_{at}[k] >= {n_bytes}"),
                ("codes", f"codes_{at}[k] >= {1 << layer.n_code}"),
            ):
                if f"{name}_{at}" in self.arrays.sizes:
                    self._check(f"{name}_{at}", wrong)
        return "".join(functions)

    def tables_code(self, functions: str) -> str:
        """Arrays, then what all layers need, then the layers."""
        return (
            fill(
                "tables.c.in",
                ARRAYS="\n".join(self.arrays.text),
                COMPARISONS=comparisons(self.layers),
                ROW_TYPE=self.row_type,
            )
            + (fill("keep.c.in", N_NEURONS=self.n_neurons) if self.needs_keep else "")
            + functions
        )

    @property
    def rows_member(self) -> Member:
        """Where a layer's comparisons leave the rows to read."""
        return Member(self.row_type, "rows", max(map(n_rows_at_once, self.layers)))

    @property
    def needs_keep(self) -> bool:
        """Latencies change, or are kept."""
        return True

    @property
    def local(self) -> str:
        """The first line of a function that uses arrays."""
        return "  const unsigned char *const tables = state->tables;\n" if self.arrays.in_file else ""

    @property
    def argument(self) -> str:
        """The first argument of a layer."""
        return "tables, " if self.arrays.in_file else ""

    def opening(self, fixed: str) -> dict[str, str]:
        """What a source and its header have for a file of tables; nothing where there is none."""
        if not self.arrays.in_file:
            return {"OPEN": ""}
        return {
            "OPEN": fill(
                "open.c.in",
                NAME=self.name,
                FILE_BYTES=self.arrays.file_bytes,
                FILE_WORDS=self.arrays.file_bytes // 4,
                MAGIC=f"{MAGIC:x}",
                VERSION=VERSION,
                LAYOUT=f"{self.arrays.layout(fixed):x}",
                HEADER_WORDS=HEADER_WORDS,
                CHECKS="".join(self.checks),
            )
        }

    def header_opening(self, members: list[Member]) -> dict[str, str]:
        """What a header has for a file of tables, and the state's members."""
        if self.arrays.in_file:
            members = [*members, Member("const unsigned char *", "tables")]
        return {
            "OPEN": fill("open.h.in", NAME=self.name) if self.arrays.in_file else "",
            "OPENED": f"if ({self.name}_open(&state, file, n_bytes)) give_up();\n *        "
            if self.arrays.in_file
            else "",
            "MEMBERS": "\n".join(member.text.replace("* ", "*") for member in members),
        }
