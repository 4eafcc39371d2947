"""What networks of tables cost and can tell apart: the paper's tables recomputed, ours counted the same way."""

from polychron.analysis.capacity import (
    log10_addresses,
    log10_orders,
    log10_patterns,
    log10_rates,
    log10_times,
    plot_capacity,
)
from polychron.analysis.cost import (
    LayerCost,
    ModelCost,
    count_cost,
    published_bandwidth,
    published_operations,
    published_synapses,
)
from polychron.analysis.energy import Energy, dense_energy, model_energy
from polychron.analysis.published import Bandwidth, Comparison, DenseLayer, SpikingHead, brain_proportion, critique

__all__ = [
    "Bandwidth",
    "Comparison",
    "DenseLayer",
    "Energy",
    "LayerCost",
    "ModelCost",
    "SpikingHead",
    "brain_proportion",
    "count_cost",
    "critique",
    "dense_energy",
    "log10_addresses",
    "log10_orders",
    "log10_patterns",
    "log10_rates",
    "log10_times",
    "model_energy",
    "plot_capacity",
    "published_bandwidth",
    "published_operations",
    "published_synapses",
]
