"""A layer of tables as arrays and a function of C: rows as words of four columns, blocks of powers of two.

Every step from one table to the next is a power of two, or compilers that save space would multiply.
"""

# I table, R comparison, J row, K output

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from polychron.export.c_arrays import Arrays, fill
from polychron.export.network import TableLayer

_EXCESS = 128  # a column's number is stored so much too large, as a byte


def n_words(n_columns: int) -> int:
    """Words of a row: four columns each."""
    return -(-n_columns // 4)


def longest_delay(layer: TableLayer) -> int:
    """Positions back that the layer's comparisons reach."""
    return 0 if layer.delays is None else int(layer.delays.max())


def key_bits(layer: TableLayer) -> int:
    """Of attention: keys of 2^bits positions are kept, more than the window has."""
    return 0 if layer.code is None else (layer.code.shape[1] - 1).bit_length()


def add_layer(arrays: Arrays, at: int, layer: TableLayer, n_neurons: int, tables: str, row_type: str) -> str:
    """Adds a layer's arrays; returns its function ``layer_<at>``.

    Tables of one shift stand side by side: their rows are summed before they are shifted.

    Args:
        arrays: of the source.
        at: the layer's number.
        layer: its numbers.
        n_neurons: latencies that it compares.
        tables: the first parameter of functions that use arrays: empty where those are constants.
        row_type: of the numbers of rows.
    """
    order = np.argsort(layer.shifts, kind="stable")
    rows = layer.rows[order]
    n_tables, n_rows, n_columns = rows.shape
    words = np.full((n_tables, n_rows, 4 * n_words(n_columns)), _EXCESS, dtype=np.uint8)
    words[:, :, :n_columns] = (rows.astype(np.int16) + _EXCESS).astype(np.uint8)
    words = words.view("<u4")
    blocks = list(_blocks(words.shape[2]))
    ends = np.cumsum([0, *(1 << bits for bits in blocks)]).tolist()
    pieces = [words[:, :, a:b].ravel() for a, b in pairwise(ends)]
    arrays.add("uint32_t", f"rows_{at}", np.concatenate(pieces))
    arrays.add("uint8_t", f"shifts_{at}", layer.shifts[order])
    arrays.add("uint16_t", f"pairs_{at}", _padded(_places(layer, n_neurons)[order]))
    values = {
        "AT": at,
        "TABLES": tables,
        "N_TABLES": n_tables,
        "N_ROWS": n_rows,
        "N_COLUMNS": n_columns,
        "N_COMPARISONS": layer.anchors.shape[1],
        "N_PLACES": 2 * _power_of_two(layer.anchors.shape[1]),
        "ROW_TYPE": row_type,
    }
    is_attention = layer.code is not None and layer.key_anchors is not None
    adds, words_before = [], 0
    for bits in blocks:
        table_bits = n_rows.bit_length() - 1 + bits
        place = (
            f"rows_{at}{f' + {n_tables * n_rows * words_before}' if words_before else ''} + ((size_t)i << {table_bits})"
        )
        step = 0 if is_attention else 1 << table_bits
        rows_at = "rows" if is_attention else "rows + i"
        adds.append(
            f"add_rows({place}, {bits}, {step}, {rows_at}, n, shift, "
            f"totals{f' + {4 * words_before}' if words_before else ''});\n"
        )
        words_before += 1 << bits
    if not is_attention:
        return fill("layer.c.in", ADD="".join(f"    {line}" for line in adds), **values)
    kept = key_bits(layer)
    codes = np.zeros((n_tables, 1 << kept), dtype=np.int64)
    codes[:, : layer.code.shape[1]] = layer.code
    arrays.add("uint16_t", f"key_pairs_{at}", _padded(2 * layer.key_anchors[order, ::-1].astype(np.int64)))
    arrays.add("uint16_t", f"codes_{at}", codes[order])
    n_key = layer.key_anchors.shape[1]
    return fill(
        "attention.c.in",
        ADD="".join(f"      {line}" for line in adds),
        WINDOW=layer.code.shape[1] - 1,
        QUERY_SHIFT=n_key + layer.n_code,
        N_CODE=layer.n_code,
        N_KEY=n_key,
        N_KEY_PLACES=2 * _power_of_two(n_key),
        N_KEPT=1 << kept,
        MASK=(1 << kept) - 1,
        **values,
    )


def row_type(layers: tuple[TableLayer, ...]) -> str:
    """The type of the numbers of rows."""
    return "uint16_t" if all(layer.rows.shape[1] <= 1 << 16 for layer in layers) else "uint32_t"


def n_rows_at_once(layer: TableLayer) -> int:
    """How many numbers of rows a layer keeps."""
    return len(layer.rows) if layer.code is None else min(257, layer.code.shape[1])


def comparisons(layers: tuple[TableLayer, ...]) -> str:
    """A function ``compare_<R>`` for every number of comparisons that the layers have."""
    counts = {anchors.shape[1] for layer in layers for anchors in (layer.anchors, layer.key_anchors) if
              anchors is not None}  # fmt: skip
    functions = []
    for count in sorted(counts):
        lines = [f"  bits = bits << 1 | later(latencies, pairs + {2 * r});\n" for r in range(1, count)]
        functions.append(
            f"static uint32_t compare_{count}(const unsigned char *latencies, const FLASH uint16_t *pairs) {{\n"
            f"  uint32_t bits = later(latencies, pairs);\n{''.join(lines)}  return bits;\n}}\n\n"
        )
    return "".join(functions)


def _places(layer: TableLayer, n_neurons: int) -> np.ndarray:
    """(I, R, 2) bytes from the oldest latency that the layer looks at; the last comparison, the highest bit, first."""
    places = layer.anchors.astype(np.int64)
    if layer.delays is not None:
        places = places + (longest_delay(layer) - layer.delays.astype(np.int64)) * n_neurons
    return 2 * places[:, ::-1]


def _blocks(width: int) -> Iterator[int]:
    """Exponents of the powers of two that a row's words are cut into, descending: a block begins at a shifted index."""
    for bits in reversed(range(width.bit_length())):
        if width >> bits & 1:
            yield bits


def _padded(places: np.ndarray) -> np.ndarray:
    """(I, R, 2) with as many comparisons as a power of two; the last ones are never made."""
    n_missing = _power_of_two(places.shape[1]) - places.shape[1]
    return np.pad(places, ((0, 0), (0, n_missing), (0, 0)))


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
