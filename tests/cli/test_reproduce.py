from __future__ import annotations

from pathlib import Path

from .conftest import Command


def test_a_table_is_printed_and_written(polychron: Command):
    done = polychron("reproduce", "table4")
    assert done.code == 0
    assert "published 172,800, ours 172,800" in done.out
    assert "not confirmed: 8,738 of the constant terms alone" in done.out
    assert sorted(path.name for path in Path("reproduction").iterdir()) == ["table4.json", "table4.md"]


def test_a_measured_item_for_a_program(polychron: Command, text: Path):
    done = polychron("reproduce", "ablation", "--text", text, "--bytes", 2048, "--seeds", 1, "--out", "here", "--json")
    assert done.code == 0, done.err
    (result,) = done.objects
    assert result["setting"]["bytes_trained_on"] == 2048
    assert "(one seed)" in result["findings"][0]["ours"]
    assert [Path(file).exists() for file in result["files"]] == [True] * 3


def test_without_matplotlib_everything_but_the_picture_is_written(polychron: Command, monkeypatch):
    monkeypatch.setattr("polychron.analysis.plots.can_draw", lambda: False)
    done = polychron("reproduce", "fig3")
    assert done.code == 0
    assert "no picture: a plot needs a package" in done.err
    assert "pip install 'polychron[plots]'" in done.err
    assert sorted(path.name for path in Path("reproduction").iterdir()) == ["fig3.json", "fig3.md"]


def test_bad_input_is_one_clear_line(polychron: Command):
    for arguments in (["fig99"], ["bpc"], ["table2", "--text", "nowhere"], ["table2", "--seeds", 0]):
        refused = polychron("reproduce", *arguments)
        assert refused.code == 2
        assert refused.err.startswith("error: ")
