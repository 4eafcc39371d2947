"""The layer's peers compute what the layer computes, and the figures survive their file."""

from __future__ import annotations

import json

import pytest
import torch

import kernels
from harness.layer_peers import Compiled, Composed, Fbgemm, Polychron, missing
from harness.turns import Seconds, in_turns
from polychron.nn import LookupTables

WAYS = [(part, way) for part, ways in Composed.WAYS.items() for way in ways]


def layer_and_batch(batch: int = 37):
    layer = LookupTables(12, 12, 5, 4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.synaptic_vectors.uniform_(-1, 1, generator=generator)
    x = torch.randint(-3, 4, (batch, 12), generator=generator).float()  # ties too
    return layer, x, torch.randn(batch, 12, generator=generator)


@pytest.mark.parametrize(("part", "way"), WAYS)
def test_every_way_of_the_composed_layer_is_ours(part, way, monkeypatch):
    monkeypatch.setattr("harness.layer_peers._AT_A_TIME", 200)  # several parts of the batch
    layer, x, v = layer_and_batch()
    peer = Composed(layer, kernels.RATE)
    peer.chosen[part] = way
    kernels.check_equal(Polychron(layer, kernels.RATE), [peer], x, v)


def test_the_compiled_layer_is_ours():
    layer, x, v = layer_and_batch()
    peer = Compiled(layer, kernels.RATE, backend="aot_eager")
    kernels.check_equal(Polychron(layer, kernels.RATE), [peer], x, v)
    torch.compiler.reset()


@pytest.mark.skipif(missing(Fbgemm.name) is not None, reason="no FBGEMM for this torch")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own, of what only a GPU has
def test_fbgemm_is_ours():
    layer, x, v = layer_and_batch()
    kernels.check_equal(Polychron(layer, kernels.RATE), [Fbgemm(layer, kernels.RATE)], x, v)


def test_a_peer_that_computes_something_else_is_found_out():
    layer, x, v = layer_and_batch()
    ours, peer = Polychron(layer, kernels.RATE), Composed(layer, 2 * kernels.RATE)
    with pytest.raises(AssertionError, match="the tables' change of eager differs"):
        kernels.check_equal(ours, [peer], x, v)


def test_choosing_keeps_the_fastest_way_and_leaves_the_tables():
    layer, x, v = layer_and_batch()
    peer = Composed(layer, kernels.RATE)
    before = peer.tables().clone()
    order = iter(range(100, 0, -1))  # the last way tried is the fastest
    chosen = kernels.choose(peer, x, v, lambda call: (call(), next(order))[1])
    assert chosen == {part: list(ways)[-1] for part, ways in Composed.WAYS.items()} == peer.chosen
    assert torch.equal(peer.tables(), before)


def test_rounds_end_when_the_time_is_over_but_not_before_the_third():
    calls = []
    seconds = in_turns(9, 0.0, lambda: calls.append("a"), lambda: calls.append("b"))
    assert [len(turns) for turns in seconds] == [3, 3]
    assert {"a", "b"} == set(calls)


def test_a_small_size_is_measured_written_read_and_drawn(tmp_path, capsys, monkeypatch):
    sizes = [kernels.Size(8, 4, 3, 1), kernels.Size(8, 4, 3, 16)]
    monkeypatch.setattr(kernels, "THIN", sizes)
    path, picture = tmp_path / "kernels.json", tmp_path / "kernels.png"
    command = ["kernels.py", "--peers", "eager", "--rounds", "1", "--seconds", "0"]
    monkeypatch.setattr("sys.argv", [*command, "--json", str(path), "--png", str(picture)])
    assert kernels.main() == 0
    first = json.loads(path.read_text())
    assert [row["batch"] for row in first["results"]] == [1, 16]
    assert picture.stat().st_size > 0
    assert "| 8 | 4 | 3 | 16 |" in capsys.readouterr().out

    assert kernels.main() == 0  # nothing is measured twice
    assert json.loads(path.read_text())["results"] == first["results"]


def test_the_table_shows_medians_and_ratios():
    def seconds(median: float) -> Seconds:
        return Seconds(median, median, median, median, 9)

    both = {"polychron": seconds(1e-4), "eager": seconds(8e-4)}
    result = kernels.Result(kernels.Size(8, 4, 3, 1), {"forward": both, "step": both}, limit=1e-5)
    last = kernels.table([result], ["eager"]).splitlines()[-1]
    assert "| 10 | 800 (**8.0**, 80.0) |" in last  # a step reads each row and its neighbour
    assert "| 20 | 800 (**8.0**, 40.0) |" in last
    assert "4 or more at 1 of 1 sizes; at 0 others" in kernels.summary([result], ["eager"])

    near = {"polychron": seconds(4e-4), "eager": seconds(8e-4)}
    bound = kernels.Result(kernels.Size(8, 4, 3, 1), {"forward": near, "step": near}, limit=3e-4)
    assert "4 or more at 0 of 1 sizes; at 1 others" in kernels.summary([bound], ["eager"])
