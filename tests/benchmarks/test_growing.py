from __future__ import annotations

import json

import pytest

import growing


@pytest.fixture
def texts(tmp_path):
    paths = tmp_path / "sheep.txt", tmp_path / "code.txt"
    paths[0].write_text("".join(f"In field {n % 7} there are {n % 13} sheep.\n" for n in range(700)))
    paths[1].write_text("".join(f"x[{n % 9}] = {{{n * 7 % 13}}};\n" for n in range(1000)))
    return paths


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["growing.py", *map(str, arguments)])
    growing.main()


def test_every_way_is_measured_once_and_not_again(texts, tmp_path, monkeypatch, capsys):
    results = tmp_path / "results.jsonl"
    arguments = [*texts, "--first-bytes", 40_000, "--bytes", 8_200, "--tables", 2, "--seeds", 1, "--results", results]
    run(monkeypatch, *arguments)
    out = capsys.readouterr().out
    measured = {line["way"]: line for line in map(json.loads, results.read_text().splitlines())}
    assert list(measured) == ["before", *growing.ways(2)]
    before = measured.pop("before")
    for name, line in measured.items():
        assert line["second"] < before["second"]
        assert f"| {name} | {line['parameters']:,} |" in out
        assert (line["parameters"] > before["parameters"]) == ("added" in name)
    run(monkeypatch, *arguments)
    again = capsys.readouterr().out
    assert again.startswith("\nsheep, then code")
    assert again in out
