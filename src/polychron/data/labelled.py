"""Labelled examples: those to learn from, and those that decide."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from polychron.errors import InputError


@dataclass(frozen=True)
class LabelledSet:
    """Examples for training and for the test that decides.

    Attributes:
        name: short, fit for a folder's name.
        source: one line for people: what was read, how it was divided.
        path: absolute path of what was read; None for a set that a package carries.
        train_inputs: (N, n_inputs) uint8, where 255 is brightest (or the sensor's highest): it fires first.
        train_labels: (N,) int64 in [0, n_classes).
        test_inputs: (M, n_inputs) uint8.
        test_labels: (M,) int64.
        class_names: one a class.
        height: rows of an image; 0 where inputs are no image.
        width: columns of an image; 0 where inputs are no image.
        mirrors: a mirrored example is still one of its class.
    """

    name: str
    source: str
    path: str | None
    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    height: int = 0
    width: int = 0
    mirrors: bool = False

    def __post_init__(self) -> None:
        for part, inputs, labels in (
            ("training", self.train_inputs, self.train_labels),
            ("test", self.test_inputs, self.test_labels),
        ):
            if len(inputs) == 0 or len(inputs) != len(labels):
                raise InputError(
                    f"{self.source}: the {part} part must have as many labels as examples, at least one; "
                    f"got {len(inputs)} examples and {len(labels)} labels"
                )
            if labels.min() < 0 or labels.max() >= len(self.class_names):
                raise InputError(
                    f"{self.source}: {part} labels must lie in [0, {len(self.class_names)}); "
                    f"got {labels.min()} to {labels.max()}"
                )
        if self.train_inputs.shape[1] != self.test_inputs.shape[1]:
            raise InputError(
                f"{self.source}: examples for training and for the test must have one size; "
                f"got {self.train_inputs.shape[1]} and {self.test_inputs.shape[1]} inputs"
            )

    @property
    def n_inputs(self) -> int:
        """Numbers in an example."""
        return self.train_inputs.shape[1]

    @property
    def sha256(self) -> str:
        """Of all examples and labels; a resumed run demands the same."""
        digest = hashlib.sha256()
        for part in (self.train_inputs, self.train_labels, self.test_inputs, self.test_labels):
            digest.update(repr(part.shape).encode())
            digest.update(np.ascontiguousarray(part))
        return digest.hexdigest()
