"""Structural plasticity during training: every so many steps the least telling comparisons are replaced."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from polychron.data.windows import Windows
from polychron.models.language_model import LanguageModel
from polychron.nn import LookupTables, RecurrentTables
from polychron.nn.fixed_rows import fixed_rows
from polychron.nn.rewiring import Rewired, rewire

# What a comparison tells is judged on so many positions.
SAMPLE_POSITIONS = 1 << 14
# Late in a run a new comparison has no time to learn.
LAST_PROGRESS = 0.7


class Rewiring:
    """Called after every training step; does something after each ``every`` of them, up to 70 % of the run.

    What it does follows from the model, the text, the seed and the step alone, so that a resumed run does the same. An
    attention's and a recurrent layer's comparisons stay as they are.

    Args:
        model: trained by the loop that calls.
        windows: its text.
        every: steps between two times.
        share: part of a layer's comparisons that is replaced each time.
    """

    def __init__(self, model: LanguageModel, windows: Windows, every: int, share: float = 0.02):
        self._model = model
        self._windows = windows
        self._every = every
        self._share = share

    def __call__(self, step: int, progress: float) -> list[Rewired]:
        """``step`` steps are done, ``progress`` of the budget is used; returns what was replaced."""
        if step % self._every or progress > LAST_PROGRESS:
            return []
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._windows.seed, 2, step))))
        n_batches = max(1, round(SAMPLE_POSITIONS / self._windows.bytes_per_batch))
        batches = [self._windows.batch(step + k) for k in range(n_batches)]
        tokens, targets = (torch.cat(part) for part in zip(*batches, strict=True))
        if len(tokens) < 2:  # one long window: its two ends are the halves of the sample
            length = tokens.shape[1] // 2
            tokens, targets = (part[:, : 2 * length].reshape(2, length) for part in (tokens, targets))
        replaced = []
        for layer, (x, v) in read_gradients(self._model, tokens, targets).items():
            replaced += rewire(layer, x, v, share=self._share, rng=rng)
        self._model.train()
        return replaced


def read_gradients(model: LanguageModel, tokens: Tensor, targets: Tensor) -> dict[LookupTables, tuple[Tensor, Tensor]]:
    """What each layer of tables reads, (B, T, n), and the loss' gradient in its output, (B, T, K); nothing learns.

    Attention and recurrent layers pass gradients on and are left out.
    """
    seen: dict[LookupTables, tuple[Tensor, Tensor]] = {}

    def hook(layer: LookupTables, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        seen[layer] = (arguments[0].detach(), output)

    model.eval()
    with ExitStack() as stack:
        stack.enter_context(fixed_rows(model.layers_in_order()))
        for layer in model.layers_in_order():
            if isinstance(layer, LookupTables) and not isinstance(layer, RecurrentTables):
                stack.callback(layer.register_forward_hook(hook).remove)
        with torch.enable_grad():
            logits = model(tokens)
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    return {layer: (x, output.grad) for layer, (x, output) in seen.items()}
