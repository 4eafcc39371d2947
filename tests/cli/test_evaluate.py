from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from polychron.training import open_checkpoint

from .conftest import Command


def test_the_held_out_part_costs_what_training_said(polychron: Command, trained: Path):
    done = polychron("evaluate", trained, "--json")
    assert done.code == 0
    (result,) = done.objects
    metrics = open_checkpoint(trained).record.metrics
    assert result["nats_per_byte"] == metrics.val_nats_per_byte
    assert result["bits_per_byte"] == pytest.approx(metrics.val_nats_per_byte / math.log(2))
    assert result["bytes"] == metrics.val_bytes
    assert result["bytes_per_second"] > 0


def test_any_text_can_be_scored_and_unseen_bytes_cost_more(polychron: Command, trained: Path, tmp_path: Path):
    costs = {}
    for name, content in {"known": b"In field 3 there are 9 sheep.\n", "foreign": "Ünbekännt ...".encode()}.items():
        (tmp_path / name).write_bytes(content)
        (result,) = polychron("evaluate", trained, tmp_path / name, "--json").objects
        assert result["bytes"] == len(content) - 1
        costs[name] = result["nats_per_byte"]
    assert costs["known"] < 2 < costs["foreign"]


def test_a_person_sees_both_units(polychron: Command, trained: Path):
    done = polychron("evaluate", trained)
    assert done.code == 0
    assert "nats/byte = " in done.out
    assert "bits/byte" in done.out
    assert "the held-out part of" in done.out
    assert "\x1b" not in done.out


def test_a_text_is_named_as_seen_from_here(polychron: Command, trained: Path, text: Path, monkeypatch):
    assert f"the held-out part of {text}, " in polychron("evaluate", trained).out
    monkeypatch.chdir(text.parent)
    assert f"the held-out part of {text.name}, " in polychron("evaluate", trained).out


def test_bad_input_is_one_clear_line(polychron: Command, trained: Path, tmp_path: Path):
    (tmp_path / "one").write_text("x")
    (tmp_path / "foreign").mkdir()
    truncated = Path(shutil.copytree(trained, tmp_path / "truncated"))
    for path in truncated.glob("weights-*"):
        path.write_bytes(path.read_bytes()[:-1])
    for arguments, message in [
        (["nowhere"], "nowhere does not exist"),
        ([trained, "--adapt", 0], "--adapt must be positive and finite; got 0"),
        ([trained, "--adapt", "nan"], "--adapt must be positive and finite; got nan"),
        ([tmp_path / "foreign"], "has no checkpoint"),
        ([truncated], "truncated"),
        ([trained, "nowhere.txt"], "no such file"),
        ([trained, tmp_path / "one"], "too short: at least 2 bytes are needed; got 1"),
        ([], "DIR"),
    ]:
        refused = polychron("evaluate", *arguments)
        assert refused.code == 2
        assert refused.out == ""
        assert refused.err.startswith("error: ")
        assert refused.err.count("\n") == 1
        assert message in refused.err
