from __future__ import annotations

import json

import pytest

import rewiring
from polychron.training import rewiring as rule


def test_both_kinds_are_measured_once_and_not_again(tmp_path, monkeypatch, capsys):
    text, results = tmp_path / "sheep.txt", tmp_path / "results.jsonl"
    text.write_text("".join(f"In field {n % 7} there are {n % 13} sheep.\n" for n in range(700)))
    monkeypatch.setattr(rule, "SAMPLE_POSITIONS", 4096)
    arguments = ["rewiring.py", text, "--bytes", 45_000, "--every", 4, "--seeds", 1, "--results", results]
    monkeypatch.setattr("sys.argv", [*map(str, arguments)])
    rewiring.main()
    out = capsys.readouterr().out
    never, often = map(json.loads, results.read_text().splitlines())
    assert (never["every"], often["every"]) == (None, 4)
    assert never["replaced"] == 0 < often["replaced"]
    assert f"{never['held_out'] - often['held_out']:+.4f}" in out
    assert never["held_out"] != pytest.approx(often["held_out"], abs=1e-9)
    rewiring.main()
    assert capsys.readouterr().out in out
