"""Nodes, constants and loops of an ONNX graph, each named as it is made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # the first that has this opset: readers of 2022 take it

FLOAT, BFLOAT16 = TensorProto.FLOAT, TensorProto.BFLOAT16
INT8, INT32, INT64 = TensorProto.INT8, TensorProto.INT32, TensorProto.INT64


class Graph:
    """A graph under construction; values are their names. Constants of loops' bodies stand in the outermost graph.

    Args:
        outer: the graph in whose loop this one is the body.
    """

    def __init__(self, outer: Graph | None = None) -> None:
        self.nodes: list[Any] = []
        self.constants: list[TensorProto] = [] if outer is None else outer.constants
        self._numbers = itertools.count() if outer is None else outer._numbers

    def add(self, operator: str, *inputs: str, outputs: int | Sequence[str] = 1, **attributes: Any) -> Any:
        """A node; the name of its output, or of its outputs."""
        names = [self.name(operator.lower()) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=names[0], **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, values: Any, dtype: Any, name: str = "constant") -> str:
        """A constant of numbers."""
        name = self.name(name)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), name))
        return name

    def bfloat16(self, bits: np.ndarray, name: str) -> str:
        """A constant of bfloat16, given by the 16 bits of each number."""
        name = self.name(name)
        raw = np.ascontiguousarray(bits).tobytes()
        self.constants.append(helper.make_tensor(name, BFLOAT16, bits.shape, raw, raw=True))
        return name

    def scan(
        self,
        states: Sequence[tuple[str, int, Sequence[Any]]],
        items: Sequence[tuple[str, int, Sequence[Any]]],
        body: Callable[..., tuple[Sequence[str], Sequence[str]]],
        n_collected: int = 0,
    ) -> Any:
        """A loop over the first axis of ``items``.

        Args:
            states: what a round passes on: its first value, element type and shape.
            items: what a round gets a slice of: the whole, element type, and shape of the slice.
            body: given the body's graph and the names of states and slices, the new states and what is collected.
            n_collected: how many values are collected, stacked along a new first axis.

        Returns:
            The last states, then what was collected; one name if it is one.
        """
        inner = Graph(self)
        inputs = [_value(inner.name("in"), kind, shape) for _, kind, shape in (*states, *items)]
        new_states, collected = body(inner, *(value.name for value in inputs))
        outputs = [_value(name, kind, shape) for name, (_, kind, shape) in zip(new_states, states, strict=True)]
        outputs += [_value(name, states[0][1], states[0][2]) for name in collected]
        graph = helper.make_graph(inner.nodes, self.name("body"), inputs, outputs)
        return self.add(
            "Scan",
            *(name for name, _, _ in (*states, *items)),
            outputs=len(states) + n_collected,
            body=graph,
            num_scan_inputs=len(items),
        )

    def name(self, stem: str) -> str:
        """A name that nothing has yet."""
        return f"{stem}_{next(self._numbers)}"

    def finished(self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """All of it."""
        return helper.make_graph(self.nodes, name, list(inputs), list(outputs), initializer=self.constants)


def _value(name: str, kind: int, shape: Sequence[Any]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))
