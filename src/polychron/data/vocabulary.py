"""Bytes to token ids and back: the bytes that occur in the training text, and one id for all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polychron.errors import InputError

if TYPE_CHECKING:  # loading numpy takes longer than writing the first byte of a text may
    import numpy as np


@dataclass(frozen=True)
class Vocabulary:
    """The byte values that a model knows, in ascending order; id k means ``byte_values[k]``, the last id
    "unseen".

    A model of a text with 82 distinct bytes predicts 83 classes instead of 256: a readout a third of the
    size.

    Attributes:
        byte_values: ascending, without repeats; at least one.
        size: ``len(byte_values) + 1``, with the unseen id.
        unseen_id: ``size - 1``; stands for every byte value that is not in ``byte_values``.

    Raises:
        InputError: no byte values, or not in strictly ascending order.

    Example:
        >>> vocabulary = Vocabulary(b"abc")
        >>> vocabulary.size, vocabulary.encode(b"cab!").tolist()
        (4, [2, 0, 1, 3])
        >>> vocabulary.decode([2, 0, 1])
        b'cab'
    """

    byte_values: bytes
    _ids: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = list(self.byte_values)
        if not values:
            raise InputError("a vocabulary needs at least one byte value; got none")
        if values != sorted(set(values)):
            raise InputError("a vocabulary's byte values must ascend without repeats")
        # With all 256 values known, the unseen id is 256 and never arises: a byte holds every id that encode
        # gives.
        ids = bytearray([self.unseen_id % 256]) * 256
        for token, value in enumerate(values):
            ids[value] = token
        object.__setattr__(self, "_ids", bytes(ids))

    @classmethod
    def of(cls, *parts: np.ndarray) -> Vocabulary:
        """The vocabulary of the bytes that occur in any of ``parts``, each (N,) uint8."""
        import numpy as np

        from polychron.data.corpus import byte_counts

        counts = sum((byte_counts(part) for part in parts), start=np.zeros(256, dtype=np.int64))
        return cls(bytes(np.flatnonzero(counts).tolist()))

    @property
    def size(self) -> int:
        """Number of ids, the unseen one included."""
        return len(self.byte_values) + 1

    @property
    def unseen_id(self) -> int:
        """The id of every byte value that is not in the vocabulary."""
        return len(self.byte_values)

    @property
    def start_id(self) -> int:
        """What stands before an empty prompt: a newline if known, else a space, else the lowest byte."""
        for value in b"\n ":
            if value in self.byte_values:
                return self.byte_values.index(value)
        return 0

    @property
    def unseen_nats(self) -> float:
        """What naming a byte costs once it is known to be unseen: the logarithm of how many it can be.

        0 if there is at most one such byte value.
        """
        return math.log(max(1, 256 - len(self.byte_values)))

    def encode(self, text: bytes | np.ndarray) -> np.ndarray:
        """Token ids of a text: bytes or (N,) uint8 -> (N,) uint8."""
        import numpy as np

        data = np.frombuffer(text, dtype=np.uint8) if isinstance(text, (bytes, bytearray)) else text
        return np.frombuffer(self._ids, dtype=np.uint8)[data]

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of token ids. The unseen id has no byte and raises InputError."""
        import numpy as np

        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.unseen_id):
            raise InputError(
                f"token ids must be in [0, {self.unseen_id}) to have a byte; got {int(ids.min())} to "
                f"{int(ids.max())}. {self.unseen_id} stands for all unseen bytes and cannot be written"
            )
        return np.frombuffer(self.byte_values, dtype=np.uint8)[ids].tobytes()

    def ids_of(self, text: bytes) -> bytes:
        """As `encode`, without numpy: a byte for every token id.

        Example:
            >>> list(Vocabulary(b"abc").ids_of(b"cab!"))
            [2, 0, 1, 3]
        """
        return text.translate(self._ids)

    def bytes_of(self, ids: bytes) -> bytes:
        """As `decode`, without numpy, of ids that are known to have a byte: the reverse of `ids_of`."""
        return ids.translate(self.byte_values.ljust(256, b"?"))

    def count_unseen(self, ids: bytes) -> int:
        """How many of the ids that `ids_of` gave stand for unseen bytes."""
        return ids.count(self.unseen_id) if self.unseen_id < 256 else 0
