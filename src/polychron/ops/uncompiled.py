"""A call that ``torch.compile`` leaves alone; imported only where something is being compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch


@torch.compiler.disable
def call(function: Callable, *arguments: object) -> torch.Tensor:
    """``function(*arguments)``."""
    return function(*arguments)
