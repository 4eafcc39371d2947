from __future__ import annotations

import hashlib
import os
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from polychron.data import corpus as corpus_module
from polychron.data import load_corpus
from polychron.data.corpus import STANDARD_LIBRARY_LIMIT, byte_counts
from polychron.errors import InputError

PROSE = b"It is a truth universally acknowledged. " * 40


def test_a_file_is_taken_byte_by_byte(tmp_path: Path):
    content = bytes(range(256)) * 8
    (tmp_path / "Emma, vol. 1.txt").write_bytes(content)
    corpus = load_corpus(tmp_path / "Emma, vol. 1.txt")
    assert corpus.data.tobytes() == content
    assert corpus.data.dtype == np.uint8
    assert corpus.sha256 == hashlib.sha256(content).hexdigest()
    assert corpus.name == "Emma--vol--1"
    assert corpus.path == str(tmp_path / "Emma, vol. 1.txt")
    assert "2,048 bytes" in corpus.source


def test_nothing_writes_into_a_corpus(tmp_path: Path):
    (tmp_path / "a").write_bytes(PROSE)
    with pytest.raises(ValueError, match="read-only"):
        load_corpus(tmp_path / "a").data[0] = 1


def test_a_folder_gives_its_text_files_sorted_by_path_and_nothing_else(tmp_path: Path):
    folder = tmp_path / "shelf"
    for name, content in {
        "b.txt": b"second",
        "a/z.txt": b"first",
        "B.txt": b"capitals come before",
        "binary": b"a\0b",
        ".hidden": b"hidden",
        ".git/config": b"hidden folder",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder)
    corpus = load_corpus(folder, minimum_bytes=1)
    assert corpus.data.tobytes() == b"capitals come before\nfirst\nsecond"
    assert corpus.name == "shelf"


def test_a_checkpoint_in_a_folder_is_left_out_and_another_programs_config_is_not(tmp_path: Path):
    checkpoint, other = b'{"format": "polychron", "version": 1}', b'{"format": "other"}'
    for name, content in {
        "config.json": checkpoint,
        "runs/a/config.json": checkpoint,
        "runs/newer/config.json": b'{"format": "polychron", "version": 99}',
        "runs/a/notes.txt": b"of the run",
        "other/config.json": other,
        "text": b"text",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert load_corpus(tmp_path, minimum_bytes=1).data.tobytes() == other + b"\ntext"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_in_a_folder_is_left_out_and_alone_is_refused(tmp_path: Path):
    (tmp_path / "a").write_bytes(PROSE)
    (tmp_path / "b").write_bytes(PROSE)
    (tmp_path / "b").chmod(0)
    assert load_corpus(tmp_path).data.tobytes() == PROSE
    with pytest.raises(InputError, match=r"cannot read .*b: Permission denied"):
        load_corpus(tmp_path / "b")


def test_the_standard_library_is_python_without_its_tests():
    corpus = load_corpus()
    again = load_corpus()
    assert corpus.sha256 == again.sha256
    assert corpus.path is None
    assert corpus.name == "stdlib"
    assert 2**20 < corpus.data.size <= STANDARD_LIBRARY_LIMIT
    text = corpus.data.tobytes()
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    assert (stdlib / "argparse.py").read_bytes() in text
    assert b"class TestCase(object):" in text or b"class TestCase:" in text  # unittest is library ...
    tests = [path for path in stdlib.glob("test/test_[ab]*.py") if path.stat().st_size > 10_000]
    assert not any(path.read_bytes() in text for path in tests)  # ... its use is not


def test_the_standard_library_is_cut_at_its_limit_by_files_spread_over_the_alphabet(monkeypatch):
    monkeypatch.setattr(corpus_module, "STANDARD_LIBRARY_LIMIT", 400_000)
    corpus = load_corpus()
    assert 200_000 < corpus.data.size <= 400_000
    assert corpus.sha256 == load_corpus().sha256


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: at least 1,024 bytes"),
        (b"short", "is too short: at least 1,024 bytes are needed; got 5"),
        (b"a" * 5000, "consists of one byte value only .97."),
    ],
)
def test_texts_that_cannot_be_learnt_are_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_corpus(tmp_path / "t")


def test_what_is_no_text_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"no such file or folder: .*nowhere"):
        load_corpus(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no text"):
        load_corpus(tmp_path)
    with pytest.raises(InputError, match="neither a file nor a folder"):
        load_corpus("/dev/zero")
    with pytest.raises(InputError, match="cannot read"):
        load_corpus("a\0b")
    with pytest.raises(InputError, match="cannot read"):
        load_corpus("x" * 10_000)


def test_a_text_larger_than_memory_is_refused_unread(tmp_path: Path):
    huge = tmp_path / "sparse"
    with huge.open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(InputError, match=r"need 13194\.1 GB of memory"):
        load_corpus(huge)


def test_a_file_larger_than_memory_in_a_folder_is_no_text_or_is_refused_unread(tmp_path: Path):
    (tmp_path / "text").write_bytes(PROSE)
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(2**42)
    assert load_corpus(tmp_path).data.tobytes() == PROSE
    with huge.open("r+b") as file:
        file.write(b"a" * 2**20)
    with pytest.raises(InputError, match=r"the bytes of .*huge need 13194\.1 GB of memory"):
        load_corpus(tmp_path)


def test_byte_counts_counts_across_its_pieces():
    data = np.random.default_rng(0).integers(0, 256, 2**20 + 12_345, dtype=np.uint8)
    assert byte_counts(data).tolist() == np.bincount(data, minlength=256).tolist()
