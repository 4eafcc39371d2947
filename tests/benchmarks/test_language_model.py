"""The command, on a real text with real contestants, for a fraction of a second each."""

from __future__ import annotations

import dataclasses
import json

import pytest

import language_model
from harness.plan import Plan
from tests.benchmarks.conftest import TINY


@pytest.fixture(autouse=True)
def tiny_twins(monkeypatch):
    small = dataclasses.replace(TINY["transformer"], name="transformer-small")
    recipes = {"transformer-small": small, "gru": TINY["gru"], "window-mlp": TINY["window-mlp"]}
    monkeypatch.setattr("language_model.RECIPES", recipes)
    monkeypatch.setattr("polychron.twins.tuning.TIMED_SECONDS", 0.03)


def test_a_benchmark_from_text_to_pictures_and_on(text_path, tmp_path, capsys):
    out = tmp_path / "out"
    command = [str(text_path), "--out", str(out), "--budget", "0.2", "--our-budget", "--seeds", "0", "--threads", "1",
               "--ppmd-orders", "4", "--kneser-ney-orders", "3", "--models"]  # fmt: skip
    assert language_model.main([*command, "polychron", "window-mlp", "ppmd", "kneser-ney"]) == 0
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        "about.json", "table.md", "loss-time.png", "loss-cost.png", "tuning/window-mlp-0.2s.json", "runs/ppmd-4.json",
        "runs/kneser-ney-3.json", "runs/polychron-0.2s-seed0.json", "runs/window-mlp-0.2s-seed0.json",
    }  # fmt: skip
    ours = json.loads((out / "runs" / "polychron-0.2s-seed0.json").read_text())
    assert ours["bytes_touched"] > 1000
    assert ours["training_operations"] > ours["operations"] > 1000
    assert ours["conditions"]["torch"]
    assert ours["scored_bytes"] == json.loads((out / "about.json").read_text())["held_out"] - 1
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}

    assert language_model.main([*command, "polychron"]) == 2
    assert "is not empty: add --resume" in capsys.readouterr().err
    assert language_model.main([*command, "polychron", "gru", "window-mlp", "--resume"]) == 0
    after = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    assert {path.name for path in after.keys() - before.keys()} == {"gru-0.2s-seed0.json"}
    assert before.items() <= after.items()

    (out / "table.md").unlink()
    assert language_model.main(["--out", str(out), "--report"]) == 0
    assert "| gru |" in (out / "table.md").read_text()


def test_a_twin_with_our_tables_has_the_plain_twins_settings(text_path, tmp_path):
    out = tmp_path / "out"
    command = [str(text_path), "--out", str(out), "--budget", "0.5", "--our-budget", "--seeds", "0", "--threads", "1"]
    assert language_model.main([*command, "--models", "transformer-small", "transformer-small-counted"]) == 0
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.json")}
    assert names == {
        "about.json", "tuning/transformer-small-0.5s.json", "runs/transformer-small-0.5s-seed0.json",
        "runs/transformer-small-counted-0.5s-seed0.json",
    }  # fmt: skip
    runs = (out / "runs" / f"transformer-small{part}-0.5s-seed0.json" for part in ("", "-counted"))
    alone, counted = (json.loads(run.read_text()) for run in runs)
    assert counted["settings"]["rate"] == alone["settings"]["rate"]
    assert counted["nats_per_byte"] < counted["settings"]["alone_nats_per_byte"]
    assert counted["operations"] > alone["operations"]


def test_what_cannot_be_used_is_one_line(text_path, tmp_path, capsys):
    for words, message in (
        (["--out", str(tmp_path / "a")], "TEXT is missing"),
        (["--out", str(tmp_path / "a"), "--report"], "holds no results"),
        ([str(tmp_path / "none"), "--out", str(tmp_path / "a")], "no such file"),
        ([str(text_path), "--out", str(tmp_path / "a"), "--trial-part", "2"], "--trial-part must be above 0"),
        ([str(text_path), "--out", str(tmp_path / "a"), "--threads", "0"], "--threads must be at least 1"),
    ):
        assert language_model.main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_round_goes_through_all_models(text_path):
    plan = Plan(text_path, (5.0, 2.0), (1.0, 2.0), (0, 1), (1,), 2, ("polychron", "gru", "ppmd"), 0.3, (), ())
    runs = list(plan.runs(references=("ppmd",)))
    assert runs[:2] == [("polychron", 1.0, 0), ("polychron", 1.0, 1)]
    assert runs[2:5] == [("polychron", 2.0, 0), ("polychron", 2.0, 1), ("gru", 2.0, 1)]
    assert len(runs) == 8
    every_seed = list(dataclasses.replace(plan, twin_seeds=(0, 1)).runs(references=("ppmd",)))
    assert every_seed[2:6] == [("polychron", 2.0, 0), ("gru", 2.0, 0), ("polychron", 2.0, 1), ("gru", 2.0, 1)]
