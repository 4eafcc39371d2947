"""The probe reads what it says it reads, on every instruction set; the figures are those of what was run."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

import memory_limit
from memory_limit import Point, caches, draw, measure, small_pages, table
from polychron.analysis import speed
from polychron.ops import available_kernels, use_kernel
from polychron.ops.dispatch import native

pytestmark = pytest.mark.skipif(native is None, reason="the extension is not built")


@pytest.mark.parametrize("kernel", [name for name in available_kernels() if name != "reference"])
@pytest.mark.parametrize("floats", [8, 16, 32, 64, 128, 256])
def test_the_probe_adds_the_rows_it_is_told(kernel: str, floats: int):
    random = np.random.default_rng(floats)
    memory = native.allocate_tables([50, floats], 1)
    memory[:] = random.integers(-4, 5, memory.shape)  # whole numbers: the sum is exact in any order
    for n_reads in (1, 7, 8, 9, 1001):
        rows = random.integers(0, 50, n_reads, dtype=np.int32)
        for distance in (0, 1, 5, n_reads, 3000):
            for threads in (1, 3):
                with use_kernel(kernel):
                    seconds, total = native.read_rows(memory, rows, distance, 2, threads)
                assert total == 2 * memory[rows].sum()
                assert seconds > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": np.array([0, 4], dtype=np.int32)}, r"rows must lie in \[0, 4\); got 4"),
        ({"rows": np.array([-1], dtype=np.int32)}, r"rows must lie in \[0, 4\); got -1"),
        ({"rows": np.empty(0, dtype=np.int32)}, "at least one row"),
        (
            {"memory": native.allocate_tables([4, 24], 1) if native else None},
            "8, 16, 32, 64, 128 or 256 floats; got 24",
        ),
        ({"memory": native.allocate_tables([5, 8], 1)[1:] if native else None}, "64-byte boundary"),
        ({"prefetch_distance": -1}, "prefetch_distance must lie in"),
        ({"n_passes": 0}, "n_passes must be at least 1; got 0"),
        ({"n_threads": 0}, "n_threads must be at least 1; got 0"),
    ],
)
def test_what_cannot_be_read_is_refused(fields: dict, message: str):
    usual = {
        "memory": native.allocate_tables([4, 8], 1),
        "rows": np.zeros(3, dtype=np.int32),
        "prefetch_distance": 0,
        "n_passes": 1,
        "n_threads": 1,
    }
    with pytest.raises(ValueError, match=message):
        native.read_rows(**{**usual, **fields})


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(memory_limit, "CALL_SECONDS", 0.0005)
    monkeypatch.setattr(speed, "_MOST_READS", 1 << 12)


@pytest.mark.parametrize(("row_bytes", "working_set"), [(32, 1 << 15), (1024, 1 << 12), (256, 1 << 22)])
def test_a_point_is_of_what_was_measured(short, row_bytes: int, working_set: int):
    point = measure(row_bytes, working_set, threads=1, rounds=1)
    assert (point.row_bytes, point.working_set) == (row_bytes, working_set)
    assert point.limit >= point.limit_on_small_pages > 1e4
    assert point.kernel > 1e4
    assert point.share == point.kernel / point.limit


def test_small_pages_are_zeros_of_their_own():
    rows = small_pages(64, 16)
    assert rows.shape == (64, 16)
    assert not rows.any()
    assert rows.ctypes.data % 64 == 0


def test_the_command_prints_writes_and_draws(short, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(memory_limit, "QUICK_WORKING_SETS", (1 << 13, 1 << 15))
    figures, picture = tmp_path / "figures.json", tmp_path / "roof.png"
    command = [
        "memory_limit.py",
        "--quick",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--json",
        str(figures),
        "--png",
        str(picture),
    ]
    monkeypatch.setattr(sys, "argv", command)
    assert memory_limit.main() == 0
    points = [Point(**point) for point in json.loads(figures.read_text())["points"]]
    assert [(point.row_bytes, point.working_set) for point in points] == [
        (64, 1 << 13), (64, 1 << 15), (256, 1 << 13), (256, 1 << 15),
    ]  # fmt: skip
    assert table(points) in capsys.readouterr().out
    with Image.open(picture) as image:
        assert image.width > 1000

    monkeypatch.setattr(sys, "argv", ["memory_limit.py", "--threads", "0"])
    assert memory_limit.main() == 2
    assert capsys.readouterr().err == "error: --rounds and --threads must be at least 1\n"


def test_a_picture_needs_no_known_caches(tmp_path):
    points = [Point(64, 1 << bits, 2e8, 0, True, 1e8, 1e8) for bits in (15, 20)]
    draw(points, {}, "a test", tmp_path / "roof.png")
    assert (tmp_path / "roof.png").stat().st_size > 10_000
    assert all(size > 0 for size in caches().values())
