from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from polychron import models
from polychron.errors import InputError
from polychron.reproduce import CONFIRMED, ITEMS, NOT_CONFIRMED, OTHER_SCALE, Finding, counted, measured, reproduce
from polychron.twins.contest import Outcome

from ..training.test_checkpoint import files_limited_to


def run_of(points, name="ours", seed=0):
    return Outcome(name, seed, 0.1, 10, points)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "sheep.txt"
    path.write_bytes(b"".join(b"The %d sheep of field %d eat grass. " % (n * n, n) for n in range(400)))
    return path


@pytest.fixture
def quick(monkeypatch):
    """Sizes of a second: as few bytes, presets and twins as there can be."""
    sizes = "tiny", "paper-small", "small", ("gru",), measured.ABLATION
    small = measured.Size(2048, 512, 1024, *sizes, is_published=False)
    monkeypatch.setitem(measured.SIZES, "small", small)


def test_published_counts_are_confirmed_to_the_unit_and_ten_thousand_is_not(tmp_path):
    verdicts = {f.claim: f for item in ("table3", "table4") for f in reproduce(item, tmp_path).findings}
    for figure in ("10,496,000", "3,145,728", "805,773,312", "172,800", "235,405,312", "120 + 30 n"):
        (finding,) = [f for f in verdicts.values() if f.published == figure]
        assert finding.ours == figure
        assert finding.verdict == CONFIRMED
    claim = verdicts["10,000 times less bandwidth"]
    assert claim.verdict == NOT_CONFIRMED
    assert claim.ours == "8,738, 988, 172"


def test_the_tables_hold_what_is_published_under_their_number(tmp_path):
    published = {
        item: {f.published for f in reproduce(item, tmp_path).findings} for item in ("table1", "table3", "table4")
    }
    assert {"16K", "4M", "5.4K", "1M", "5M"} <= published["table1"]
    assert {"33,554,432", "32,768", "805,773,312"} <= published["table3"]
    assert {"10,496,000", "3,145,728"} <= published["table4"] - published["table3"]


def test_sizes_of_the_recurrent_network_are_counted_and_round_to_the_published(tmp_path):
    found = reproduce("table1", tmp_path)
    assert found.measured == {"embedding": 16_384, "recurrent": 4_194_304, "bandwidth": 5_376, "readout": 1_048_576,
                              "synapses": 5_259_264}  # fmt: skip
    *sizes, alike = found.findings
    assert {f.verdict for f in sizes} == {CONFIRMED}
    assert alike.verdict == NOT_CONFIRMED
    assert alike.ours == "Table I 5,376, without rows 1,280; Table IV 1,080 at 32 positions, with rows 6,200"
    assert "988 times less bandwidth becomes 172" in alike.note


@pytest.mark.parametrize(("change", "claims"), [
    ({"n_tables": 32}, {"setting of", "footprint of", "bandwidth of", "whole network"}),
    ({"readout_n_tables": 4}, {"unembedder", "whole network"}),
    ({"n_neurons": 32}, {"setting of", "embedder", "footprint of", "bandwidth of", "whole network"}),
    ({"context": 64}, {"setting of"}),
])  # fmt: skip
def test_another_recurrent_network_is_not_the_published_one(change, claims, monkeypatch):
    monkeypatch.setattr(models, "preset", lambda kind, preset, size: models.RecurrentConfig(size, **change))
    refused = [f.claim for f in counted.table1().findings if f.verdict == NOT_CONFIRMED]
    assert {" ".join(claim.split()[:2]) for claim in refused} - {"bandwidth is"} == claims


def test_orders_are_compared_with_rates_at_every_number_of_neurons(monkeypatch):
    found = counted.fig3()
    assert found.measured["orders_exceed_rates_from"] == {"0.1": 2, "1.0": 6}
    assert found.findings[-1].verdict == CONFIRMED
    monkeypatch.setattr("polychron.analysis.log10_orders", lambda n: 0.4 * n if n < 150 else 0.0)
    assert counted.fig3().findings[-1].verdict == NOT_CONFIRMED
    assert "nowhere at eps = 0.1" in counted.fig3().findings[-1].ours


@pytest.mark.usefixtures("quick")
def test_a_reproduction_that_was_stopped_goes_on_with_what_is_finished(text, tmp_path):
    lines = []
    first = reproduce("table2", tmp_path, text=text, n_seeds=1)
    runs = tmp_path / "table2-runs/runs"
    kept = {path.name: path.read_text() for path in runs.iterdir()}
    assert len(kept) == 2
    (runs / "recurrent-small-0.json").unlink()
    again = reproduce("table2", tmp_path, text=text, n_seeds=2, resume=True, tell=lines.append)
    assert {path.name: path.read_text() for path in runs.iterdir()}["transformer-paper-small-0.json"] in kept.values()
    assert len(list(runs.iterdir())) == 4
    name = "recurrent small, last position of a window"
    assert again.measured[name][0] == first.measured[name][0]  # the same run once more gives the same bits
    reproduce("table2", tmp_path, text=text, n_seeds=1)  # anew
    assert len(list(runs.iterdir())) == 2


@pytest.mark.usefixtures("quick")
def test_runs_of_another_text_or_size_are_not_gone_on_with(text, tmp_path):
    reproduce("table2", tmp_path, text=text, n_seeds=1)
    with pytest.raises(InputError, match="are about bytes_trained_on 2048, not 1024"):
        reproduce("table2", tmp_path, text=text, n_seeds=1, n_bytes=1024, resume=True)
    (tmp_path / "table2-runs/runs/transformer-paper-small-0.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object; it holds a list"):
        reproduce("table2", tmp_path, text=text, n_seeds=1, resume=True)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("item", ITEMS)
def test_every_item_is_written_and_judged(item, text, tmp_path):
    found = reproduce(item, tmp_path / "out", text=text, n_seeds=2)
    assert found.findings
    values = json.loads((tmp_path / "out" / f"{item}.json").read_text())
    assert values["findings"][0]["verdict"] in (CONFIRMED, OTHER_SCALE, NOT_CONFIRMED)
    page = (tmp_path / "out" / f"{item}.md").read_text()
    assert page.startswith(f"# {item}")
    for finding in found.findings:
        assert finding.claim in page
    has_picture = (tmp_path / "out" / f"{item}.png").exists()
    assert has_picture == (item not in ("table1", "table3", "table4"))
    n_kept = len(list((tmp_path / "out").glob(f"{item}-runs/runs/*.json")))
    contestants = {"fig13": 5, "table2": 2, "ablation": 4}
    assert n_kept == 2 * contestants.get(item, 0)
    if item in contestants:
        assert "seeds 0, 1" in page
        assert "±" in page


def test_how_many_times_less_is_read_off_the_curves():
    dense = run_of([(100, 1000, 50.0, 1.0)], "dense")
    ours = run_of([(10, 100, 1.0, 3.0), (40, 400, 4.0, 0.5)])
    assert measured.times_less(ours, dense, 1) == pytest.approx(1000 / (100 * 4 ** (2 / 2.5)))
    assert measured.times_less(ours, dense, 2) == pytest.approx(50 / 4 ** (2 / 2.5))
    assert measured.times_less(run_of([(10, 100, 1.0, 0.9)]), dense, 1) == pytest.approx(10)
    assert measured.times_less(run_of([(10, 100, 1.0, 1.1)]), dense, 1) == 0


@pytest.mark.usefixtures("quick")
def test_the_speed_claim_is_judged_by_the_worst_seed(text, tmp_path, monkeypatch):
    def contest(contestants, split, terms, seeds, **_):
        """Tables reach the twin's end after a hundredth under seed 0, after a half under seed 1."""
        found = []
        for seed in seeds:
            for contestant in contestants:
                reach = 1000 if contestant.name == "gru" else (10, 500)[seed]
                found.append(run_of([(reach, reach, float(reach), 1.0)], contestant.name, seed))
        return found

    monkeypatch.setattr(measured, "run_contest", contest)
    for n_seeds, verdict in ((1, OTHER_SCALE), (2, NOT_CONFIRMED)):
        found = reproduce("fig13", tmp_path, text=text, n_seeds=n_seeds)
        speed = [f for f in found.findings if "50 times faster than gru" in f.claim]
        assert {f.verdict for f in speed} == {verdict}
    assert "51 times (2 to 100)" in speed[0].ours


def test_speed_is_confirmed_only_beside_the_published_transformer(text, tmp_path, monkeypatch):
    def contest(contestants, split, terms, seeds, **_):
        """Tables reach the twins' end after a hundredth."""
        spent = [10 if c.name.removesuffix(measured.EQUAL_TIME) in ours else 1000 for c in contestants]
        return [
            run_of([(n, n, float(n), 1.0)], c.name, seed)
            for seed in seeds
            for c, n in zip(contestants, spent, strict=True)
        ]

    ours = {"delay tiny", "delay small", "transformer paper-small", "transformer paper"}
    monkeypatch.setattr(measured, "run_contest", contest)
    verdicts = {}
    for scale in measured.SIZES:
        for finding in reproduce("fig13", tmp_path, text=text, scale=scale, n_seeds=1).findings:
            if "50 times faster" in finding.claim:
                opponent = finding.claim.partition("faster than ")[2].partition(",")[0]
                assert finding.ours == "100 times (one seed)"
                assert finding.note.startswith(measured.beside(opponent))
                verdicts.setdefault((scale, finding.claim.partition(":")[0], opponent), set()).add(finding.verdict)
    published = ("full", "transformer paper", "transformer-published")
    assert verdicts.pop(published) == {CONFIRMED}
    assert set.union(*verdicts.values()) == {OTHER_SCALE}
    assert ("full", "delay small", "transformer-published") in verdicts
    assert {scale for scale, _, _ in verdicts} == {"small", "full"}


def test_the_opponent_is_named_with_its_sizes():
    assert measured.beside("transformer-small") == (
        "opponent transformer-small: 2 layers of width 64, 2 heads, window 64, not the published transformer"
    )
    assert measured.beside("transformer-published").endswith(
        "6 layers of width 512, 8 heads, window 32, of the published sizes"
    )
    assert "transformer-published" not in measured.SIZES["small"].twins
    assert all(recipe.sizes for recipe in measured.DENSE.values())


@pytest.mark.parametrize(("scale", "lost", "verdict"), [
    ("small", 0.0, OTHER_SCALE), ("full", 0.0, CONFIRMED), ("full", 0.02, NOT_CONFIRMED),
])  # fmt: skip
def test_the_ablation_is_of_the_scale(scale, lost, verdict, text, tmp_path, monkeypatch):
    made = {}

    def contest(contestants, split, terms, seeds, **_):
        for contestant in contestants[:2]:
            made[contestant.name] = contestant.make(split, contestant.rates[0], 0).network.config
        ends = {"attention only": 1.0 + lost, "with FFN": 1.0}
        return [run_of([(100, 100, 100.0, ends.get(c.name, 1.5))], c.name, seed) for seed in seeds for c in contestants]

    monkeypatch.setattr(measured, "run_contest", contest)
    found = reproduce("ablation", tmp_path, text=text, scale=scale, n_seeds=1)
    alone, whole = made["attention only"], made["with FFN"]
    assert (alone.ffn, whole.ffn) == (None, "tables")
    for config in (alone, whole):
        assert (config.n_neurons, config.n_heads, config.n_position_bits, config.context) == (16, 1, 4, 32)
        sizes = (config.n_layers, config.n_tables, config.n_comparisons, config.window)
        assert sizes == ((6, 10, 6, 32) if scale == "full" else (2, 16, 4, 8))
    assert found.findings[0].verdict == verdict
    assert "{} layers, {} tables of {} comparisons, window {}".format(*sizes) in found.findings[0].note


@pytest.mark.usefixtures("quick")
def test_bits_stand_beside_all_that_is_published(text, tmp_path):
    found = reproduce("table2", tmp_path, text=text, n_seeds=1)
    assert {f.published for f in found.findings} == {"1.39", "0.99"}
    (note,) = (f.note for f in found.findings if "recurrent small, all" in f.claim)
    assert (
        note
        == "published beside it, of 2016: MI-LSTM (17M) 1.44, mLSTM (10M) 1.40, BN LSTM (16M) 1.36, HM-LSTM (35M) 1.32"
    )
    for kind, preset in (("recurrent", "small"), ("transformer", "paper-small")):
        (outcome,) = (o for o in found.measured["outcomes"] if o["name"] == f"{kind} {preset}")
        (bits,) = found.measured[f"{kind} {preset}, all positions"]
        assert bits == pytest.approx(outcome["points"][-1][3] / math.log(2))


def test_bad_input_is_named(tmp_path, text):
    with pytest.raises(InputError, match="ITEM must be one of"):
        reproduce("fig99", tmp_path)
    with pytest.raises(InputError, match="--scale must be one of small, full"):
        reproduce("table2", tmp_path, text=text, scale="huge")
    with pytest.raises(InputError, match="no such file"):
        reproduce("table2", tmp_path, text=tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        reproduce("table3", tmp_path / "file")
    with files_limited_to(0), pytest.raises(InputError, match="cannot write"):
        reproduce("table3", tmp_path / "full")
    assert list((tmp_path / "full").iterdir()) == []
    with pytest.raises(ValueError, match="verdict must be one of"):
        Finding("a", "b", "c", "maybe")
