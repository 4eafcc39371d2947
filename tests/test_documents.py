"""What documents show in Python runs as it stands, and what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from polychron.cli import main

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = {"README.md": 1, "training.md": 3}  # pieces of Python, each of which goes on where the one before it ends


def blocks_of(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", [ROOT / "README.md", ROOT / "docs" / "training.md"], ids=lambda path: path.name)
def test_python_runs(document: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("It is a truth universally acknowledged, that a single man in possession\n" * 400)
    options = ["--preset", "tiny", "--contexts", "3", "--batch", "4", "--length", "32", "--steps", "10"]
    assert main(["train", "book.txt", *options, "--out", "runs/book"]) == 0
    blocks = blocks_of(document)
    assert len(blocks) == SHOWN[document.name]
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, document.name, "exec"), names)
    if document.name == "training.md":
        assert names["logits"].shape[:2] == (1, 38)
        assert names["report"].step == 200


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
