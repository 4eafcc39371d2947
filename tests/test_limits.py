from __future__ import annotations

from pathlib import Path

import pytest

from polychron import limits
from polychron.errors import InputError


def test_memory_is_known_here_and_is_the_smallest_of_the_limits(monkeypatch):
    assert limits.available_memory() > 2**20
    monkeypatch.setattr(limits, "_machine_memory", lambda: 900)
    monkeypatch.setattr(limits, "_control_group_memory", lambda: 700)
    assert limits.available_memory() == 700
    monkeypatch.setattr(limits, "_control_group_memory", lambda: None)
    assert limits.available_memory() == 900


def test_a_containers_limit_counts_what_cannot_be_given_back(tmp_path: Path):
    assert limits._control_group_memory(tmp_path) is None
    (tmp_path / "memory.stat").write_text("anon 300\nfile 5000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert limits._control_group_memory(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert limits._control_group_memory(tmp_path) == 700


def test_what_does_not_fit_is_refused_and_the_unknown_is_tried(monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 1_000)
    limits.require_memory(1_000, "the tables", "none needed")
    with pytest.raises(InputError, match=r"the tables need 1\.0 kB of memory and 1\.0 kB are available: take less"):
        limits.require_memory(1_001, "the tables", "take less")
    monkeypatch.setattr(limits, "available_memory", lambda: None)
    limits.require_memory(2**60, "the tables", "take less")
