import dataclasses

import pytest
import torch

from polychron.errors import InputError
from polychron.models import (
    DelayConfig,
    RecurrentConfig,
    TransformerConfig,
    build,
    config_from_dict,
    preset,
    preset_names,
    training_defaults,
)
from polychron.ops import available_kernels, use_kernel
from polychron.optim import attach
from polychron.runtime.stream import Stream

DELAY = DelayConfig(vocabulary_size=13, n_neurons=8, n_layers=2, n_tables=5, n_comparisons=4, max_delay=3,
                    readout_n_tables=3, readout_n_comparisons=4, readout_max_delay=2)  # fmt: skip
TRANSFORMER = TransformerConfig(vocabulary_size=13, context=10, n_neurons=8, n_layers=2, n_heads=2, n_tables=3,
                                n_comparisons=2, n_position_bits=2)  # fmt: skip
RECURRENT = RecurrentConfig(vocabulary_size=13, context=10, n_neurons=8, n_tables=5, n_comparisons=4,
                            readout_n_tables=3, readout_n_comparisons=3)  # fmt: skip
CONFIGS = {
    "delay": DELAY,
    "delay, readout alone": dataclasses.replace(DELAY, n_layers=0),
    "delay, no delays": dataclasses.replace(DELAY, max_delay=0, readout_max_delay=0),
    "transformer": TRANSFORMER,
    "transformer, window": dataclasses.replace(TRANSFORMER, window=3),
    "transformer, attention only": dataclasses.replace(TRANSFORMER, ffn=None, n_heads=1, share_anchors=False),
    "recurrent": RECURRENT,
    "recurrent, truncated": dataclasses.replace(RECURRENT, truncation=3),
}


def with_random_rows(model):
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.manual_seed(i)))
    return model


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def model(request):
    return with_random_rows(build(request.param, seed=1))


def text(n, seed=0):
    return torch.randint(0, 13, (n,), generator=torch.manual_seed(seed))


def test_counted_parameters_are_those_there(model):
    counted = sum(p.numel() for p in model.parameters()) + model.embedding.latencies.numel()
    assert model.n_parameters() == counted


def test_loss_is_the_cross_entropy_of_the_logits(model):
    tokens = text(2 * 11).view(2, 11)
    expected = torch.nn.functional.cross_entropy(
        model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
    )
    torch.testing.assert_close(model.loss(tokens[:, :-1], tokens[:, 1:].contiguous()), expected)


def test_no_prediction_sees_its_own_target_or_what_follows(model):
    tokens = text(9)
    changed = tokens.clone()
    changed[5:] = (changed[5:] + 1) % 13
    assert torch.equal(model(tokens[None])[0, :5], model(changed[None])[0, :5])


@pytest.mark.parametrize("name", ["delay", "delay, readout alone", "delay, no delays"])
def test_no_prediction_of_a_delay_model_uses_more_than_its_context(name):
    model = with_random_rows(build(CONFIGS[name], seed=1))
    tokens = text(40)
    changed = tokens.clone()
    changed[: 40 - model.context_length] = (changed[: 40 - model.context_length] + 1) % 13
    assert torch.equal(model(tokens[None])[0, -1], model(changed[None])[0, -1])


@pytest.mark.parametrize("pieces", [[1] * 12, [1, 11], [12], [5, 1, 1, 30, 2], [45]])
def test_a_stream_gives_the_logits_of_the_whole_text_bit_for_bit(model, pieces):
    tokens = text(sum(pieces))
    whole = model(tokens[None])[0]
    stream = Stream(model)
    at = 0
    for piece in pieces:
        logits = stream.feed(tokens[at : at + piece])
        at += piece
        assert torch.equal(logits, whole[at - 1])


def test_what_a_stream_remembers_does_not_grow(model):
    def size(state):
        if isinstance(state, torch.Tensor):
            return state.numel()
        return sum(map(size, state)) if isinstance(state, list) else 0

    stream = Stream(model)
    stream.feed(text(50))
    before = size(stream._state)
    stream.feed(text(200))
    assert size(stream._state) == before


def test_a_stream_refuses_what_is_no_token(model):
    stream = Stream(model)
    for wrong in (torch.empty(0, dtype=torch.int64), torch.tensor([13]), torch.tensor([-1]), torch.tensor([0.5])):
        with pytest.raises(ValueError, match="tokens must"):
            stream.feed(wrong)


@pytest.mark.parametrize("n", [0, 1, 2, 9, 10, 11, 12, 15, 16, 37, 100])
def test_score_covers_every_byte_after_the_first_once(model, n):
    assert model.score(text(n)).shape == (max(0, n - 1),)


@pytest.mark.parametrize("kernel", available_kernels()[::-1])
def test_scoring_in_training_mode_reads_all_tables_and_draws_nothing(kernel):
    model = with_random_rows(build(DELAY, seed=1))
    attach(model, "sgd", drop=0.5)
    tokens = text(22).view(2, 11)
    expected = torch.nn.functional.cross_entropy(
        model.eval()(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none"
    )
    state = torch.get_rng_state()
    with use_kernel(kernel):
        nats = model.train().nats(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    torch.testing.assert_close(nats, expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())


def test_a_delay_model_scores_its_text_as_one_stream(monkeypatch):
    from polychron.models import delay

    monkeypatch.setattr(delay, "SCORE_STRETCH", 7)
    monkeypatch.setattr(delay, "SCORE_BATCH", 2)
    model = with_random_rows(build(DELAY, seed=1))
    tokens = text(50)
    whole = model.readout.loss(model.latencies(tokens[None, :-1]), tokens[None, 1:])[0]
    assert torch.equal(model.score(tokens), whole)


def test_a_transformer_scores_overlapping_windows():
    model = with_random_rows(build(TRANSFORMER, seed=1))
    tokens = text(38)
    expected = []
    for target in range(1, 38):  # the window in whose second half the target falls; the last one ends with the text
        begin = 0 if target <= 10 else min((target - 6) // 5 * 5, 37 - 10)
        window = tokens[begin : begin + 10]
        nats = torch.nn.functional.cross_entropy(
            model(window[None])[0], tokens[begin + 1 : begin + 11], reduction="none"
        )
        expected.append(nats[target - 1 - begin])
    torch.testing.assert_close(model.score(tokens), torch.stack(expected))


def test_a_recurrent_model_scores_stretches_after_a_context(monkeypatch):
    from polychron.models import recurrent

    monkeypatch.setattr(recurrent, "SCORE_STRETCH", 7)
    model = with_random_rows(build(RECURRENT, seed=1))
    tokens = text(50)
    expected = []
    for target in range(1, 50):  # stretches of 7 from target 11 on, each after 10 positions that are not scored again
        begin = 0 if target <= 10 else min((target - 11) // 7, (49 - 10) // 7) * 7
        logits = model(tokens[None, begin:target])[0, -1]
        expected.append(torch.nn.functional.cross_entropy(logits, tokens[target]))
    torch.testing.assert_close(model.score(tokens), torch.stack(expected))


@pytest.mark.parametrize(
    ("config", "rate"),
    [(DELAY, 0.05), (TRANSFORMER, 0.05), (RECURRENT, 0.02)],
    ids=["delay", "transformer", "recurrent"],
)
def test_a_model_learns_a_repeating_text(config, rate):
    model = build(config, seed=0)
    optimizer = attach(model, "sgd", rate=rate)
    tokens = (torch.arange(41) * 5 % 13).repeat(1, 1)
    windows = tokens[0, torch.arange(30)[:, None] + torch.arange(11)]
    for _ in range(60):
        model.loss(windows[:, :-1].contiguous(), windows[:, 1:].contiguous()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.score(tokens[0])[5:].mean() < 0.5  # ln 13 = 2.56 before training


def test_the_paper_preset_has_the_published_size():
    config = preset("transformer", "paper", vocabulary_size=256)
    position_codes = 6 * 4 * 16 * 32 * 4  # the published count leaves them out
    assert config.n_parameters() - position_codes == 805_773_312


def test_the_recurrent_paper_preset_has_about_the_published_size():
    config = preset("recurrent", "paper", vocabulary_size=256)
    assert config.n_tables * 2**config.n_comparisons * config.n_neurons == 4_194_304
    assert round(config.n_parameters() / 1e6) == 5


@pytest.mark.parametrize("kind", ["delay", "transformer", "recurrent"])
def test_presets_build_configurations_that_survive_json(kind):
    for name in preset_names(kind):
        config = preset(kind, name, vocabulary_size=50)
        assert config_from_dict(config.to_dict()) == config
        assert training_defaults(kind, name).batch >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_tables": 0}, "n_tables must be an integer in"),
        ({"n_tables": True}, "n_tables must be an integer in"),
        ({"n_tables": "64"}, "n_tables must be an integer in"),
        ({"n_comparisons": 31}, "at most 30 bits"),
        ({"n_tables": 65536, "n_comparisons": 30}, r"at most 2\^40 parameters"),
        ({"delay_distribution": "none"}, "delay_distribution must be one of"),
        ({"kind": "perceptron"}, "kind of model must be one of"),
        ({"speed": 1}, "unknown: \\['speed'\\]"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        config_from_dict({**DELAY.to_dict(), **change})


@pytest.mark.parametrize("kind", ["perceptron", None, [], {}, 1])
def test_a_kind_that_is_none_is_refused(kind):
    with pytest.raises(InputError, match=r"kind of model must be one of delay, .*; got"):
        config_from_dict({**DELAY.to_dict(), "kind": kind})


def test_unknown_presets_are_refused():
    with pytest.raises(InputError, match=r"preset of a delay model must be one of .*tiny"):
        preset("delay", "huge", 10)
    with pytest.raises(InputError, match="model must be one of delay"):
        preset_names("perceptron")


def test_check_finds_anchors_and_delays_that_do_not_fit():
    model = build(DELAY)
    model.check()
    model.layers[0].anchors[0, 0, 0] = 8
    with pytest.raises(ValueError, match=r"layers\.0\.anchors must be pairs"):
        model.check()
    model = build(DELAY)
    model.layers[1].delays[0, 0, 0] = 4
    with pytest.raises(ValueError, match=r"layers\.1\.delays must lie in"):
        model.check()
