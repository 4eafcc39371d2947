"""Every number of comparisons is timed, told and drawn."""

from __future__ import annotations

import json

import comparisons_cost


def test_small_layers_are_timed_and_drawn(tmp_path, capsys, monkeypatch):
    path, picture = tmp_path / "cost.json", tmp_path / "cost.png"
    sizes = ["--n", "8", "--tables", "3", "--most", "4", "--batch", "16", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["comparisons_cost.py", *sizes, "--json", str(path), "--png", str(picture)])
    assert comparisons_cost.main() == 0
    points = json.loads(path.read_text())["points"]
    assert [p["table_bytes"] for p in points] == [3 * 8 * 4 << n_c for n_c in (1, 2, 3, 4)]
    assert all(p["seconds"][name]["median"] > 0 for p in points for name in comparisons_cost.PASSES)
    assert picture.stat().st_size > 0
    assert capsys.readouterr().out.count("| L1 |") in (0, 4)  # the machine may hide its caches
