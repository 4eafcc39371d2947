from __future__ import annotations

import json

import pytest

from harness.results import Result, ResultFolder, read_results
from polychron.errors import InputError

ABOUT = {"text": "sheep", "sha256": "ab", "threads": 2}
RESULT = Result("gru", 1.0, 0, 2.5, 99, 1.01, 4000, curve=[(0.5, 2000, 3.0)])


def test_a_run_is_made_once(tmp_path):
    folder = ResultFolder(tmp_path / "out", ABOUT, resume=False)
    assert not folder.has("gru")
    assert folder.run_once("gru", lambda: RESULT) == RESULT
    assert folder.has("gru")
    again = ResultFolder(tmp_path / "out", ABOUT, resume=True)
    assert again.run_once("gru", lambda: pytest.fail("made twice")) == RESULT
    about, results, tunings = read_results(tmp_path / "out")
    assert (about, results, tunings) == (ABOUT, [RESULT], {})


def test_a_run_that_fails_leaves_nothing(tmp_path):
    folder = ResultFolder(tmp_path, ABOUT, resume=False)
    with pytest.raises(ZeroDivisionError):
        folder.run_once("gru", lambda: 1 / 0)
    assert not folder.has("gru")


def test_a_folder_in_use_is_not_mixed_up(tmp_path):
    ResultFolder(tmp_path, ABOUT, resume=False)
    with pytest.raises(InputError, match="is not empty: add --resume"):
        ResultFolder(tmp_path, ABOUT, resume=False)
    with pytest.raises(InputError, match="are about threads 2, not 3"):
        ResultFolder(tmp_path, {**ABOUT, "threads": 3}, resume=True)
    with pytest.raises(InputError, match="is not a folder"):
        ResultFolder(tmp_path / "about.json", ABOUT, resume=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"curve": [], "colour": 1}'])
def test_a_broken_file_is_named(tmp_path, content: str):
    folder = ResultFolder(tmp_path, ABOUT, resume=False)
    folder.run_once("gru", lambda: RESULT)
    (tmp_path / "runs" / "gru.json").write_text(content)
    with pytest.raises(InputError, match=r"gru\.json"):
        read_results(tmp_path)


def test_a_folder_without_runs_is_an_error(tmp_path):
    (tmp_path / "about.json").write_text(json.dumps(ABOUT))
    with pytest.raises(InputError, match="holds no results"):
        read_results(tmp_path)
