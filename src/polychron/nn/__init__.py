"""Layers as ``torch.nn`` modules."""

from polychron.nn.chain import Chain
from polychron.nn.context_tables import ContextTables
from polychron.nn.graph_step import GraphStep
from polychron.nn.lookup_tables import LookupTables, Readout
from polychron.nn.pair_attention import PairAttention
from polychron.nn.recurrent_tables import RecurrentTables
from polychron.nn.row_layer import RowLayer
from polychron.nn.variant_attention import VariantAttention
from polychron.nn.variant_tables import VariantLayer, VariantReadout, VariantRecurrentTables, VariantTables

__all__ = [
    "Chain",
    "ContextTables",
    "GraphStep",
    "LookupTables",
    "PairAttention",
    "Readout",
    "RecurrentTables",
    "RowLayer",
    "VariantAttention",
    "VariantLayer",
    "VariantReadout",
    "VariantRecurrentTables",
    "VariantTables",
]
