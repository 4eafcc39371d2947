"""Memory for tables: zero, aligned, on huge pages where the system grants them."""

from __future__ import annotations

import torch
from torch import Tensor

from polychron.ops.dispatch import native


def zero_tables(*shape: int) -> Tensor:
    """A float32 CPU tensor of zeros on a 64-byte boundary; from 2 MiB on with transparent huge pages asked for.

    All of it is touched at once: a run does not stop for pages later, and memory that is not there is missed now.
    Without the extension this is ``torch.zeros``.

    Raises:
        MemoryError: the system has no room for it.

    Example:
        >>> zero_tables(2, 4, 3).sum()
        tensor(0.)
    """
    if native is None:
        return torch.zeros(shape)
    return torch.from_numpy(native.allocate_tables(list(shape), torch.get_num_threads()))
