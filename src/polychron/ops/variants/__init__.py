"""Variants of the layer from the paper's appendix and after it, in plain PyTorch: other hashes, readings, gradients.

Address, then gather: a hash gives every table's row and how far each comparison is from changing it
(:class:`Address`); readings and gradients know nothing of where these came from.
"""

from polychron.ops.variants.hashes import (
    HASHES,
    Address,
    binary,
    bins_hash,
    hyperplane_hash,
    join,
    order_hash,
    zero_hash,
)
from polychron.ops.variants.readings import GRADIENTS, READINGS, latency_gradient, read, steadied

__all__ = [
    "GRADIENTS",
    "HASHES",
    "READINGS",
    "Address",
    "binary",
    "bins_hash",
    "hyperplane_hash",
    "join",
    "latency_gradient",
    "order_hash",
    "read",
    "steadied",
    "zero_hash",
]
