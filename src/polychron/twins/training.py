"""Trains a twin for so many seconds: AdamW, warm-up, cosine to zero over the clock. Only training counts as time."""

# B window or stream, T position, N position in the text

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polychron.errors import InputError
from polychron.training.evaluate import spread_sample
from polychron.twins.split import Split
from polychron.twins.twin import Batches, Recipe, Twin

WARM_UP = 0.05  # of the budget
BETAS = (0.9, 0.99)
LONGEST_GRADIENT = 1.0
SAMPLE_BYTES = 1 << 15  # scored while a run goes on; the end scores everything
LOOKS = tuple(lead * 10.0**power for power in range(5) for lead in (1, 1.5, 2, 3, 4.5, 6, 8))  # seconds


@dataclass(frozen=True)
class Settings:
    """What is chosen before a timed run.

    Attributes:
        rate: AdamW's at its highest.
        dropout: probability.
        compiled: whether torch.compile makes the step.
    """

    rate: float
    dropout: float = 0.0
    compiled: bool = False


@dataclass(frozen=True)
class Trained:
    """What a run came to.

    Attributes:
        twin: trained.
        nats_per_byte: of the whole held-out part.
        scored_bytes: how many that are.
        seconds: spent training.
        steps: made.
        trained_bytes: predicted while training.
        curve: (seconds, trained bytes, nats per byte of a fixed sample) on the way.
    """

    twin: Twin
    nats_per_byte: float
    scored_bytes: int
    seconds: float
    steps: int
    trained_bytes: int
    curve: list[tuple[float, int, float]]


def train(recipe: Recipe, settings: Settings, split: Split, seconds: float, seed: int, *, look: bool = True) -> Trained:
    """Build, train for ``seconds``, score.

    What torch prepares at the first step (a compilation may take a minute) happens before the clock starts, on a
    step whose gradient is thrown away. Looking at the held-out sample stops the clock.

    Raises:
        InputError: the text is too short for the twin, or the loss is no longer finite.
    """
    twin, batches, optimizer, loss_of = prepare(recipe, settings, split, seed)
    looks = [at for at in LOOKS if at < 0.95 * seconds] if look else []
    sample = spread_sample(split.held_out, SAMPLE_BYTES)
    curve: list[tuple[float, int, float]] = []
    clock, step = 0.0, 0
    while clock < seconds:
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * schedule(clock / seconds)
        loss = one_step(twin, optimizer, loss_of, batches.batch(step))
        if not math.isfinite(loss):
            raise InputError(f"{recipe.name} diverged at step {step}: take a lower rate than {settings.rate:g}")
        step += 1
        clock += time.perf_counter() - began
        if looks and clock >= looks[0]:
            while looks and clock >= looks[0]:
                del looks[0]
            curve.append((clock, step * batches.bytes_per_batch, nats_per_byte(twin, sample, split)))
    whole = nats_per_byte(twin, split.held_out, split)
    return Trained(twin, whole, split.held_out.size - 1, clock, step, step * batches.bytes_per_batch, curve)


def prepare(
    recipe: Recipe, settings: Settings, split: Split, seed: int
) -> tuple[Twin, Batches, torch.optim.Optimizer, Callable[[Tensor, Tensor], Tensor]]:
    """An untrained twin with all that a step needs, warm."""
    torch.manual_seed(seed)
    twin = recipe.build(split.vocabulary.size, settings.dropout)
    batches = twin.batches(split.training, recipe.batch, seed)
    matrices = [parameter for parameter in twin.parameters() if parameter.dim() >= 2]
    others = [parameter for parameter in twin.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=True)
    loss_of = twin.loss
    if settings.compiled:
        torch.compiler.reset()  # else every run would count against the limit of recompilations
        loss_of = torch.compile(twin.loss, dynamic=False)
    twin.train()
    for _ in range(2):
        loss_of(*batches.batch(0)).backward()
    optimizer.zero_grad()
    twin.begin()
    return twin, batches, optimizer, loss_of


def one_step(
    twin: Twin,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    batch: tuple[Tensor, Tensor],
) -> float:
    """One update; the loss before it."""
    twin.train()
    optimizer.zero_grad()
    loss = loss_of(*batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), LONGEST_GRADIENT, foreach=True)
    optimizer.step()
    return loss.item()


def schedule(progress: float) -> float:
    """Part of the highest rate when ``progress`` of the budget is used.

    Example:
        >>> schedule(0.0) > 0, schedule(WARM_UP), round(schedule(1.0), 12)
        (True, 1.0, 0.0)
    """
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP)))


def nats_per_byte(twin: Twin, tokens: np.ndarray, split: Split) -> float:
    """Mean over all bytes after the first; a byte that training never saw also pays for its name."""
    twin.eval()
    return mean_nats(twin.score(torch.from_numpy(tokens.astype(np.int64))), tokens, split)


def mean_nats(nats: Tensor, tokens: np.ndarray, split: Split) -> float:
    """The same of the nats (N - 1,) of all of them."""
    assert len(nats) == tokens.size - 1
    n_unseen = int(np.count_nonzero(tokens[1:] == split.vocabulary.unseen_id))
    return (nats.sum(dtype=torch.float64).item() + n_unseen * split.vocabulary.unseen_nats) / (tokens.size - 1)
