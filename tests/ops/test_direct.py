"""Eager calls go past the dispatcher: the same bits as the operator's, and never with stale anchors."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from polychron.nn import LookupTables
from polychron.ops import RowUpdate, lookup, use_kernel
from polychron.ops.dispatch import native
from polychron.ops.lookup import direct
from polychron.ops.lookup.operators import FusedLookup, lookup_operator

from .cases import LookupSizes, lookup_case, using_threads

PLAIN = LookupSizes(3, 40, 8, 17, 5, 3)
DELAYED = LookupSizes(2, 33, 8, 8, 70, 3, max_delay=4, residual=True)
PADDED = LookupSizes(1, 9, 6, 6, 4, 3, residual=True)


def goes_direct(arguments: dict, **options) -> bool:
    keys = ("x", "tables", "anchors", "delays", "history")
    given = {"residual": False, "gradient": "dense", "update": None} | {k: arguments.get(k) for k in keys} | options
    return direct.find_reader(**given) is not None


def without_history(sizes: LookupSizes):
    arguments, v = lookup_case(sizes, values="real")
    return {**arguments, "history": None}, v


def by_operator(arguments: dict, v: Tensor, gradient: str, update: RowUpdate | None) -> list[Tensor]:
    x, tables = (arguments[name].clone().requires_grad_() for name in ("x", "tables"))
    given = (arguments["anchors"], arguments["delays"], None, arguments.get("residual", False))
    if gradient == "fused":
        y = FusedLookup.apply(x, tables, *given, update)
    else:
        y = lookup_operator(x, tables, *given, gradient)[0]
    y.backward(v)
    return results_of(y, x, tables)


def results_of(y: Tensor, x: Tensor, tables: Tensor) -> list[Tensor]:
    gradients = [t.grad.to_dense() for t in (x, tables) if t.grad is not None]
    return [y.detach(), *gradients, tables.detach()]


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("gradient", ["dense", "sparse", "sgd", "adagrad", "adam", "online_sgd"])
@pytest.mark.parametrize("sizes", [PLAIN, DELAYED, PADDED], ids=["plain", "delayed", "padded"])
def test_the_same_bits_as_the_operator(sizes, gradient, n_threads):
    arguments, v = without_history(sizes)

    def update() -> RowUpdate | None:
        return None if gradient in ("dense", "sparse") else RowUpdate(gradient, rate=0.5)

    kind = gradient if gradient in ("dense", "sparse") else "fused"
    with using_threads(n_threads):
        one, other = update(), update()
        for held in filter(None, (one, other)):
            held.prepare(arguments["tables"])
        expected = by_operator(arguments, v, kind, one)
        for _ in range(2):  # the first call makes the reader, the second has it
            other = update()
            x, tables = (arguments[name].clone().requires_grad_() for name in ("x", "tables"))
            y = lookup(**{**arguments, "x": x, "tables": tables}, gradient=kind, update=other)
            y.backward(v)
        assert "DirectLookup" in type(y.grad_fn).__name__
        for actual, want in zip(results_of(y, x, tables), expected, strict=True):
            assert torch.equal(actual, want)
        with torch.no_grad():
            assert torch.equal(lookup(**arguments), expected[0])


@pytest.mark.parametrize("gradient", ["dense", "fused"])
@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8)])
def test_a_checkpoint_computes_the_first_call_again_as_it_was(gradient, shape):
    results = []
    for keeps in (True, False):
        update = RowUpdate("sgd", rate=0.5) if gradient == "fused" else None
        layer = LookupTables(8, 8, 4, 3, residual=True, gradient=gradient, update=update)
        layer.synaptic_vectors.data.normal_(generator=torch.manual_seed(0))
        x = torch.randn(shape, generator=torch.manual_seed(1)).requires_grad_()
        y = layer(x) if keeps else checkpoint(layer, x, use_reentrant=False)
        y.square().sum().backward()
        results.append(results_of(y, x, layer.synaptic_vectors))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_bfloat16_tables_have_no_reader_made():
    layer = LookupTables(8, 4, 2, 3, dtype=torch.bfloat16)
    before = len(direct._readers)
    layer(torch.randn(1, 8))
    assert len(direct._readers) == before
    layer.float()(torch.randn(1, 8))
    assert len(direct._readers) == before + 1


def test_two_dimensions_are_one_sequence():
    layer = LookupTables(8, 5, 4, 3)
    layer.synaptic_vectors.data.normal_()
    x = torch.randn(6, 8, requires_grad=True)
    layer(x)
    y = layer(x)
    assert "DirectLookup" in type(y.grad_fn).__name__
    y.sum().backward()
    again = x.detach().clone().requires_grad_()
    with use_kernel("reference"):
        layer(again).sum().backward()
    torch.testing.assert_close(x.grad, again.grad)


def test_anchors_that_changed_are_read_again():
    layer = LookupTables(8, 4, 2, 1)
    layer.synaptic_vectors.data[:, 1] = 1
    x = torch.arange(8.0)[None]
    layer(x)
    with torch.no_grad():
        layer.anchors.copy_(torch.tensor([[[7, 0]], [[7, 0]]]))  # as load_state_dict does
    assert layer(x).tolist() == [[2.0] * 4]
    layer.anchors = torch.tensor([[[0, 7]], [[7, 0]]], dtype=torch.int32)
    assert layer(x).tolist() == [[1.0] * 4]
    layer.anchors.data = torch.tensor([[[0, 7]], [[0, 7]]], dtype=torch.int32)
    assert layer(x).tolist() == [[0.0] * 4]
    with torch.no_grad():
        layer.anchors[0, 0, 0] = 8
    with pytest.raises(ValueError, match="anchors must lie in"):
        layer(x)


def test_a_wrong_argument_is_explained_after_a_right_call():
    arguments, _ = without_history(PLAIN)
    lookup(**arguments)
    assert goes_direct(arguments)
    wrong = {
        "x": arguments["x"][..., :-1],
        "tables": arguments["tables"][:, :-1],
        "residual": True,
        "gradient": "fused",
    }
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=r"anchors|tables|residual|update"):
            lookup(**{**arguments, name: value})
    for dtype in (torch.float64, torch.int64):
        with pytest.raises(ValueError, match=r"x must hold latencies|tables must have x's type"):
            lookup(**{**arguments, "x": arguments["x"].to(dtype)})
    with use_kernel("reference"):
        assert not goes_direct(arguments)


def test_autograd_guards_the_graph_as_ever():
    arguments, v = without_history(PLAIN)
    x, tables = arguments["x"].requires_grad_(), arguments["tables"].requires_grad_()
    lookup(**arguments)
    y = lookup(**arguments)
    y.backward(v)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward(v)
    y = lookup(**arguments)
    with torch.no_grad():
        tables += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(v)
    (dx,) = torch.autograd.grad(lookup(**arguments), x, v.requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("odd", ["nothing", "expanded", "strided", "negated", "packed"])
def test_gradients_and_latencies_of_any_layout(odd, kind):
    arguments, v = without_history(DELAYED)
    x, tables = arguments["x"], arguments["tables"]
    given = {
        "expanded": v[:, :1, :1].expand_as(v),
        "strided": v.transpose(0, 1).contiguous().transpose(0, 1),
        "negated": torch._neg_view(v),
    }.get(odd, v)
    one, other = (RowUpdate(kind, rate=0.5) for _ in range(2))
    one.prepare(tables)
    expected = by_operator(arguments, given.resolve_neg().contiguous(), "fused", one)
    with torch.no_grad():
        lookup(**arguments)
    latencies = (torch._neg_view(-x) if odd == "negated" else x.clone()).requires_grad_()
    own = tables.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(*([torch.clone] * 2 if odd == "packed" else [lambda t: t] * 2)):
        y = lookup(**{**arguments, "x": latencies, "tables": own}, gradient="fused", update=other)
    assert "DirectLookup" in type(y.grad_fn).__name__
    y.backward(given)
    for actual, want in zip(results_of(y, latencies, own), expected, strict=True):
        assert torch.equal(actual, want)


@pytest.mark.parametrize("spoilt", [lambda t: t[:-9], lambda t: t.double(), lambda t: t.view(-1, 1)[:, 0].flip(0)[::3]])
def test_what_a_hook_spoils_is_refused(spoilt):
    arguments, v = without_history(PLAIN)
    lookup(**arguments)
    arguments["x"].requires_grad_()
    tables = arguments["tables"].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, spoilt):
        y = lookup(**arguments, gradient="fused", update=RowUpdate("sgd", rate=0.5))
        before = tables.clone()
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            y.backward(v)
    assert torch.equal(tables, before)


def test_a_layer_takes_no_address_of_nothing():
    layer = native.LookupLayer(torch.zeros(1, 2, 2, dtype=torch.int32).numpy(), None, 4)
    memory = torch.zeros(64)
    at = memory.data_ptr()
    layer.read(at, 1, 2, at, 4, 4, False, at, 0, 1)
    read = [
        (0, 1, 2, at, 4, 4, False, at),
        (at, 1, 2, 0, 4, 4, False, at),
        (at, 1, 2, at, 4, 4, False, 0),
        (at, 1, 2, at, 4, 3, False, at),
        (at, -1, 2, at, 4, 4, False, at),
        (at, 1 << 30, 2, at, 4, 4, False, at),
        (at, 1, 2, at, 3, 4, True, at),
    ]
    for wrong in read:
        with pytest.raises(ValueError, match=r"must|needs|at most|no negative"):
            layer.read(*wrong, 0, 1)
    updates = [
        (0, 1, 2, at, 4, 4, False, at, 0, "sgd"),
        (at, 1, 2, at, 4, 4, False, 0, 0, "sgd"),
        (at, 1, 2, at, 4, 4, False, at, 1, "sgd"),
        (at, 1, 2, at, 4, 4, False, at, 0, "adagrad"),
    ]
    for wrong in updates:
        with pytest.raises(ValueError, match="must"):
            layer.update(*wrong, 0.1, 1.0, 1)


def test_readers_go_with_their_anchors_and_are_not_copied():
    gc.collect()
    before = len(direct._readers)
    layer = LookupTables(8, 4, 2, 3)
    layer(torch.randn(1, 8))
    assert len(direct._readers) == before + 1
    other = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    assert len(direct._readers) == before + 1
    del layer
    gc.collect()
    assert len(direct._readers) == before
    with torch.inference_mode():  # tensors made here do not say when they change
        other.anchors = other.anchors.clone()
        other(torch.randn(1, 8))
    assert len(direct._readers) == before


def test_the_process_ends_without_complaints():
    code = """
import torch
from polychron.nn import LookupTables
layer = LookupTables(8, 4, 2, 3)
y = layer(torch.randn(1, 8, requires_grad=True))
y = layer(torch.randn(1, 8, requires_grad=True))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ended.stderr == ""
