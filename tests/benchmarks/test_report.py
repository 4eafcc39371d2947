from __future__ import annotations

import pytest
from PIL import Image

from harness.ours import curve_of
from harness.plots import draw
from harness.report import markdown
from harness.results import OURS, Result
from harness.summary import best_twin, frontier, means_of, time_to

ABOUT = {"text": "sheep", "sha256": "ab" * 32, "bytes": 1000, "held_out": 100, "threads": 2, "machine": "an abacus"}


def run(model: str, budget: float | None, seed: int | None, nats: float, **fields) -> Result:
    return Result(model, budget, seed, nats, 99, budget or 2.0, int(1000 * (budget or 1)), **fields)


OUR_COST = {"parameters": 10, "operations": 5e3, "bytes_touched": 2e4, "training_operations": 1e4}
GRU_COST = {"parameters": 20, "operations": 5e5, "bytes_touched": 8e5, "training_operations": 1e6}
RESULTS = [
    *(run(OURS, 10, seed, 2.0 + 0.01 * seed, **OUR_COST) for seed in (0, 1)),
    *(run(OURS, 40, seed, 1.5 + 0.01 * seed, curve=[(20, 20_000, 1.7)], **OUR_COST) for seed in (0, 1)),
    *(run("gru", 40, seed, 1.75 + 0.02 * seed, curve=[(20, 20_000, 2.1)], **GRU_COST) for seed in (0, 1)),
    run("mlp", 40, 0, 1.9),
    run("gru-counted", 40, 0, 1.6),  # better, with our tables
    run("PPMd, order 4", None, None, 1.2),
    run("PPMd, order 5", None, None, 1.1),
]


def test_means_are_over_seeds():
    means = {(mean.model, mean.budget): mean for mean in means_of(RESULTS)}
    assert means[OURS, 10].nats_per_byte == pytest.approx(2.005)
    assert means[OURS, 10].spread == pytest.approx(0.005)
    assert means["mlp", 40].of("operations") is None
    assert best_twin(means.values(), 40).model == "gru"
    assert best_twin(means.values(), 10) is None


def test_time_to_a_loss():
    budgets = frontier(means_of(RESULTS), OURS)  # 2.005 after 10 s, 1.505 after 40 s
    assert time_to(1.755, budgets).seconds == pytest.approx(20)  # half way, in the logarithm
    assert time_to(1.505, budgets).seconds == pytest.approx(40)
    assert time_to(2.5, budgets).seconds == 10
    assert time_to(2.5, budgets).at_most
    assert time_to(1.4, budgets).seconds is None


def test_the_tables_hold_the_figures():
    trial = {"rate": 0.01, "dropout": 0.0, "nats_per_byte": 1.7}
    tuning = {
        "settings": {"rate": 0.01, "dropout": 0.0, "compiled": True},
        "trials": [trial, {**trial, "rate": 0.02, "nats_per_byte": None}],
        "trial_seconds": 3.0,
        "eager_bytes_per_second": 1000.0,
        "compiled_bytes_per_second": 2000.0,
    }
    page = markdown(ABOUT, RESULTS, {"gru-40s": tuning})
    assert "| polychron | **2.0050** ± 0.0050 | **1.5050** ± 0.0050 |" in page
    assert "| gru |  | 1.7600 ± 0.0100 |" in page
    assert "| mlp |  | 1.9000 (1 seed) |" in page
    assert "| PPMd, order 5 | 1.1000 |" in page
    # The GRU's 1.76 is reached on the line from (10 s, 2.005) to (40 s, 1.505): 10 * 4^0.49 s.
    assert "| gru | 40 s | 1.7600 | polychron | 19.7 s | 2.03 | 100 times fewer | 40 times fewer |" in page
    assert "| polychron | 40 s | 1.5050 | gru | not in 40 s (1.7600) |" in page
    assert "0.01: 1.700; 0.02: diverged" in page


def test_a_folder_with_references_alone_has_a_page(tmp_path):
    assert "Nothing measured yet" in markdown(ABOUT, RESULTS[-2:], {})
    assert draw(ABOUT, RESULTS[-2:], tmp_path) == []


def test_one_point_is_a_picture(tmp_path):
    assert all(path.exists() for path in draw(ABOUT, RESULTS[:1], tmp_path))


def test_pictures_show_something(tmp_path):
    for path in draw(ABOUT, RESULTS, tmp_path):
        with Image.open(path) as image:
            assert image.width > 1000
            colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
        assert (0xD5, 0x5E, 0x00) in colours  # ours
        assert (0x00, 0x72, 0xB2) in colours  # the first twin


def test_our_curve_takes_its_time_from_the_step_before():
    events = [
        {"event": "start"},
        {"event": "training", "train_seconds": 1.0, "train_bytes": 10},
        {"event": "validation", "val_nats_per_byte": 2.0},
        {"event": "training", "train_seconds": 2.0, "train_bytes": 20},
        {"event": "result"},
    ]
    assert curve_of(events) == [(1.0, 10, 2.0)]
