"""Arithmetic of look-up tables addressed by spike order: operators, each with its reference and its kernels."""

from polychron.ops.dispatch import available_kernels, kernel_info, use_kernel
from polychron.ops.lookup import lookup
from polychron.ops.pair_lookup import pair_lookup
from polychron.ops.readout import readout_cross_entropy
from polychron.ops.row_update import RowUpdate

__all__ = [
    "RowUpdate",
    "available_kernels",
    "kernel_info",
    "lookup",
    "pair_lookup",
    "readout_cross_entropy",
    "use_kernel",
]
