"""Reading a text byte by byte: the state that a model must remember, and nothing that grows."""

from __future__ import annotations

import torch
from torch import Tensor

from polychron.models import LanguageModel

CHUNK = 1 << 12  # tokens of a prompt read at once


class Stream:
    """A position in a text: feed tokens, get the logits of the next one.

    The state is a ring of the last latencies (delays) or of the last keys' rows (attention), so the cost of a token
    does not depend on how many came before. The logits equal those of the whole text in one forward pass.

    Args:
        model: any language model; its tables are read, never changed.

    Example:
        >>> from polychron.models import DelayConfig, build
        >>> stream = Stream(build(DelayConfig(vocabulary_size=27, n_tables=2, n_comparisons=2)))
        >>> stream.feed(torch.tensor([3, 1, 4])).shape
        torch.Size([27])
    """

    def __init__(self, model: LanguageModel):
        self.model = model
        self._state = model.start()

    def feed(self, tokens: Tensor) -> Tensor:
        """Logits (vocabulary_size,) after the last of ``tokens`` (n,) int64, n >= 1.

        Raises:
            ValueError: no token, or one outside the vocabulary.
        """
        if tokens.dim() != 1 or tokens.numel() == 0 or tokens.dtype != torch.int64:
            raise ValueError(f"tokens must be int64 of shape (n,), n >= 1; got {tokens.dtype} {tuple(tokens.shape)}")
        size = self.model.config.vocabulary_size
        if int(tokens.min()) < 0 or int(tokens.max()) >= size:
            raise ValueError(f"tokens must lie in [0, {size}); got {int(tokens.min())} to {int(tokens.max())}")
        for some in tokens.split(CHUNK):
            logits, self._state = self.model.advance(some, self._state)
        return logits
