from pathlib import Path

import pytest

from polychron.analysis.files import written_beside
from polychron.errors import InputError


def write(path: Path, content: bytes, *, to_the_end: bool = True) -> None:
    with written_beside(path) as scratch:
        scratch.write_bytes(content)
        if not to_the_end:
            raise KeyboardInterrupt


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "file"
    with pytest.raises(KeyboardInterrupt):
        write(path, b"half", to_the_end=False)
    assert list(tmp_path.iterdir()) == []
    write(path, b"whole")
    assert [(found, found.read_bytes()) for found in tmp_path.iterdir()] == [(path, b"whole")]


@pytest.mark.parametrize(("name", "reason"), [("", "it is a folder"), ("x" * 300, "File name too long")])
def test_what_cannot_be_written_is_refused(name: str, reason: str, tmp_path: Path):
    with pytest.raises(InputError, match=f"cannot write .*: {reason}"):
        write(tmp_path / name, b"nothing")
