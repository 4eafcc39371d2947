"""Every hash, reading and gradient against scalar transcriptions over Python floats."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from polychron.anchors import random_anchors
from polychron.nn import LookupTables, VariantTables
from polychron.ops.variants import GRADIENTS, HASHES, Address, bins_hash, hyperplane_hash, order_hash, read, zero_hash
from polychron.optim import attach

from .transcription import surrogate_slope

N_INPUTS, N_OUTPUTS, N_TABLES, N_COMPARISONS, N_BINS = 6, 3, 4, 3, 3
P = 9


def case(hash_name, seed=0):
    """x, S, anchors, directions in float64, away from kinks."""
    generator = torch.manual_seed(seed)
    n_rows = N_BINS**N_COMPARISONS if hash_name == "bins" else 2**N_COMPARISONS
    x = torch.randn(P, N_INPUTS, generator=generator, dtype=torch.float64)
    tables = torch.randn(N_TABLES, n_rows, N_OUTPUTS, generator=generator, dtype=torch.float64)
    directions = torch.randn(N_TABLES, N_COMPARISONS, N_INPUTS, generator=generator, dtype=torch.float64)
    return x, tables, random_anchors(N_INPUTS, N_TABLES, N_COMPARISONS, seed), directions


def hashed(hash_name, x, anchors, directions) -> Address:
    if hash_name == "hyperplane":
        return hyperplane_hash(x, directions)
    if hash_name == "bins":
        return bins_hash(x, anchors, N_BINS)
    return {"order": order_hash, "zero": zero_hash}[hash_name](x, anchors)


def comparisons(hash_name, x, anchors, directions, i):
    """[(u, digit, digit beyond the nearest threshold, du/dx)] of table i, by the definitions."""
    found = []
    for r, (a, b) in enumerate(anchors[i]):
        if hash_name == "hyperplane":
            slopes = directions[i][r]
            u = sum(c * value for c, value in zip(slopes, x, strict=True))
        elif hash_name == "zero":
            slopes, u = [float(k == a) for k in range(N_INPUTS)], x[a]
        else:
            slopes, u = [float(k == a) - float(k == b) for k in range(N_INPUTS)], x[a] - x[b]
        if hash_name == "bins":  # thresholds -0.5 and 0.5
            digit = 0 if u <= -0.5 else 1 if u <= 0.5 else 2
            if abs(u + 0.5) <= abs(u - 0.5):
                u, beyond = u + 0.5, (1 if u <= -0.5 else 0)
            else:
                u, beyond = u - 0.5, (2 if u <= 0.5 else 1)
        else:
            digit, beyond = (1, 0) if u > 0 else (0, 1)
        found.append((u, digit, beyond, slopes))
    return found


def row_of(digits, base):
    return sum(digit * base**r for r, digit in enumerate(digits))


def base_of(hash_name):
    return N_BINS if hash_name == "bins" else 2


def rows(hash_name, found):
    """The row, and the row beyond each comparison's nearest threshold."""
    digits = [digit for _, digit, _, _ in found]
    beyond = [[*digits[:r], found[r][2], *digits[r + 1 :]] for r in range(len(found))]
    return row_of(digits, base_of(hash_name)), [row_of(d, base_of(hash_name)) for d in beyond]


@pytest.mark.parametrize("hash_name", HASHES)
def test_rows_distances_and_neighbours_are_those_of_the_definition(hash_name):
    x, _, anchors, directions = case(hash_name)
    address = hashed(hash_name, x, anchors, directions)
    for p, i in itertools.product(range(P), range(N_TABLES)):
        found = comparisons(hash_name, x[p].tolist(), anchors.tolist(), directions.tolist(), i)
        row, neighbours = rows(hash_name, found)
        assert address.row[p, i] == row
        assert address.neighbours()[p, i].tolist() == neighbours
        assert address.u[p, i].tolist() == pytest.approx([u for u, *_ in found])


def transcribed_surrogate(gradient, hash_name, x, S, anchors, directions, v):
    """dL/dx and dL/dc of one position for the hard reading: sum over what acts of U'(u) g du/dx."""
    dx = [0.0] * N_INPUTS
    dc = [[[0.0] * N_INPUTS for _ in range(N_COMPARISONS)] for _ in range(N_TABLES)]
    dot = lambda row: sum(value * s for value, s in zip(v, row, strict=True))  # noqa: E731
    found = [comparisons(hash_name, x, anchors, directions, i) for i in range(N_TABLES)]
    nearest = [min(range(N_COMPARISONS), key=lambda r, f=f: abs(f[r][0])) for f in found]
    for i in range(N_TABLES):
        row, neighbours = rows(hash_name, found[i])
        for r, (u, _, _, slopes) in enumerate(found[i]):
            if gradient == "nearest":
                q = (r == nearest[i]) * surrogate_slope(u) * (dot(S[i][neighbours[r]]) - dot(S[i][row]))
            elif gradient == "all":
                q = surrogate_slope(u) * (dot(S[i][neighbours[r]]) - dot(S[i][row]))
            elif gradient == "scalar":
                table = min(range(N_TABLES), key=lambda t: abs(found[t][nearest[t]][0]))
                q = (i == table and r == nearest[i]) * surrogate_slope(u) * -dot(S[i][row])
            else:  # d/du_r of sum_b softmax(score)_b (v . S_b), score_b = sum_r +-p_r
                scores = [
                    sum((1 if b >> k & 1 else -1) * w / (1 + abs(w)) for k, (w, *_) in enumerate(found[i]))
                    for b in range(2**N_COMPARISONS)
                ]
                total = sum(map(math.exp, scores))
                pi = [math.exp(score) / total for score in scores]
                mean = sum(p * dot(S[i][b]) for b, p in enumerate(pi))
                sign = lambda b, r=r: 1 if b >> r & 1 else -1  # noqa: E731
                q = sum(p * (dot(S[i][b]) - mean) * sign(b) for b, p in enumerate(pi)) / (1 + abs(u)) ** 2
            for k in range(N_INPUTS):
                dx[k] += q * slopes[k]
                dc[i][r][k] += q * x[k]
    return dx, dc


@pytest.mark.parametrize(
    ("hash_name", "gradient"), [pair for pair in itertools.product(HASHES, GRADIENTS) if pair != ("bins", "softmax")]
)
def test_the_hard_reading_and_its_surrogates(hash_name, gradient):
    x, tables, anchors, directions = case(hash_name)
    for tensor in (x, tables, directions):
        tensor.requires_grad_()
    y = read(hashed(hash_name, x, anchors, directions), tables, gradient=gradient)
    v = torch.randn(P, N_OUTPUTS, generator=torch.manual_seed(1), dtype=torch.float64)
    y.backward(v)
    dS = torch.zeros_like(tables)
    dc = torch.zeros_like(directions)
    for p in range(P):
        arguments = (x[p].tolist(), tables.tolist(), anchors.tolist(), directions.tolist(), v[p].tolist())
        total = torch.zeros(N_OUTPUTS, dtype=torch.float64)
        for i in range(N_TABLES):
            found = comparisons(hash_name, arguments[0], arguments[2], arguments[3], i)
            row, _ = rows(hash_name, found)
            total += tables[i, row].detach()
            dS[i, row] += v[p]
        torch.testing.assert_close(y[p].detach(), total)
        dx, dc_p = transcribed_surrogate(gradient, hash_name, *arguments)
        torch.testing.assert_close(x.grad[p], torch.tensor(dx, dtype=torch.float64))
        dc += torch.tensor(dc_p, dtype=torch.float64)
    torch.testing.assert_close(tables.grad, dS)
    if hash_name == "hyperplane":
        torch.testing.assert_close(directions.grad, dc)


def transcribed_reading(reading, hash_name, x, S, anchors, directions, beta, gamma):
    """y of one position for the soft and the confidence reading."""
    y = [0.0] * N_OUTPUTS
    for i in range(N_TABLES):
        found = comparisons(hash_name, x, anchors, directions, i)
        row, neighbours = rows(hash_name, found)
        r = min(range(N_COMPARISONS), key=lambda r, f=found: abs(f[r][0]))
        size = abs(found[r][0])
        if reading == "soft":
            scale, mix = 1.0, 0.5 / (1 + size)
        else:
            logs = sum(math.log(1 / (1 + math.exp(-beta * abs(u)))) for u, *_ in found)
            scale = sum(abs(u) for u, *_ in found) * math.exp(gamma * logs)
            mix = 1 / (1 + math.exp(2 * size))
        for k in range(N_OUTPUTS):
            y[k] += scale * (S[i][row][k] + mix * (S[i][neighbours[r]][k] - S[i][row][k]))
    return y


@pytest.mark.parametrize("hash_name", HASHES)
@pytest.mark.parametrize("reading", ["soft", "confidence"])
def test_soft_and_confidence_are_differentiated_as_they_are(hash_name, reading):
    """Values from the transcription, gradients from its finite differences, in x, S, directions, beta and gamma."""
    x, tables, anchors, directions = case(hash_name)
    beta, gamma = (torch.tensor(value, dtype=torch.float64) for value in (1.7, 0.8))
    inputs = (x, tables, directions, beta, gamma)
    for tensor in inputs:
        tensor.requires_grad_()
    y = read(hashed(hash_name, x, anchors, directions), tables, reading, beta=beta, gamma=gamma)
    v = torch.randn(P, N_OUTPUTS, generator=torch.manual_seed(1), dtype=torch.float64)
    y.backward(v)

    def loss():
        total = 0.0
        for p in range(P):
            arguments = (x[p].tolist(), tables.tolist(), anchors.tolist(), directions.tolist())
            values = transcribed_reading(reading, hash_name, *arguments, beta.item(), gamma.item())
            total += sum(a * b for a, b in zip(values, v[p].tolist(), strict=True))
        return total

    assert loss() == pytest.approx((y.detach() * v).sum().item())
    step = 1e-6
    for tensor in inputs:
        if tensor.grad is None:
            continue
        flat, gradient = tensor.detach().view(-1), tensor.grad.view(-1)
        for k in range(0, flat.numel(), max(1, flat.numel() // 12)):
            before = flat[k].item()
            losses = []
            for value in (before + step, before - step):
                flat[k] = value
                losses.append(loss())
            flat[k] = before
            assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(gradient[k].item(), abs=1e-5)


def test_the_defaults_are_the_layer_of_the_native_kernels():
    native = LookupTables(8, 8, 5, 4, residual=True, seed=3)
    variant = VariantTables(8, 8, 5, 4, residual=True, seed=3)
    assert torch.equal(native.anchors, variant.anchors)
    rows_ = torch.randint(-3, 4, native.synaptic_vectors.shape, generator=torch.manual_seed(0)).float()
    x = torch.randint(-2, 3, (3, 7, 8), generator=torch.manual_seed(1)).float()  # ties, and the same bits
    gradients = []
    for layer in (native, variant):
        layer.synaptic_vectors.data.copy_(rows_)
        own = x.clone().requires_grad_()
        y = layer(own)
        y.backward(torch.ones_like(y) * torch.arange(8.0))
        gradients.append((y.detach(), own.grad, layer.synaptic_vectors.grad))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_a_hyperplane_starts_as_the_order_and_two_bins_are_one():
    order = VariantTables(8, 3, 5, 4)
    x = torch.randn(20, 8)
    for variant in (VariantTables(8, 3, 5, 4, hash="hyperplane"), VariantTables(8, 3, 5, 4, hash="bins", n_bins=2)):
        for layer in (order, variant):
            torch.nn.init.normal_(layer.synaptic_vectors, generator=torch.manual_seed(0))
        torch.testing.assert_close(variant(x), order(x))


@pytest.mark.parametrize(
    "options",
    [*({"hash": h} for h in HASHES), *({"gradient": g} for g in GRADIENTS), {"reading": "soft"},
     {"reading": "confidence"}],
    ids=lambda options: "-".join(options.values()),
)  # fmt: skip
def test_every_variant_learns(options):
    """A hidden layer of the variant below a readout: which of two neurons came first, seen through a third layer."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(VariantTables(8, 8, 12, 4, residual=True, **options), LookupTables(8, 2, 12, 4, seed=1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        x = torch.randn(128, 8)
        loss = torch.nn.functional.cross_entropy(model(x), ((x[:, 0] > x[:, 1]) ^ (x[:, 2] > 0)).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]


def test_an_attached_optimizer_trains_a_variant_below_a_readout():
    model = torch.nn.Sequential(VariantTables(8, 8, 4, 3), LookupTables(8, 2, 4, 3))
    torch.nn.init.normal_(model[1].synaptic_vectors)
    optimizer = attach(model, "sgd", rate=0.1)
    model(torch.randn(9, 8)).square().sum().backward()
    optimizer.step()
    assert model[0].synaptic_vectors.any()


def test_errors_name_the_argument():
    for options, message in [
        ({"hash": "md5"}, "hash must be one of order"),
        ({"reading": "loud"}, "reading must be one of hard"),
        ({"gradient": "straight"}, "gradient must be one of nearest"),
        ({"reading": "soft", "gradient": "all"}, "gradient is the hard reading's"),
        ({"hash": "bins", "gradient": "softmax"}, "take another hash than bins"),
        ({"n_outputs": 3, "residual": True}, "residual needs"),
        ({"hash": "bins", "n_comparisons": 28, "n_bins": 200}, "the tables need"),
    ]:
        with pytest.raises(ValueError, match=message):
            VariantTables(**{"n_inputs": 8, "n_outputs": 8, "n_tables": 2, "n_comparisons": 3, **options})
    with pytest.raises(ValueError, match=r"x must hold latencies of shape \(\.\.\., 8\)"):
        VariantTables(8, 8, 2, 3)(torch.zeros(2, 7))
    x = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="n_bins must be at least 2"):
        bins_hash(x, random_anchors(3, 1, 1), n_bins=1)
    with pytest.raises(ValueError, match="width must be positive"):
        bins_hash(x, random_anchors(3, 1, 1), n_bins=3, width=0.0)
