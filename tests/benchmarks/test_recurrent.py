from __future__ import annotations

import recurrent
from polychron.twins.gru import GRU


def test_a_gru_of_equal_size_has_as_many_parameters():
    for n_parameters in (20_000, 860_000, 5_000_000):
        width = recurrent.width_of_size(n_parameters, 82)
        counted = recurrent.gru_parameters(width, 82)
        assert counted == GRU(82, width, recurrent.EMBEDDING, length=32).n_parameters()
        assert abs(counted - n_parameters) <= 3 * (2 * width + 1 + recurrent.EMBEDDING)


def test_a_small_contest(text_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recurrent, "width_of_size", lambda n_parameters, vocabulary_size: 20)
    monkeypatch.setattr(recurrent, "USUAL_WIDTH", 24)
    arguments = [str(text_path), "--out", str(tmp_path / "out"), "--seconds", "0.05", "--trial-seconds", "0.02",
                 "--scored-bytes", "300", "--batch", "4", "--seeds", "0", "1"]  # fmt: skip
    assert recurrent.main(arguments) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| recurrent tables, small |" in table
    assert "| GRU of equal size, 20 units |" in table
    assert table.count("±") == 4
    capsys.readouterr()
    assert recurrent.main(arguments) == 2
    assert "is not empty: add --resume" in capsys.readouterr().err
    assert recurrent.main([*arguments, "--resume"]) == 0


def test_the_published_setting_is_a_preset(split):
    ours, *_ = recurrent.contestants(split, "paper", batch=2)
    assert ours.name == "recurrent tables, paper"
    n_parameters = ours.make(split, 0.01, 0).n_parameters
    assert 4_194_304 < n_parameters < 6_000_000
