import dataclasses

import pytest
import torch

from polychron.errors import InputError
from polychron.models import build, config_from_dict, with_variant
from polychron.models.deep import DeepClassifier, DeepConfig, deep_config_from_dict
from polychron.nn import LookupTables, Readout, VariantLayer
from polychron.optim import attach
from polychron.runtime.stream import Stream

from .test_models import DELAY, RECURRENT, TRANSFORMER, text, with_random_rows

VARIANTS = [
    {"hash": "bins"},
    {"hash": "zero"},
    {"hash": "hyperplane"},
    {"reading": "soft"},
    {"reading": "confidence"},
    {"gradient": "all"},
    {"gradient": "softmax"},
    {"gradient": "scalar"},
    {"hash": "hyperplane", "reading": "soft"},
]
DEEP = DeepConfig(n_pixels=16, n_classes=3, width=4, n_tables=4, n_comparisons=3, readout_n_tables=8,
                  readout_n_comparisons=3)  # fmt: skip


def name(options):
    return "-".join(options.values())


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (config, options)
        for config in (DELAY, TRANSFORMER, RECURRENT)
        for options in VARIANTS
        if config is not RECURRENT or options.get("reading") != "confidence"
    ],
    ids=lambda part: name(part) if isinstance(part, dict) else part.kind,
)
def test_a_language_model_of_a_variant(config, options):
    """Counted, written down, read byte by byte as in one pass, and made of nothing but its layers."""
    config = with_variant(config, **options)
    assert config_from_dict(config.to_dict()) == config
    model = with_random_rows(build(config, seed=1))
    assert model.n_parameters() == sum(p.numel() for p in model.parameters()) + model.embedding.latencies.numel()
    assert all(isinstance(layer, VariantLayer) for layer in model.layers_in_order())
    model.check()
    for layer in model.layers_in_order():
        if layer.reading == "confidence":  # of random ones the sums have no figures left to compare
            torch.nn.init.constant_(layer.beta, 2.0)
            torch.nn.init.constant_(layer.gamma, 1.0)
    tokens = text(20)
    logits = model(tokens[None])[0]
    stream = Stream(model)
    for begin, end in ((0, 1), (1, 9), (9, 10), (10, 20)):
        torch.testing.assert_close(stream.feed(tokens[begin:end]), logits[end - 1], rtol=1e-4, atol=1e-4)
    assert model.score(tokens).shape == (19,)


@pytest.mark.parametrize("options", VARIANTS, ids=name)
def test_a_variant_learns_a_repeating_text(options):
    model = build(with_variant(dataclasses.replace(DELAY, n_layers=1), **options), seed=0)
    optimizer = attach(model, "sgd", rate=0.02, visit_cap=64)
    tokens = torch.arange(41) * 5 % 13
    windows = tokens[torch.arange(30)[:, None] + torch.arange(11)]
    for _ in range(60):
        model.train_step(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
        optimizer.step()
        optimizer.zero_grad()
    assert model.score(tokens)[5:].mean() < 1.5  # ln 13 = 2.56 before training


@pytest.mark.parametrize("options", [*VARIANTS, {"anchors": "random"}, {"anchors": "covering"}], ids=name)
def test_a_classifier_of_a_variant(options):
    config = with_variant(DEEP, **options)
    assert deep_config_from_dict(config.to_dict()) == config
    model = DeepClassifier(config, seed=1)
    assert model.n_parameters() == sum(p.numel() for p in model.parameters()) + config.n_references
    model.check()
    optimizer = attach(model, "sgd", rate=0.01, visit_cap=64)
    inputs = torch.rand(64, 16, generator=torch.manual_seed(0))
    labels = (inputs[:, 0] > inputs[:, 1]).long() + (inputs[:, 2] > 0.5).long()
    losses = []
    for _ in range(40):
        losses.append(model.train_step(inputs, labels) / 64)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]


def test_the_default_is_the_native_layer_and_is_written_as_ever():
    assert {type(layer) for layer in build(DELAY).layers_in_order()} == {LookupTables, Readout}
    for config in (DELAY, TRANSFORMER, RECURRENT, DEEP):
        assert not config.to_dict().keys() & {"hash", "reading", "gradient", "n_bins", "bin_width", "temperature"}
        assert config.is_native
    assert "anchors" not in DEEP.to_dict()
    assert with_variant(DELAY) == DELAY


def test_the_hash_of_two_bins_trains_to_the_native_tables():
    tables = []
    for config in (DELAY, dataclasses.replace(DELAY, hash="bins", n_bins=2)):
        model = build(config, seed=1)
        optimizer = attach(model, "sgd", rate=0.02, visit_cap=8, drop=0.2)
        model.train()
        for step in range(5):
            torch.manual_seed(step)
            tokens = text(4 * 17, seed=step).view(4, 17)
            model.train_step(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
            optimizer.step()
        tables.append([layer.synaptic_vectors.detach() for layer in model.layers_in_order()])
    for a, b in zip(*tables, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hash": "md5"}, "hash must be one of order, zero, hyperplane, bins; got 'md5'"),
        ({"hash": ["order"]}, "hash must be one of"),
        ({"reading": None}, "reading must be one of"),
        ({"gradient": 1}, "gradient must be one of"),
        ({"n_bins": 1}, "n_bins must be an integer in"),
        ({"n_bins": 2.0}, "n_bins must be an integer in"),
        ({"bin_width": 0}, "bin_width must be a positive, finite number"),
        ({"bin_width": float("nan")}, "bin_width must be a positive, finite number"),
        ({"temperature": True}, "temperature must be a positive, finite number"),
        ({"reading": "soft", "gradient": "all"}, "is the hard reading's"),
        ({"hash": "bins", "gradient": "softmax"}, "hash bins has none"),
        ({"hash": "bins", "n_bins": 65536, "n_comparisons": 65536}, r"at most 2\^30; got 65536\^65536"),
        ({"hash": "hyperplane", "n_neurons": 65536, "n_tables": 65536, "n_comparisons": 20}, r"at most 2\^40"),
    ],
)
def test_impossible_variants_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        config_from_dict({**DELAY.to_dict(), **change})


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(InputError, match="goes with hash bins; the hash is order"):
        with_variant(DELAY, n_bins=4)
    with pytest.raises(InputError, match="the model is transformer"):
        with_variant(TRANSFORMER, max_delay=3)
    with pytest.raises(InputError, match="at least 2 bins"):
        with_variant(DELAY, hash="bins", n_bins=1)
    with pytest.raises(InputError, match="they grow without bound"):
        with_variant(RECURRENT, reading="confidence")
    with pytest.raises(InputError, match="must be at most 12"):
        with_variant(dataclasses.replace(TRANSFORMER, n_comparisons=6), gradient="softmax")
