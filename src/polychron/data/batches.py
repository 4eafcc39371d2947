"""The examples a training step reads: a pure function of the seed and the step's number."""

# B example, Y row, X column

from __future__ import annotations

import functools

import numpy as np
import torch

from polychron.data.labelled import LabelledSet
from polychron.errors import InputError

AUGMENTATIONS = ("none", "shift", "shift+mirror")


class Batches:
    """Batches of labelled examples, every pass in another order, with images moved about.

    ``shift`` moves an image by at most one pixel each way, what comes in being dark; ``mirror`` turns every second one
    left to right.

    Args:
        labelled: the training part is used.
        batch: B.
        augment: ``"none"``, ``"shift"`` or ``"shift+mirror"``; the latter two need images.
        seed: of orders, shifts and mirrors.

    Raises:
        InputError: an impossible argument.
    """

    def __init__(self, labelled: LabelledSet, *, batch: int, augment: str, seed: int) -> None:
        if augment not in AUGMENTATIONS:
            raise InputError(f"augment must be one of {', '.join(AUGMENTATIONS)}; got {augment!r}")
        if augment != "none" and not labelled.height:
            raise InputError(f"augment {augment} needs images, and {labelled.name} has none: take none")
        if batch < 1:
            raise InputError(f"batch must be at least 1; got {batch}")
        self.augment = augment
        self.seed = seed
        self.batch_size = batch
        self._labelled = labelled
        self._pass_order = functools.lru_cache(maxsize=2)(self._order_of_pass)

    @property
    def bytes_per_batch(self) -> int:
        """Examples in a batch, under the name that the training loop has for what it counts."""
        return self.batch_size

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch number ``step``: inputs (B, n_inputs) float32 in [0, 1], labels (B,) int64."""
        labels, n = self._labelled.train_labels, len(self._labelled.train_labels)
        at = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        numbers = at // n
        chosen = np.concatenate([self._pass_order(k)[at[numbers == k] % n] for k in np.unique(numbers).tolist()])
        inputs = self._labelled.train_inputs[chosen]
        if self.augment != "none":
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, 1, step))))
            inputs = self._moved(inputs, random)
        return brightness(inputs), torch.from_numpy(labels[chosen])

    def _order_of_pass(self, number: int) -> np.ndarray:
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, 0, number))))
        return random.permutation(len(self._labelled.train_labels))

    def _moved(self, inputs: np.ndarray, random: np.random.Generator) -> np.ndarray:
        height, width = self._labelled.height, self._labelled.width
        images = inputs.reshape(-1, height, width)
        if self.augment == "shift+mirror":
            mirrored = random.integers(0, 2, len(images), dtype=bool)
            images = np.where(mirrored[:, None, None], images[:, :, ::-1], images)
        framed = np.pad(images, ((0, 0), (1, 1), (1, 1)))
        down, right = random.integers(0, 3, (2, len(images)))
        cuts = np.lib.stride_tricks.sliding_window_view(framed, (height, width), axis=(1, 2))
        return cuts[np.arange(len(images)), down, right].reshape(len(images), -1)


def brightness(inputs: np.ndarray) -> torch.Tensor:
    """(B, n_inputs) uint8 to float32 in [0, 1]."""
    return torch.from_numpy(inputs.astype(np.float32) * np.float32(1 / 255))
