"""What a dense twin is to the benchmark: a network, and the recipe that trains it."""

# B window or stream, T position, N position in the text, K vocabulary

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from polychron.twins.cost import Cost


class Batches(Protocol):
    """Where the steps of a run take their text from."""

    bytes_per_batch: int

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) and their successors (B, T), int64, of step number ``step``."""


class Twin(nn.Module):
    """Base of the dense networks."""

    def batches(self, tokens: np.ndarray, batch: int, seed: int) -> Batches:
        """The steps' text, of (N,) uint8 ids: ``batch`` windows or streams each."""
        raise NotImplementedError

    def begin(self) -> None:
        """Forgets what was remembered from step to step."""

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean nats of the targets (B, T) after tokens (B, T): a 0-dim tensor."""
        raise NotImplementedError

    def score(self, tokens: Tensor) -> Tensor:
        """Nats of tokens[1:], each once, with the context that the network can use: (N,) int64 to (N - 1,)."""
        raise NotImplementedError

    def reading_cost(self) -> Cost:
        """Of one more byte of a long text, with what came before remembered."""
        raise NotImplementedError

    def training_forward_cost(self) -> Cost:
        """Of one byte in the forward pass of a training step."""
        return self.reading_cost()

    def n_parameters(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass(frozen=True)
class Recipe:
    """A twin and how it is trained.

    Attributes:
        name: on the command line and in tables.
        build: vocabulary size and dropout to an untrained twin, drawn from torch's generator.
        batch: windows or streams of a step.
        rate: where the search for the learning rate begins.
        weight_decay: AdamW's, for matrices.
        compiles: whether torch.compile may be tried.
        sizes: in words, for who reads a figure that was measured beside it.
    """

    name: str
    build: Callable[[int, float], Twin]
    batch: int
    rate: float
    weight_decay: float = 0.1
    compiles: bool = True
    sizes: str = ""
