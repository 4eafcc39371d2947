"""`polychron info`."""

from __future__ import annotations

import json

import polychron
from polychron.cli import main


def test_info_names_the_kernel_and_the_pages(capsys):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert polychron.kernel_info()["kernel"] in shown
    assert "huge pages" in shown


def test_info_as_json_is_kernel_info_and_versions(capsys):
    assert main(["info", "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert set(polychron.kernel_info()) | {"polychron", "python", "torch"} == set(fields)
    assert fields["table_bytes"] >= 8 << 20


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == polychron.__version__ + "\n"
