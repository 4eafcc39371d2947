import dataclasses
import math

import pytest
import torch

from polychron.analysis import (
    Bandwidth,
    DenseLayer,
    SpikingHead,
    brain_proportion,
    count_cost,
    critique,
    model_energy,
    published_bandwidth,
    published_operations,
    published_synapses,
)
from polychron.analysis.energy import dense_energy
from polychron.errors import InputError
from polychron.models import (
    DEFAULT_PRESETS,
    DelayConfig,
    RecurrentConfig,
    TransformerConfig,
    build,
    preset,
    preset_names,
)
from polychron.models.config import ModelConfig
from polychron.models.deep import DeepClassifier, DeepConfig
from polychron.nn import LookupTables, PairAttention
from polychron.ops.recent import PLACE_BITS

DELAY = DelayConfig(vocabulary_size=7, n_neurons=6, n_layers=2, n_tables=5, n_comparisons=3,
                    readout_n_tables=4, readout_n_comparisons=2)  # fmt: skip
TRANSFORMER = TransformerConfig(vocabulary_size=7, context=9, n_neurons=6, n_layers=2, n_heads=2, n_tables=3,
                                n_comparisons=2, n_position_bits=1)  # fmt: skip
RECURRENT = RecurrentConfig(vocabulary_size=7, n_neurons=6, n_tables=5, n_comparisons=3, readout_n_tables=4)
LITTLE = DelayConfig(vocabulary_size=32, n_neurons=16, n_tables=4, n_comparisons=4, readout_n_tables=4,
                     readout_n_comparisons=4)  # fmt: skip


def test_table_iv_to_the_unit():
    head, dense = SpikingHead(), DenseLayer()
    assert (head.synapses, dense.synapses) == (10_496_000, 3_145_728)
    assert (head.operations(32), dense.operations(32)) == (172_800, 235_405_312)
    assert (head.bandwidth.constant, head.bandwidth.slope) == (120, 30)
    assert (dense.bandwidth.constant, dense.bandwidth.slope) == (1_048_576, 576)


def test_the_published_transformer_to_the_unit():
    assert published_synapses(preset("transformer", "paper", 256)) == 805_773_312


def test_the_critique_counts_what_the_paper_leaves_out():
    published, both, rows, mlp, *_ = critique(32)
    assert published.ratio == pytest.approx(1_048_576 / 120)
    assert both.ratio == pytest.approx(1_067_008 / 1_080)
    assert rows.spiking - both.spiking == 16 * 10 * 32
    assert mlp.dense - both.dense == 2 * 512 * 2048


def test_the_brain_is_a_proportion():
    assert brain_proportion() == pytest.approx(2e-3)


def test_a_head_counted_through_a_configuration_is_the_head_of_table_iv():
    head = SpikingHead()
    config = TransformerConfig(vocabulary_size=1, n_neurons=16, n_layers=1, n_heads=1, n_tables=10)
    attention, ffn, readout = count_cost(config).layers
    assert attention.synapses + ffn.synapses == head.synapses
    for n in (1, 5, 32):
        of_readout = n * (readout.comparisons + readout.additions)
        assert published_operations(config, n) - of_readout == head.operations(n)
    assert published_bandwidth(config).slope == head.bandwidth.slope
    assert published_bandwidth(config).constant - readout.comparisons == head.bandwidth.constant


def test_without_attention_numbers_read_are_table_i_s_rows_and_all():
    """5.4 K: 2 n_t n_c latencies and the n_t n numbers of the rows, of which synapses_touched has the latter alone."""
    config = preset("recurrent", "paper", 256)
    recurrent, readout = count_cost(config).layers
    assert recurrent.numbers_read == 2 * 64 * 10 + 64 * 64 == 5_376
    assert recurrent.additions == 4_096
    assert count_cost(config).synapses_touched == 4_096 + readout.additions
    assert published_bandwidth(config) == Bandwidth(5_376 + 2 * 16 * 8 + 16 * 256, 0)
    assert published_bandwidth(DELAY).constant == 2 * (2 * 5 * 3 + 5 * 6) + 2 * 4 * 2 + 4 * 7


@pytest.mark.parametrize("config", [DELAY, TRANSFORMER, RECURRENT], ids=["delay", "transformer", "recurrent"])
def test_counted_synapses_are_the_tables_of_the_model(config):
    layers = [m for m in build(config).modules() if isinstance(m, (LookupTables, PairAttention))]
    cost = count_cost(config)
    assert [layer.synapses for layer in cost.layers] == [m.synaptic_vectors.numel() for m in layers]
    assert [layer.comparisons for layer in cost.layers] == [m.anchors.shape[0] * m.anchors.shape[1] for m in layers]


@pytest.mark.parametrize("config", [DELAY, TRANSFORMER, RECURRENT], ids=["delay", "transformer", "recurrent"])
def test_counted_rows_are_those_that_a_position_adds(config):
    """Rows of ones add up to their number, at a position with as much context as can be used."""
    layers = [m for m in build(config).modules() if isinstance(m, (LookupTables, PairAttention))]
    for counted, layer in zip(count_cost(config).layers, layers, strict=True):
        layer.residual = False
        torch.nn.init.ones_(layer.synaptic_vectors)
        y = layer(torch.zeros(1, 40 if config is DELAY else 9, config.n_neurons))[0, -1]
        assert y.tolist() == [counted.rows] * counted.n_outputs


def test_a_classifier_is_counted_too():
    config = DeepConfig(n_pixels=6, n_classes=3, n_layers=2, n_tables=4, n_comparisons=3, readout_n_tables=5)
    model = DeepClassifier(config)
    cost = count_cost(config)
    assert cost.synapses + config.n_references == model.n_parameters()
    assert cost.rows == 2 * 4 + 5
    assert cost.additions == 2 * 4 * config.n_neurons + 5 * 3


def test_unshared_anchors_are_compared_twice():
    shared = count_cost(TRANSFORMER).layers[0]
    own = count_cost(dataclasses.replace(TRANSFORMER, share_anchors=False)).layers[0]
    assert own.comparisons == 2 * shared.comparisons
    assert own.additions == shared.additions


def test_energy_follows_the_memory_that_the_tables_need():
    small, large = count_cost(DELAY), count_cost(preset("delay", "base", 256))
    assert model_energy(small, "int8").memory == "8 kB SRAM"
    energy = model_energy(large, "float32")
    assert energy.memory == "DRAM"
    assert energy.rows[0] == pytest.approx(large.additions * 4 / 8 * 1.3)
    assert energy.total[1] > energy.total[0] > energy.arithmetic
    assert 0 < energy.arithmetic_share < 0.02
    assert dense_energy(1000)[0] == dense_energy(1000)[1]


def test_a_bfloat16_model_reads_half_the_row_and_adds_and_compares_in_float32():
    cost = count_cost(preset("delay", "base", 256))
    halves, floats = model_energy(cost, "bfloat16"), model_energy(cost)
    assert halves.memory == floats.memory == "DRAM"
    assert (halves.arithmetic, halves.latencies) == (floats.arithmetic, floats.latencies)
    assert halves.rows[0] == pytest.approx(floats.rows[0] / 2)
    assert model_energy(cost, "int8").latencies == pytest.approx(floats.latencies / 2)  # of 16 bits


def test_a_cache_of_keys_lies_in_the_memory_that_holds_it():
    paper, small = (count_cost(preset("transformer", name, 256)) for name in ("paper", "paper-small"))
    assert paper.key_bytes == 6 * 64 * 31 * 4
    assert small.key_bytes == 2 * 16 * 8 * 4
    assert model_energy(paper).key_memory == "1 MB SRAM"
    assert model_energy(paper).keys == (pytest.approx(47.616 / 8 * 100), pytest.approx(47.616 / 8 * 100))
    assert model_energy(small).key_memory == "8 kB SRAM"
    assert model_energy(small).keys[0] == pytest.approx(1.024 / 8 * 10)
    energy = model_energy(paper)
    assert energy.latencies == pytest.approx(2 * paper.comparisons * 4 / 8 * 10 / 1000)
    assert energy.total[0] == pytest.approx(energy.arithmetic + energy.latencies + energy.keys[0] + energy.rows[0])
    assert model_energy(count_cost(DELAY)).key_memory is None


@pytest.mark.parametrize(
    ("n_contexts", "recent", "memory", "picojoules"),
    [
        (10, False, "32 kB SRAM", (20, 20)),
        (10_000, False, "1 MB SRAM", (100, 100)),
        (20_000, False, "DRAM", (1300, 2600)),
        (10, True, "DRAM", (1300, 2600)),  # 1.3 MB of places
    ],
)
def test_what_finds_contexts_lies_in_the_memory_that_holds_it(
    n_contexts: int, recent: bool, memory: str, picojoules: tuple[int, int]
):
    with_contexts = {"context_depth": 7, "n_contexts": (n_contexts,) * 3, "n_context_entries": (n_contexts,) * 3}
    cost = count_cost(dataclasses.replace(DELAY, **with_contexts, recent=recent))
    n_lines = sum(layer.n_tables - 1 for layer in cost.layers[3:6]) + (5 if recent else 0)
    assert cost.place_bytes == 64 * n_lines
    assert cost.latency_bytes(4) == count_cost(DELAY).latency_bytes(4)
    assert cost.place_memory_bytes >= 3 * n_contexts * 64 * 5 // (4 * 3) + (5 * 8 << PLACE_BITS) * recent
    energy = model_energy(cost)
    assert energy.place_memory == memory
    assert energy.places == tuple(pytest.approx(8 * n_lines * pj / 1000) for pj in picojoules)
    assert energy.total == tuple(
        pytest.approx(energy.arithmetic + energy.latencies + energy.rows[k] + energy.places[k]) for k in (0, 1)
    )


def test_a_hyperplanes_numbers_lie_with_the_tables():
    cost = count_cost(dataclasses.replace(DELAY, n_layers=1, n_comparisons=6, hash="hyperplane"))
    energy, n_numbers = model_energy(cost), (5 * 6 + 4 * 2) * 6
    assert cost.direction_bytes(4) == 4 * n_numbers
    assert cost.latency_bytes(4) == 2 * 4 * n_numbers
    assert cost.table_bytes(4) < 8 * 2**10 < cost.table_bytes(4) + 4 * n_numbers
    assert energy.memory == "32 kB SRAM"
    assert energy.latencies == pytest.approx(4 * n_numbers / 8 * 10 / 1000)
    assert energy.rows[0] == pytest.approx((cost.row_bytes(4) + 4 * n_numbers) / 8 * 20 / 1000)


def test_the_share_of_arithmetic_that_the_document_states():
    """Of docs/analysis.md."""
    presets = [preset(kind, name, 256) for kind in DEFAULT_PRESETS for name in preset_names(kind)]
    for element, lowest, highest in (("float32", 0.14, 0.16), ("bfloat16", 0.28, 0.31), ("int8", 0.06, 0.07)):
        energies = [model_energy(count_cost(config), element) for config in presets]
        in_dram = [round(100 * energy.arithmetic_share, 2) for energy in energies if energy.memory == "DRAM"]
        assert len(in_dram) == len(presets) - (element != "float32")
        assert (min(in_dram), max(in_dram)) == (lowest, highest)
    micro, little = count_cost(preset("delay", "micro", 83)), count_cost(LITTLE)
    for cost, element, memory, share in (
        (micro, "float32", "1 MB SRAM", 1.98),
        (micro, "bfloat16", "1 MB SRAM", 3.77),
        (micro, "int8", "1 MB SRAM", 0.86),
        (little, "float32", "32 kB SRAM", 8.26),
        (little, "int8", "8 kB SRAM", 5.30),
    ):
        energy = model_energy(cost, element)
        assert energy.memory == memory
        assert round(100 * energy.arithmetic_share, 2) == share


def test_bad_input_is_refused():
    class Other(ModelConfig):
        kind = "other"

    with pytest.raises(InputError, match="cost is counted for delay, transformer"):
        count_cost(Other(vocabulary_size=2))
    with pytest.raises(InputError, match="element must be one of"):
        model_energy(count_cost(DELAY), "int3")
    assert math.isfinite(model_energy(count_cost(DELAY), "float16").total[0])


@pytest.mark.parametrize(
    ("variant", "synapses", "comparisons", "multiplications", "rows"),
    [
        ({}, 4 * 8 * 8 + 2 * 8 * 5, 18, 0, 6),
        ({"hash": "bins"}, 4 * 27 * 8 + 2 * 27 * 5, 36, 0, 6),
        ({"hash": "hyperplane"}, 4 * 8 * 8 + 2 * 8 * 5, 18, 18 * 8, 6),
        ({"reading": "soft"}, 4 * 8 * 8 + 2 * 8 * 5, 18, 2 * (4 * 8 + 2 * 5), 12),
    ],
    ids=["order", "bins", "hyperplane", "soft"],
)
def test_a_variant_pays_for_what_it_adds(variant, synapses, comparisons, multiplications, rows):
    config = DelayConfig(vocabulary_size=5, n_neurons=8, n_tables=4, n_comparisons=3, readout_n_tables=2,
                         readout_n_comparisons=3, **variant)  # fmt: skip
    cost = count_cost(config)
    assert cost.synapses == synapses
    assert (cost.comparisons, cost.multiplications, cost.rows) == (comparisons, multiplications, rows)
    assert (
        model_energy(cost).arithmetic >= model_energy(count_cost(dataclasses.replace(config, hash="order"))).arithmetic
    )


def test_comparing_with_zero_reads_one_latency():
    order, zero = count_cost(DELAY), count_cost(dataclasses.replace(DELAY, hash="zero"))
    assert order.comparisons == zero.comparisons
    assert order.latency_bytes(4) == 8 * order.comparisons
    assert zero.latency_bytes(4) == 4 * zero.comparisons
    assert model_energy(zero).latencies == pytest.approx(model_energy(order).latencies / 2)


def test_a_variant_is_of_the_tables_that_are_trained():
    config = DelayConfig(vocabulary_size=5, n_neurons=8, n_tables=4, n_comparisons=3, context_depth=2,
                         n_contexts=(3, 3, 3), n_context_entries=(9, 9, 9), recent=True)  # fmt: skip
    soft = count_cost(dataclasses.replace(config, reading="soft"))
    *_, text, words, line, recent = count_cost(config).layers
    assert soft.layers[-4:] == (text, words, line, recent)


def test_bins_of_attention_leave_the_positions_bits_alone():
    config = TransformerConfig(vocabulary_size=5, n_neurons=8, n_layers=1, n_heads=1, n_tables=2, n_comparisons=2,
                               n_position_bits=3, ffn=None, hash="bins")  # fmt: skip
    attention, _readout = count_cost(config).layers
    assert attention.synapses == 2 * 3**4 * 2**3 * 8
