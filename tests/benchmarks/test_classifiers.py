from __future__ import annotations

import json

import pytest

import classifiers


@pytest.fixture
def sensor_set(tmp_path):
    """Lines of seven numbers, and a label that the first two tell."""
    noise = (11, 13, 5, 2, 17)
    lines = [
        ",".join(map(str, (100 * (k % 3), 100 * ((k + 1) % 3), *(k % n for n in noise), k % 3))) for k in range(120)
    ]
    path = tmp_path / "sensor.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_both_networks_learn_a_set_and_what_was_run_is_not_run_again(sensor_set, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    arguments = [str(sensor_set), "--seconds", "0.8", "--seeds", "2", "--width", "32", "--results", str(results)]
    classifiers.main(arguments)
    table = capsys.readouterr().out
    assert "| deep tiny |" in table
    assert "| dense MLP, 2 x 32 |" in table
    kept = [json.loads(line) for line in results.read_text().splitlines()]
    assert [run["seed"] for run in kept] == ["tuning", 0, 1] * 2
    assert all(run["accuracy"] > 0.6 for run in kept if run["seed"] != "tuning")  # a third by guessing

    before = results.read_text()
    classifiers.main(arguments)
    assert results.read_text() == before
