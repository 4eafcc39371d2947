import dataclasses

import pytest
import torch

from polychron.errors import InputError
from polychron.models.deep import (
    CLASSIFIER_PRESETS,
    DeepClassifier,
    DeepConfig,
    classifier_preset,
    deep_config_from_dict,
)
from polychron.optim import attach

CONFIG = DeepConfig(n_pixels=20, n_classes=3, width=4, n_references=2, n_layers=2, n_tables=5, n_comparisons=3,
                    readout_n_tables=7, readout_n_comparisons=4)  # fmt: skip


def with_random_rows(model):
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.manual_seed(i)))
    return model


def test_the_network_is_equation_10_written_out():
    model = with_random_rows(DeepClassifier(CONFIG, seed=1))
    inputs = torch.rand(4, 20)
    for brightness, logits in zip(inputs, model(inputs), strict=True):
        x = torch.cat([1 - brightness, torch.tensor([1 / 3, 2 / 3])])
        for layer in [*model.layers, model.readout]:
            total = torch.zeros(layer.n_outputs)
            for anchors, table in zip(layer.anchors.tolist(), layer.synaptic_vectors.detach(), strict=True):
                total += table[sum(int(x[a] > x[b]) << r for r, (a, b) in enumerate(anchors))]
            x = x + total if layer is not model.readout else total
        torch.testing.assert_close(logits, x)


def test_an_untrained_layer_is_the_identity():
    model = DeepClassifier(CONFIG)
    inputs = torch.rand(3, 20)
    assert torch.equal(model.latencies(inputs)[:, :20], 1 - inputs)


def test_loss_is_the_cross_entropy_of_the_logits():
    model = with_random_rows(DeepClassifier(CONFIG))
    inputs, labels = torch.rand(6, 20), torch.arange(6) % 3
    expected = torch.nn.functional.cross_entropy(model(inputs), labels, reduction="sum")
    torch.testing.assert_close(model.loss(inputs, labels), expected)


def test_counted_parameters_are_those_there():
    model = DeepClassifier(CONFIG)
    assert model.n_parameters() == sum(p.numel() for p in model.parameters()) + 2


def test_it_learns_which_row_is_bright():
    model = DeepClassifier(CONFIG)
    optimizer = attach(model, "sgd", rate=0.05)
    generator = torch.manual_seed(0)
    for _ in range(80):
        labels = torch.randint(0, 3, (32,), generator=generator)
        inputs = torch.rand(32, 5, 4, generator=generator) * 0.5
        inputs[torch.arange(32), labels] += 0.5
        loss = model.loss(inputs.flatten(1), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() / 32 < 0.3  # ln 3 = 1.1 before training


def test_configurations_survive_json_and_refuse_nonsense():
    assert deep_config_from_dict(CONFIG.to_dict()) == CONFIG
    # Written before there were variants, ways to draw anchors and types of tables.
    assert not CONFIG.to_dict().keys() & set(DeepConfig.later_fields)
    assert {"hash", "anchors", "table_type"} <= set(DeepConfig.later_fields)
    for change, message in [
        ({"width": 3}, "width must divide"),
        ({"reference_share": 1.5}, "reference_share must be a number"),
        ({"radius": "4"}, "radius must be a number"),
        ({"n_classes": 1}, "n_classes must be an integer"),
        ({"n_comparisons": 31}, "at most 30 bits"),
        ({"kind": "delay"}, "kind of a classifier must be deep"),
        ({"depth": 3}, "unknown"),
    ]:
        with pytest.raises(InputError, match=message):
            deep_config_from_dict({**CONFIG.to_dict(), **change})


def test_presets_are_configurations():
    for preset in CLASSIFIER_PRESETS.values():
        assert DeepConfig(n_pixels=784, n_classes=10, width=28, **preset.fields).n_parameters() > 0
    with pytest.raises(InputError, match="must be one of tiny, small, base"):
        classifier_preset("huge")


def test_inputs_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"inputs must have shape \(B, 20\)"):
        DeepClassifier(CONFIG)(torch.rand(2, 21))


def test_check_finds_anchors_that_do_not_fit():
    model = DeepClassifier(dataclasses.replace(CONFIG, n_layers=0))
    model.check()
    model.readout.anchors[0, 0, 0] = 22
    with pytest.raises(ValueError, match=r"readout\.anchors must be pairs"):
        model.check()
