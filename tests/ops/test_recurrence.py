"""The recurrent layer against a scalar transcription of equation 11 and of backpropagation through time."""

from __future__ import annotations

import pytest
import torch

from polychron.ops import RowUpdate, available_kernels, use_kernel
from polychron.ops.recurrence import recurrence

from .transcription import address, surrogate_slope

N_NEURONS, N_TABLES, N_COMPARISONS = 6, 4, 3


def case(B=3, T=7, seed=0, integers=False):
    generator = torch.manual_seed(seed)
    anchors = (
        torch.stack([torch.randperm(N_NEURONS, generator=generator)[:2] for _ in range(N_TABLES * N_COMPARISONS)])
        .int()
        .reshape(N_TABLES, N_COMPARISONS, 2)
    )
    if integers:  # exact sums, frequent ties
        z = torch.randint(-2, 3, (B, T, N_NEURONS), generator=generator).float()
        tables = torch.randint(-2, 3, (N_TABLES, 2**N_COMPARISONS, N_NEURONS), generator=generator).float()
        start = torch.randint(-2, 3, (B, N_NEURONS), generator=generator).float()
    else:
        z = torch.randn(B, T, N_NEURONS, generator=generator)
        tables = torch.randn(N_TABLES, 2**N_COMPARISONS, N_NEURONS, generator=generator)
        start = torch.randn(B, N_NEURONS, generator=generator)
    return z, tables, anchors, start


def transcribed(z, tables, anchors, start, v, truncation=None):
    """h, dL/dz, dL/dS of one sequence, by the equations, over Python floats."""
    before, h, addresses = list(start), [], []
    for z_t in z:
        at = [address([before[a] - before[b] for a, b in pairs]) for pairs in anchors]
        before = [z_t[k] + sum(tables[i][at[i][0]][k] for i in range(N_TABLES)) for k in range(N_NEURONS)]
        addresses.append(at)
        h.append(before)
    dz = [list(v_t) for v_t in v]
    dS = [[[0.0] * N_NEURONS for _ in table] for table in tables]
    for t in reversed(range(len(z))):
        for i in range(N_TABLES):
            row, pair, u = addresses[t][i]
            for k in range(N_NEURONS):
                dS[i][row][k] += dz[t][k]
            if t == 0 or (truncation is not None and t % truncation == 0):
                continue
            neighbour = row ^ (1 << pair)
            gain = sum(dz[t][k] * (tables[i][neighbour][k] - tables[i][row][k]) for k in range(N_NEURONS))
            a, b = anchors[i][pair]
            dz[t - 1][a] += surrogate_slope(u) * gain
            dz[t - 1][b] -= surrogate_slope(u) * gain
    return h, dz, dS


@pytest.fixture(params=available_kernels())
def kernel(request):
    with use_kernel(request.param):
        yield request.param


@pytest.mark.parametrize("truncation", [None, 1, 3])
@pytest.mark.parametrize("with_start", [False, True])
def test_forward_and_gradients_are_those_of_the_equations(kernel, truncation, with_start):
    z, tables, anchors, start = case()
    if not with_start:
        start = torch.zeros_like(start)
    v = torch.randn(z.shape, generator=torch.manual_seed(1))
    z.requires_grad_()
    tables.requires_grad_()
    h = recurrence(z, tables, anchors, start if with_start else None, truncation=truncation)
    h.backward(v)
    expected = [
        transcribed(z[b].tolist(), tables.tolist(), anchors.tolist(), start[b].tolist(), v[b].tolist(), truncation)
        for b in range(len(z))
    ]
    torch.testing.assert_close(h, torch.tensor([e[0] for e in expected]))
    torch.testing.assert_close(z.grad, torch.tensor([e[1] for e in expected]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tables.grad, torch.tensor([e[2] for e in expected]).sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gradient", ["dense", "sparse", "fused"])
def test_every_kernel_and_number_of_threads_gives_the_same_bits(gradient):
    results = []
    n_threads = torch.get_num_threads()
    for name in available_kernels()[1:]:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with use_kernel(name):
                z, tables, anchors, start = case(B=17, T=9)
                z.requires_grad_()
                tables.requires_grad_()
                update = RowUpdate("sgd", rate=0.1, visit_cap=4) if gradient == "fused" else None
                h = recurrence(z, tables, anchors, start, gradient=gradient, update=update)
                h.square().sum().backward()
                dS = tables.detach() if gradient == "fused" else tables.grad.to_dense()
                results.append((h.detach(), z.grad, dS))
    torch.set_num_threads(n_threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("time_major", [False, True])
def test_the_gradient_that_arrives_is_not_written_to(kernel, time_major):
    z, tables, anchors, start = case(B=3 if time_major else 1)
    v = torch.randn(z.transpose(0, 1).shape, generator=torch.manual_seed(1)).transpose(0, 1)
    v = v if time_major else v.contiguous()
    before = v.clone()
    recurrence(z.requires_grad_(), tables, anchors, start).backward(v)
    assert torch.equal(v, before)


def test_autograd_guards_the_graph(kernel):
    z, tables, anchors, start = case()
    z.requires_grad_()
    tables.requires_grad_()
    h = recurrence(z, tables, anchors, start)
    h.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        h.sum().backward()
    h = recurrence(z, tables, anchors, start)
    with torch.no_grad():
        tables += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


def test_integers_are_exact_on_every_kernel():
    results = []
    for name in available_kernels():
        with use_kernel(name):
            z, tables, anchors, start = case(integers=True)
            results.append(recurrence(z, tables, anchors, start))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
def test_a_fused_update_is_applied_once_to_the_rows_as_they_were(kernel, kind):
    z, tables, anchors, start = case()
    dense = tables.clone().requires_grad_()
    recurrence(z, dense, anchors, start).square().sum().backward()
    fused = tables.clone().requires_grad_()
    recurrence(z, fused, anchors, start, gradient="fused", update=RowUpdate(kind, rate=0.01)).square().sum().backward()
    change = dense.grad
    if kind != "sgd":  # at the first step Adagrad's and Adam's are alike
        change = dense.grad / (dense.grad.square().mean(-1, keepdim=True).sqrt() + 1e-8)
    torch.testing.assert_close(fused.detach(), tables - 0.01 * change, rtol=1e-4, atol=1e-4)


def test_a_sequence_goes_on_from_where_it_was():
    z, tables, anchors, start = case(T=9)
    whole = recurrence(z, tables, anchors, start)
    first = recurrence(z[:, :4], tables, anchors, start)
    rest = recurrence(z[:, 4:], tables, anchors, first[:, -1])
    assert torch.equal(torch.cat([first, rest], dim=1), whole)


@pytest.mark.parametrize(("B", "T"), [(0, 5), (3, 0), (1, 1)])
def test_small_and_empty_sequences(B, T):
    z, tables, anchors, start = case(B=B, T=T)
    tables.requires_grad_()
    h = recurrence(z, tables, anchors, start)
    assert h.shape == (B, T, N_NEURONS)
    h.sum().backward()
    assert tables.grad is None or tables.grad.abs().sum() == B * T * N_TABLES * N_NEURONS


def test_errors_name_the_argument():
    z, tables, anchors, start = case()
    with pytest.raises(ValueError, match="tables must drive the 6 neurons"):
        recurrence(z, tables[..., :5].contiguous(), anchors)
    with pytest.raises(ValueError, match="start must be"):
        recurrence(z, tables, anchors, start[:2])
    with pytest.raises(ValueError, match="truncation must be at least 1"):
        recurrence(z, tables, anchors, truncation=0)
    with pytest.raises(ValueError, match="online_sgd"):
        recurrence(z, tables, anchors, gradient="fused", update=RowUpdate("online_sgd"))
    with pytest.raises(ValueError, match=r"z must hold latencies .*token ids"):
        recurrence(z.long(), tables, anchors)
    with pytest.raises(ValueError, match=r"z must have shape \(B, T, n\); got \("):
        recurrence(z[0], tables, anchors)
    with pytest.raises(ValueError, match="tables must have z's type"):
        recurrence(z, tables.half(), anchors)
