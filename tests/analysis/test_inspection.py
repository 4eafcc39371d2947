import dataclasses
import math

import numpy as np
import pytest
import torch

from polychron import limits
from polychron.analysis import inspection
from polychron.analysis.inspection import as_the_papers_layers, compared_latencies, count_equal, inspect_model
from polychron.errors import InputError
from polychron.models import DelayConfig, RecurrentConfig, TransformerConfig, build
from polychron.models.deep import DeepClassifier, DeepConfig
from polychron.nn import ContextTables, VariantTables
from polychron.ops.contexts import bytes_of_symbols

DELAY = DelayConfig(vocabulary_size=13, n_neurons=8, n_layers=2, n_tables=3, n_comparisons=3, max_delay=3,
                    readout_n_tables=2, readout_n_comparisons=2)  # fmt: skip
TRANSFORMER = TransformerConfig(vocabulary_size=13, context=10, n_neurons=8, n_layers=1, n_heads=2, n_tables=2,
                                n_comparisons=2, n_position_bits=1, window=4)  # fmt: skip
RECURRENT = RecurrentConfig(vocabulary_size=13, n_neurons=8, n_tables=3, n_comparisons=3, readout_n_tables=2,
                            readout_n_comparisons=2)  # fmt: skip
TEXT = torch.randint(0, 13, (1, 60), generator=torch.manual_seed(0))


def with_random_rows(model):
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.manual_seed(i)))
    return model


def bit(x, pair) -> int:
    return int(x[pair[0]] > x[pair[1]])


def rows_of_tables(layer, x):
    """Row of each table at each position of x (T, n), one comparison after another."""
    x = x.tolist()
    delays = None if layer.delays is None else layer.delays.tolist()
    rows = []
    for i, table in enumerate(layer.anchors.tolist()):
        rows.append([])
        for t in range(len(x)):
            row = 0
            for r, (a, b) in enumerate(table):
                d = 0 if delays is None else delays[i][r][0]
                row |= (bit(x[t - d], (a, b)) if t >= d else 0) << r
            rows[-1].append(row)
    return rows


def visits_of(rows, n_rows):
    return [np.bincount(table, minlength=n_rows).tolist() for table in rows]


@pytest.fixture(params=[1 << 22, 50], ids=["one piece", "pieces"])
def _pieces(request, monkeypatch):
    monkeypatch.setattr(inspection, "_COMPARISONS_AT_ONCE", request.param)


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("config", [DELAY, dataclasses.replace(DELAY, max_delay=0), RECURRENT])
def test_rows_read_are_those_of_the_definition(config):
    model = with_random_rows(build(config, seed=1))
    usages = inspect_model(model, TEXT)
    layers = model.layers_in_order()
    compared = compared_latencies(model, TEXT)
    assert [usage.name for usage in usages] == [name for name, _ in compared]
    for usage, layer, (_, x) in zip(usages, layers, compared, strict=True):
        rows = rows_of_tables(layer, x[0])
        assert usage.visits.tolist() == visits_of(rows, usage.n_rows)
        assert usage.n_states == len(set(zip(*rows, strict=True)))
        assert usage.u_counts.sum() == layer.anchors.shape[0] * layer.anchors.shape[1] * 60
    # What the last layer compares is what the model gives its readout.
    assert torch.equal(compared[-1][1], model.latencies(TEXT))


def test_a_recurrent_layer_compares_its_own_past():
    model = with_random_rows(build(RECURRENT, seed=1))
    (_, x), (_, h) = compared_latencies(model, TEXT)
    assert torch.equal(x[:, 1:], h[:, :-1])
    assert not x[:, 0].any()


@pytest.mark.usefixtures("_pieces")
@pytest.mark.parametrize("share_anchors", [True, False])
def test_rows_of_attention_are_those_of_the_definition(share_anchors):
    model = with_random_rows(build(dataclasses.replace(TRANSFORMER, share_anchors=share_anchors), seed=1))
    usages = inspect_model(model, TEXT)
    assert [usage.name for usage in usages] == ["attention 0", "FFN 0", "readout"]
    assert [usage.n_states is None for usage in usages] == [True, False, False]
    attention = model.layers[0].attention
    x = compared_latencies(model, TEXT)[0][1][0].tolist()
    queries = attention.anchors.tolist()
    keys = queries if attention.key_anchors is None else attention.key_anchors.tolist()
    code_bits = (attention.position_code[..., 0] > 0).tolist()
    expected = np.zeros((4, 32), dtype=int)
    for i in range(4):
        for t in range(60):
            for s in range(max(0, t - 4), t):
                query = sum(bit(x[t], pair) << r for r, pair in enumerate(queries[i]))
                key = sum(bit(x[s], pair) << r for r, pair in enumerate(keys[i]))
                code = int(code_bits[i][t - s])
                expected[i, query << 3 | key << 1 | code] += 1
    assert usages[0].visits.tolist() == expected.tolist()
    assert usages[0].bits == ("position", "key", "key", "query", "query")


@pytest.mark.usefixtures("_pieces")
def test_a_classifier_is_inspected_on_examples():
    config = DeepConfig(n_pixels=16, n_classes=3, n_tables=2, n_comparisons=3, readout_n_tables=2,
                        readout_n_comparisons=2)  # fmt: skip
    model = with_random_rows(DeepClassifier(config))
    examples = torch.rand(30, 16, generator=torch.manual_seed(0))
    usages = inspect_model(model, examples)
    assert [(usage.name, usage.n_readings) for usage in usages] == [("layer 0", 30), ("readout", 30)]
    x = compared_latencies(model, examples)[1][1][:, 0]
    assert usages[1].visits.tolist() == visits_of(rows_of_tables(model.readout, x), 4)


def test_inspecting_changes_nothing_and_leaves_no_hook():
    model = with_random_rows(build(DELAY, seed=1))
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inspect_model(model, TEXT)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_more_inputs_than_memory_holds_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 30_000)
    model = with_random_rows(build(DELAY, seed=1))
    assert inspect_model(model, TEXT[:, :9])[0].n_readings == 9
    monkeypatch.setattr(model, "latencies", None)
    with pytest.raises(InputError, match=r"readings of 60 inputs need .*: read fewer \(--bytes\)"):
        inspect_model(model, TEXT)


def test_counted_contexts_are_not_read(monkeypatch):
    model = build(DELAY, seed=1)
    text = np.zeros(9, dtype=np.uint8)
    model.set_contexts(ContextTables.of_text(text, [(0, 9)], bytes_of_symbols(b"abcdefghijkl"), depth=1))
    monkeypatch.setattr(ContextTables, "forward", None)
    assert [usage.n_readings for usage in inspect_model(model, TEXT)] == [60] * 3


def test_a_fresh_models_tables_explain_nothing():
    usages = inspect_model(build(DELAY, seed=1), TEXT)
    assert all(usage.n_silent == usage.n_comparisons for usage in usages)
    assert all(math.isclose(sum(usage.visit_shares.values()), 1) for usage in usages)


def test_equal_comparisons_are_counted_with_their_delays():
    anchors = torch.tensor([[[0, 1], [1, 0], [0, 1]], [[0, 1], [1, 2], [2, 3]]], dtype=torch.int32)
    delays = torch.tensor([[[0, 0], [0, 0], [1, 1]], [[0, 0], [0, 0], [0, 0]]], dtype=torch.int32)
    assert count_equal(anchors, None) == 2
    assert count_equal(anchors, delays) == 1


def test_a_layer_that_does_not_compare_by_order_is_refused():
    model = torch.nn.Sequential(VariantTables(8, 8, 2, 2, hash="zero"))
    with pytest.raises(InputError, match=r"only hash order and reading hard can be inspected; .* has "):
        inspect_model(model, torch.zeros(2, 8))


@pytest.mark.parametrize("config", [DELAY, TRANSFORMER, RECURRENT], ids=lambda config: config.kind)
def test_a_model_of_another_gradient_is_inspected_as_the_function_it_is(config):
    trained = with_random_rows(build(dataclasses.replace(config, gradient="all")))
    ordinary = as_the_papers_layers(trained)
    with torch.no_grad():
        assert torch.equal(ordinary(TEXT[:, :8]), trained(TEXT[:, :8]))
    assert [usage.n_readings > 0 for usage in inspect_model(ordinary, TEXT[:, :8])]
    for other in (build(config), build(dataclasses.replace(config, hash="zero"))):
        assert as_the_papers_layers(other) is other
