from __future__ import annotations

import json

import numpy as np
import pytest

import ferns


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(arguments...) -> results by way, and the results file's name is added."""

    def call(*arguments):
        results = tmp_path / "results.jsonl"
        monkeypatch.setattr("sys.argv", ["ferns.py", *map(str, arguments), "--results", str(results), "--seeds", "1"])
        ferns.main()
        return {line["way"]: line for line in map(json.loads, results.read_text().splitlines())}

    return call


def test_a_text_is_counted_and_trained(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ferns, "CALIBRATION_BYTES", 2000)
    text = tmp_path / "sheep.txt"
    text.write_text("".join(f"In field {n % 7} there are {n % 13} sheep.\n" for n in range(700)))
    arguments = ("--text", text, "--bytes", 40_000, "--tables", 8, "--comparisons", 6)
    results = run(*arguments)
    assert results["counted"]["nats"] < 1.5  # ln 25 = 3.2
    assert results["trained"]["nats"] < 1.5
    assert results["counted"]["smoothing"] in ferns.SMOOTHINGS
    assert f"| sheep | counted |  | {results['counted']['nats']:.4f} ± 0.0000 |" in capsys.readouterr().out
    assert run(*arguments) == results


def test_examples_are_counted_and_trained(run, tmp_path):
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (400, 9))
    path = tmp_path / "set.csv"
    path.write_text("".join(",".join(map(str, [*one, int(one[0] > one[1])])) + "\n" for one in inputs.tolist()))
    results = run("--data", path, "--passes", 12)
    assert results["counted"]["accuracy"] > 0.8
    assert results["trained"]["accuracy"] > 0.8
