"""Layers of tables as a configuration asks for them: the native ones, or the variant's in PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from polychron.models.config import TableConfig
from polychron.nn import (
    LookupTables,
    PairAttention,
    Readout,
    RecurrentTables,
    VariantAttention,
    VariantReadout,
    VariantRecurrentTables,
    VariantTables,
)


def make_tables(config: TableConfig, *sizes: int, **options: Any) -> LookupTables | VariantTables:
    """:class:`polychron.nn.LookupTables` of these sizes and options, or the same of the configuration's variant."""
    if config.is_native:
        return LookupTables(*sizes, **options, dtype=_dtype(config))
    return VariantTables(*sizes, **options, **config.variant)


def make_readout(config: TableConfig, *sizes: int, **options: Any) -> Readout | VariantReadout:
    """:class:`polychron.nn.Readout`, or the same of the configuration's variant."""
    if config.is_native:
        return Readout(*sizes, **options, dtype=_dtype(config))
    return VariantReadout(*sizes, **options, **config.variant)


def make_recurrent(config: TableConfig, *sizes: int, **options: Any) -> RecurrentTables | VariantRecurrentTables:
    """:class:`polychron.nn.RecurrentTables`, or the same of the configuration's variant."""
    if config.is_native:
        return RecurrentTables(*sizes, **options)
    return VariantRecurrentTables(*sizes, **options, **config.variant)


def make_attention(config: TableConfig, *sizes: int, **options: Any) -> PairAttention | VariantAttention:
    """:class:`polychron.nn.PairAttention`, or the same of the configuration's variant."""
    if config.is_native:
        return PairAttention(*sizes, **options, dtype=_dtype(config))
    return VariantAttention(*sizes, **options, **config.variant)


def _dtype(config: TableConfig) -> torch.dtype:
    return getattr(torch, config.table_type)
