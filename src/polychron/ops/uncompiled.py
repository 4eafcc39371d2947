"""A call that ``torch.compile`` leaves alone; imported only where something is being compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


@torch.compiler.disable
def call(function: Callable, *arguments: object) -> Any:
    """``function(*arguments)``."""
    return function(*arguments)
