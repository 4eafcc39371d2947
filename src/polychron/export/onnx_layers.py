"""Layers of tables as nodes of ONNX.

A layer is Gather (the anchors' latencies), Greater, a sum of powers of two, then a Scan over the tables: Gather a row,
Add it. The loop's order is the standard's, so that float32 sums have the bits of our own forward pass.

Axes: B batch, T position, I table, R comparison, J row, K output, n neuron, D distance.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from polychron.export.network import TableLayer
from polychron.export.onnx_graph import BFLOAT16, FLOAT, INT8, INT32, INT64, Graph

_SATURATION = 32767
_END = 2**63 - 1  # of an axis, in Slice


class LayerNodes:
    """Layers as nodes: latencies (B, T, n) in, sums (B, T, K) out.

    Args:
        graph: where the nodes go.
        precision: of the tables. Of int8, latencies and sums are whole numbers of 32 bits.
        n_neurons: in a latency vector.
    """

    def __init__(self, graph: Graph, precision: str, n_neurons: int) -> None:
        self.graph = graph
        self.precision = precision
        self.n_neurons = n_neurons
        self.kind, self.dtype = (INT32, np.int32) if precision == "int8" else (FLOAT, np.float32)

    def residual(self, z: str, layer: TableLayer) -> str:
        """z + the sum of the rows that it selects."""
        if layer.code is not None:
            return self._saturated(self._attend(z, layer))
        return self._saturated(self._add_rows(z, self._hash(z, layer.anchors, layer.delays), layer))

    def readout(self, z: str, layer: TableLayer) -> str:
        """The sum of the rows that z selects."""
        zero = self._zeros(self.shape_of(z, slice(0, 2), [layer.rows.shape[2]]))
        return self._add_rows(zero, self._hash(z, layer.anchors, layer.delays), layer)

    def recurrent(self, z: str, layer: TableLayer) -> str:
        """h_t = z_t + the sum of the rows that h_{t-1} selects; h = 0 before the first position."""
        graph, n = self.graph, layer.rows.shape[2]
        axis, tables = graph.constant([1], np.int64), self._tables(layer)

        def step(body: Graph, h: str, now: str) -> tuple[list[str], list[str]]:
            writer = self._within(body)
            now = body.add("Unsqueeze", now, axis)
            after = writer._saturated(writer._add_rows(now, writer._hash(h, layer.anchors), layer, tables))
            return [after], [body.add("Identity", after)]

        start = self._zeros(self.shape_of(z, slice(0, 1), [1, n]))
        by_time = graph.add("Transpose", z, perm=[1, 0, 2])
        _, h = graph.scan(
            [(start, self.kind, [None, 1, n])], [(by_time, self.kind, [None, n])], step, n_collected=1
        )  # T B 1 n
        return graph.add("Transpose", graph.add("Squeeze", h, graph.constant([2], np.int64)), perm=[1, 0, 2])

    def shape_of(self, value: str, axes: slice, then: list[int]) -> str:
        """The sizes of some axes of a value, and others."""
        start, end = (self.graph.constant([at], np.int64) for at in (axes.start, axes.stop))
        lead = self.graph.add("Slice", self.graph.add("Shape", value), start, end)
        return self.graph.add("Concat", lead, self.graph.constant(then, np.int64), axis=0)

    def _within(self, body: Graph) -> LayerNodes:
        """The same in a loop's body."""
        return LayerNodes(body, self.precision, self.n_neurons)

    def _zeros(self, shape: str) -> str:
        return self.graph.add("ConstantOfShape", shape, value=helper.make_tensor("zero", self.kind, [1], [0]))

    def _hash(self, z: str, anchors: np.ndarray, delays: np.ndarray | None = None) -> str:
        """Rows (B, T, I) int32: bit r is 1 where the first spike of pair r is later than the second."""
        graph, columns = self.graph, anchors
        if delays is not None and delays.any():
            z, columns = self._with_past(z, anchors, delays)
        n_tables, n_comparisons, _ = anchors.shape
        first, second = (
            graph.add("Gather", z, graph.constant(columns[..., end].reshape(-1), np.int64, "anchors"), axis=2)
            for end in (0, 1)
        )
        bits = graph.add("Cast", graph.add("Greater", first, second), to=INT32)
        bits = graph.add("Reshape", bits, graph.constant([0, 0, n_tables, n_comparisons], np.int64))
        weight = graph.constant(1 << np.arange(n_comparisons), np.int32, "weights")
        return graph.add("ReduceSum", graph.add("Mul", bits, weight), graph.constant([3], np.int64), keepdims=0)

    def _with_past(self, z: str, anchors: np.ndarray, delays: np.ndarray) -> tuple[str, np.ndarray]:
        """Latencies of now and of each delay side by side, 0 before the text; and the anchors' columns in them."""
        graph = self.graph
        distinct, place = np.unique(delays, return_inverse=True)
        longest = int(distinct[-1])
        padded = graph.add("Pad", z, graph.constant([0, longest, 0, 0, 0, 0], np.int64))
        axis = graph.constant([1], np.int64)
        shifted = []
        for delay in distinct.tolist():
            start, end = graph.constant([longest - delay], np.int64), graph.constant([-delay or _END], np.int64)
            shifted.append(graph.add("Slice", padded, start, end, axis))
        return graph.add("Concat", *shifted, axis=2), place.reshape(anchors.shape) * self.n_neurons + anchors

    def _tables(self, layer: TableLayer) -> list[tuple[str, int, list[int]]]:
        """The tables as a loop's items: rows, and of int8 what they are multiplied with, a power of two."""
        _, n_rows, n_outputs = layer.rows.shape
        if self.precision == "bfloat16":
            return [(self.graph.bfloat16(layer.rows, "tables"), BFLOAT16, [n_rows, n_outputs])]
        tables = self.graph.constant(layer.rows, layer.rows.dtype, "tables")
        if layer.shifts is None:
            return [(tables, FLOAT, [n_rows, n_outputs])]
        scale = self.graph.constant(1 << layer.shifts.astype(np.int64), np.int32, "scales")
        return [(tables, INT8, [n_rows, n_outputs]), (scale, INT32, [])]

    def _add_rows(self, start: str, row: str, layer: TableLayer, tables: list | None = None) -> str:
        """Start + S[0, row_0] + S[1, row_1] + ..., one after the other."""
        by_table = self.graph.add("Transpose", row, perm=[2, 0, 1])
        items = [(by_table, INT32, [None, None]), *(tables or self._tables(layer))]

        def step(body: Graph, y: str, row: str, *table: str) -> tuple[list[str], list[str]]:
            return [body.add("Add", y, self._within(body)._read(row, *table))], []

        return self.graph.scan([(start, self.kind, [None, None, layer.rows.shape[2]])], items, step)

    def _read(self, row: str, table: str, scale: str | None = None) -> str:
        """Rows of one table."""
        read = self.graph.add("Gather", table, row, axis=0)
        if self.precision != "float32":
            read = self.graph.add("Cast", read, to=self.kind)
        return read if scale is None else self.graph.add("Mul", read, scale)

    def _attend(self, z: str, layer: TableLayer) -> str:
        """z_t + a row for each pair of positions s < t: table after table, the furthest key first."""
        assert layer.code is not None
        assert layer.key_anchors is not None
        graph = self.graph
        window = layer.code.shape[1] - 1
        query = self._hash(z, layer.anchors)
        shared = np.array_equal(layer.key_anchors, layer.anchors)
        key = query if shared else self._hash(z, layer.key_anchors)
        query_weight = graph.constant(1 << (layer.key_anchors.shape[1] + layer.n_code), np.int32)
        queries = graph.add("Transpose", graph.add("Mul", query, query_weight), perm=[2, 0, 1])  # I B T
        keys = graph.add("Mul", key, graph.constant(1 << layer.n_code, np.int32))
        keys = graph.add("Transpose", keys, perm=[2, 0, 1])
        keys = graph.add("Pad", keys, graph.constant([0, 0, window, 0, 0, 0], np.int64))  # I B W+T
        codes = graph.constant(layer.code[:, :0:-1], np.int32, "codes")  # of the distances W, ..., 1
        offsets = graph.constant(np.arange(window), np.int64)
        n_positions = graph.add("Slice", graph.add("Shape", z), *(graph.constant([at], np.int64) for at in (1, 2)))
        scalar = graph.add("Squeeze", n_positions)
        position = graph.add("Range", graph.constant(0, np.int64), scalar, graph.constant(1, np.int64))
        position = graph.add("Unsqueeze", position, graph.constant([1], np.int64))  # T 1
        first_axis, second_axis = graph.constant([0], np.int64), graph.constant([1], np.int64)
        last = graph.constant(window - 1, np.int64)
        state = (self.kind, [None, None, layer.rows.shape[2]])

        def one_table(outer: Graph, y: str, queries: str, keys: str, codes: str, *table: str):
            def one_distance(body: Graph, y: str, offset: str, code: str):
                begin = body.add("Unsqueeze", offset, first_axis)
                there = body.add("Slice", keys, begin, body.add("Add", begin, n_positions), second_axis)
                row = body.add("Add", body.add("Add", queries, there), code)
                more = body.add("Add", y, self._within(body)._read(row, *table))
                is_there = body.add("Greater", position, body.add("Sub", last, offset))  # t >= distance
                return [body.add("Where", is_there, more, y)], []

            items = [(offsets, INT64, []), (codes, INT32, [])]
            return [outer.scan([(y, *state)], items, one_distance)], []

        items = [(queries, INT32, [None, None]), (keys, INT32, [None, None]), (codes, INT32, [window])]
        return graph.scan([(z, *state)], [*items, *self._tables(layer)], one_table)

    def _saturated(self, y: str) -> str:
        """Of whole numbers, within 16 bits."""
        if self.precision != "int8":
            return y
        low, high = (self.graph.constant(end, np.int32) for end in (-_SATURATION, _SATURATION))
        return self.graph.add("Clip", y, low, high)
