import pytest
import torch

from polychron.models import DelayConfig, RecurrentConfig, TransformerConfig, build
from polychron.ops import RowUpdate, available_kernels, use_kernel
from polychron.optim import attach

DELAY = DelayConfig(vocabulary_size=11, n_neurons=8, n_layers=2, n_tables=5, n_comparisons=4, max_delay=3,
                    readout_n_tables=3, readout_n_comparisons=4)  # fmt: skip
TRANSFORMER = TransformerConfig(vocabulary_size=11, context=9, n_neurons=8, n_layers=2, n_heads=2, n_tables=3,
                                n_comparisons=2, n_position_bits=2)  # fmt: skip
RECURRENT = RecurrentConfig(vocabulary_size=11, n_neurons=8, n_tables=5, n_comparisons=4, readout_n_tables=3,
                            readout_n_comparisons=4)  # fmt: skip


def batch(seed=0, n=4):
    text = torch.randint(0, 11, (n, 10), generator=torch.manual_seed(seed))
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


@pytest.mark.parametrize("config", [DELAY, TRANSFORMER], ids=["delay", "transformer"])
def test_fused_sgd_equals_torch_sgd_on_the_dense_gradient(config):
    fused, dense = build(config, 0), build(config, 0)
    optimizer = attach(fused, "sgd", rate=0.05)
    reference = torch.optim.SGD(dense.parameters(), lr=0.05)
    for step in range(5):
        fused.loss(*batch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
        reference.zero_grad()
        dense.loss(*batch(step)).backward()
        reference.step()
    for (name, a), (_, b) in zip(fused.named_parameters(), dense.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name, rtol=1e-4, atol=1e-5)


def test_the_rate_reaches_every_layer_at_once():
    model = build(DELAY, 0)
    optimizer = attach(model, "sgd", rate=1.0)
    optimizer.rate = 0.0
    model.loss(*batch()).backward()
    assert not any(p.any() for p in model.parameters())
    optimizer.rate = 0.5
    model.loss(*batch()).backward()
    assert model.readout.synaptic_vectors.any()


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
def test_a_saved_state_goes_on_to_the_same_bits(kind):
    whole = build(DELAY, 0)
    optimizer = attach(whole, kind, rate=0.1)
    for step in range(6):
        if step == 3:
            weights = {name: value.clone() for name, value in whole.state_dict().items()}
            state = {name: value.clone() for name, value in optimizer.state_dict().items()}
        whole.loss(*batch(step)).backward()
    resumed = build(DELAY, 0)
    resumed.load_state_dict(weights)
    optimizer = attach(resumed, kind, rate=0.1)
    optimizer.load_state_dict(state)
    for step in range(3, 6):
        resumed.loss(*batch(step)).backward()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_an_empty_state_is_that_before_the_first_step():
    fresh, used = build(DELAY, 0), build(DELAY, 0)
    weights = {name: value.clone() for name, value in used.state_dict().items()}
    optimizer = attach(used, "adagrad", rate=0.1)
    before = optimizer.state_dict()
    assert before == {}
    used.train_step(*batch())
    used.load_state_dict(weights)
    optimizer.load_state_dict(before)
    attach(fresh, "adagrad", rate=0.1)
    for model in (fresh, used):
        model.train_step(*batch(1))
    for (name, a), (_, b) in zip(fresh.named_parameters(), used.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_state_made_in_inference_mode_learns_later():
    model = build(DELAY, 0)
    attach(model, "adagrad", rate=0.1)
    with use_kernel("reference"):
        with torch.inference_mode():
            model.loss(*batch())
        model.loss(*batch()).backward()
    assert model.readout.update.state.any()


@pytest.mark.parametrize("kernel", ["reference", available_kernels()[-1]])
@pytest.mark.parametrize("kind", ["dense", "sgd", "adagrad"])
@pytest.mark.parametrize("config", [DELAY, TRANSFORMER, RECURRENT], ids=["delay", "transformer", "recurrent"])
def test_defaults_of_torch_change_nothing(config, kind, kernel):
    """A type and a device that are another part of a program's choice."""
    results = []
    for dtype, device in ((torch.float32, None), (torch.float64, None), (torch.float32, "meta")):
        tokens, targets = batch()
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
        try:
            with use_kernel(kernel):
                model = build(config, 0)
                if kind != "dense":
                    attach(model, kind, rate=0.1)
                    model.train_step(tokens, targets)
                for weight in (1, 2):  # of 1 the readout's gradient is not weighed
                    (weight * model.loss(tokens, targets)).backward()
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
        results.append([value for p in model.parameters() for value in (p.detach(), p.grad) if value is not None])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.dtype == b.dtype == torch.float32
            assert torch.equal(a, b)


def test_a_state_goes_where_the_tables_go():
    update = RowUpdate("adagrad")
    for device in ("cpu", "meta"):
        update.prepare(torch.zeros(2, 4, 3, device=device))
        assert update.state.device.type == device


def test_a_foreign_state_is_refused():
    optimizer = attach(build(DELAY, 0), "adagrad")
    with pytest.raises(ValueError, match="must name the layers"):
        optimizer.load_state_dict({"other": torch.zeros(1)})
    wrong = {name: torch.zeros(1) for name in ("layers.0", "layers.1", "readout")}
    with pytest.raises(ValueError, match="of shape"):
        optimizer.load_state_dict(wrong)


def test_a_model_without_tables_is_refused():
    with pytest.raises(ValueError, match="must have layers of tables"):
        attach(torch.nn.Linear(2, 2))


def test_online_updates_follow_the_reference_program():
    """One window: readout, then from the last layer to the first FFN, then heads; rows change as they are read."""
    model = build(TRANSFORMER, 3)
    twin = build(TRANSFORMER, 3)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        with torch.no_grad():
            a.copy_(torch.randn(a.shape, generator=torch.manual_seed(a.numel())))
            b.copy_(a)
    optimizer = attach(model, "online_sgd", rate=0.01)
    model.loss(*batch(n=1)).backward()
    optimizer.step()
    reference_program_step(twin, *batch(n=1), rate=0.01)
    for (name, a), (_, b) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name, rtol=1e-4, atol=1e-5)


def slope(u):
    return (-0.5 if u > 0 else 0.5) / (1 + abs(u)) ** 2


def hash_of(x, anchors):
    """(row, pair, u) of one table for one latency vector."""
    us = [float(x[a] - x[b]) for a, b in anchors.tolist()]
    return nearest(us)


def nearest(us):
    pair = min(range(len(us)), key=lambda r: abs(us[r]))
    return sum(int(u > 0) << r for r, u in enumerate(us)), pair, us[pair]


@torch.no_grad()
def reference_program_step(model, tokens, targets, rate):
    """Model.md section 4 in loops: one window, every row updated where it stands."""
    c = model.config
    z = model.embedding(tokens)[0].clone()
    T = len(z)
    trace = []
    for layer in model.layers:
        x = z.clone()
        z += layer.attention(x[None])[0] - x
        middle = z.clone()
        z += layer.ffn(z[None])[0] - z
        trace.append((layer, x, middle))
    y_gradient = model.readout(z[None])[0].softmax(-1)
    y_gradient[torch.arange(T), targets[0]] -= 1

    def lut_backward(layer, x, y_gradient, x_gradient):
        for t in range(T):
            for i in range(c.n_tables):
                S = layer.synaptic_vectors[i]
                row, pair, u = hash_of(x[t], layer.anchors[i])
                g = float(y_gradient[t] @ (S[row ^ 1 << pair] - S[row]))
                a, b = layer.anchors[i, pair].tolist()
                x_gradient[t, a] += slope(u) * g
                x_gradient[t, b] -= slope(u) * g
                S[row] -= rate * y_gradient[t]

    def head_backward(head, x, y_gradient, x_gradient):
        code_gradient = torch.zeros_like(head.position_code)
        for t in range(1, T):
            for s in range(t):
                for i in range(c.n_heads * c.n_tables):
                    V = head.synaptic_vectors[i]
                    q_row, q_pair, q_u = hash_of(x[t], head.anchors[i])
                    k_row, k_pair, k_u = hash_of(x[s], head.anchors[i])
                    p_row, p_pair, p_u = nearest(head.position_code[i, t - s].tolist())
                    n, p = c.n_comparisons, c.n_position_bits
                    row = q_row << n + p | k_row << p | p_row
                    if abs(q_u) < abs(k_u):
                        at, pair, u, flipped = t, q_pair, q_u, row ^ 1 << q_pair + n + p
                    else:
                        at, pair, u, flipped = s, k_pair, k_u, row ^ 1 << k_pair + p
                    g = float(y_gradient[t] @ (V[flipped] - V[row]))
                    a, b = head.anchors[i, pair].tolist()
                    x_gradient[at, a] += slope(u) * g
                    x_gradient[at, b] -= slope(u) * g
                    if abs(p_u) < abs(q_u) and abs(p_u) < abs(k_u):
                        g = float(y_gradient[t] @ (V[row ^ 1 << p_pair] - V[row]))
                        code_gradient[i, t - s, p_pair] += slope(p_u) * g
                    V[row] -= rate * y_gradient[t]
        head.position_code -= rate * code_gradient

    x_gradient = torch.zeros_like(z)
    lut_backward(model.readout, z, y_gradient, x_gradient)
    for layer, x, middle in reversed(trace):
        y_gradient = x_gradient.clone()
        lut_backward(layer.ffn, middle, y_gradient, x_gradient)
        y_gradient = x_gradient.clone()
        head_backward(layer.attention, x, y_gradient, x_gradient)
