"""The scripts under examples/, run as a reader runs them."""

from __future__ import annotations

import doctest
import gzip
import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_edge_detectors_read_the_row_of_the_patch():
    edges = load("edge_detectors")
    assert doctest.testmod(edges).failed == 0
    picture = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    found = edges.addresses(picture, threshold=0.4)
    for y in range(5):
        for x in range(7):
            bits = [picture[y + r // 3, x + r % 3] > 0.4 for r in range(9)]
            assert found[y, x] == sum(bool(bit) << r for r, bit in enumerate(bits))


def test_edge_detectors_draw_and_count(tmp_path):
    done = run(EXAMPLES / "edge_detectors.py", tmp_path / "edges.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "edges.png").read_bytes().startswith(b"\x89PNG")
    assert "neuron   7 (000000111, bright above)" in done.stdout


def test_edge_detectors_read_a_picture_and_refuse_what_is_none(tmp_path, capsys):
    from PIL import Image

    edges = load("edge_detectors")
    picture = np.zeros((12, 12), dtype=np.uint8)
    picture[:6] = 255
    Image.fromarray(picture).save(tmp_path / "half.png")
    edges.main([str(tmp_path / "edges.svg"), "--picture", str(tmp_path / "half.png")])
    assert "neuron   7 (000000111, bright above): 10 of 100 patches" in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        edges.main([str(tmp_path / "edges.svg"), "--picture", __file__])
    assert refused.value.code == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_reader_of_hapt_runs_nothing_that_a_pickle_names(tmp_path):
    hapt = load("hapt_from_package")

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    path = tmp_path / "evil.gz"
    path.write_bytes(gzip.compress(pickle.dumps(Evil(), protocol=2)))
    with gzip.open(path) as file, pytest.raises(pickle.UnpicklingError, match="which no table of signals needs"):
        hapt.InertUnpickler(file).load()
    assert not (tmp_path / "touched").exists()


def test_arrays_of_hapt_are_read_from_their_state():
    hapt = load("hapt_from_package")
    numbers = np.arange(6.0).reshape(2, 3)
    stored, kind = hapt.Inert(), hapt.Inert("f8", 0, 1)
    kind.state = (3, "<", None, None, None, -1, -1, 0)
    stored.state = (1, (2, 3), kind, True, numpy_bytes(numbers))
    assert np.array_equal(hapt.array(stored), numbers)
    with pytest.raises(pickle.UnpicklingError, match="latin1"):
        hapt.encode("x", "utf-7")


def numpy_bytes(numbers: np.ndarray) -> bytes:
    return numbers.tobytes(order="F")
