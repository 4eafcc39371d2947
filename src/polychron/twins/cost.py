"""What one more byte of text costs: operations and bytes touched, by one rule for every contestant.

A model reads one stream, byte after byte, and remembers what it needs (keys and values, a hidden state, a ring of
latencies), so that nothing is computed twice.

- *Operations*: additions, subtractions, multiplications, divisions, comparisons, and elementary functions (exp, tanh,
  an activation) count one each. A multiplication and its addition are two.
- *Bytes touched*: every parameter that is used, once; every remembered number that is read or written; the vector that
  goes into a layer and the one that comes out. Numbers are float32. What a comparison takes from a latency vector is
  gathered, so both latencies count for every comparison, and so do the indices that say where they are.

Training counts operations only: what the memory has to move then depends on the batch and on the caches.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """Operations and bytes touched per byte of text.

    Example:
        >>> linear(3, 2) + Cost(operations=1, bytes=0)
        Cost(operations=13, bytes=44)
    """

    operations: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.operations + other.operations, self.bytes + other.bytes)


def linear(n_inputs: int, n_outputs: int, *, bias: bool = False) -> Cost:
    """A matrix times a vector: every weight is multiplied, added and read."""
    n_weights = n_inputs * n_outputs + (n_outputs if bias else 0)
    return Cost(2 * n_inputs * n_outputs + (n_outputs if bias else 0), FLOAT * (n_weights + n_inputs + n_outputs))


def embedding(width: int) -> Cost:
    """One row is read and passed on."""
    return Cost(0, FLOAT * 2 * width)


def layer_norm(width: int) -> Cost:
    """Mean, variance, scaling, and a learned scale; no bias."""
    return Cost(6 * width, FLOAT * 3 * width)


def elementwise(width: int) -> Cost:
    """An activation or a residual addition, done while the vector is at hand."""
    return Cost(width, 0)


def softmax(n_classes: int) -> Cost:
    """Highest logit, differences, exponentials, their sum, quotients."""
    return Cost(5 * n_classes, FLOAT * 2 * n_classes)


def attention(width: int, n_heads: int, context: float) -> Cost:
    """Scores and weighted sum over ``context`` remembered positions, softmax, and one position remembered."""
    operations = 4 * width * context + 5 * n_heads * context
    return Cost(operations, FLOAT * (2 * width * context + 2 * width + 2 * width))


def rotation(width: int) -> Cost:
    """Query and key turned in planes of two: four products and two sums each."""
    return Cost(6 * width, 0)


def gru(n_inputs: int, width: int) -> Cost:
    """Three gates: two matrices and two biases each, and what joins them to the new state."""
    weights = 3 * width * (n_inputs + width)
    biases = 6 * width
    return Cost(2 * weights + biases + 3 * width + 5 * width, FLOAT * (weights + biases + n_inputs + 2 * width))
