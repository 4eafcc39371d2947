"""Triton's kernels are tested by its interpreter where there is no GPU; what it interprets is decided at its import."""

import importlib.util
import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Their docstrings' examples, and the modules themselves, cannot be read without Triton.
collect_ignore_glob = (
    [] if importlib.util.find_spec("triton") else ["src/polychron/ops/*triton*", "src/polychron/ops/*/triton.py"]
)
