from __future__ import annotations

import json
import math

import numpy as np
import pytest

import variants
from harness.variant_report import figure_of, highest_drawn, rate_of

QUICK = ["--bytes", "256", "--seconds", "0.01", "--scored-bytes", "200", "--batch", "2", "--length", "8", "--seeds",
         "0", "1"]  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """A data set of its own: idx files of 40 pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 20)):
        labels = (np.arange(n) % 3).astype(np.uint8)
        pixels = (random.integers(0, 80, (n, 8, 8)) + 80 * labels[:, None, None]).astype(np.uint8)
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())
    return folder


def test_a_small_benchmark_of_both_tasks(text_path, images, tmp_path, capsys):
    out = tmp_path / "results"
    arguments = [str(text_path), "--images", str(images), "--examples", "128", "--out", str(out), *QUICK,
                 "--variants", "order", "no delays", "reading soft"]  # fmt: skip
    assert variants.main(arguments) == 0
    assert len(list(out.glob("runs/text/*.json"))) == 3 * 2 * 2
    assert len(list(out.glob("runs/images/*.json"))) == 2 * 2 * 2  # images have no delays
    table = (out / "table.md").read_text()
    assert "| no delays |" in table
    assert "after 0.256 kB" in table
    assert "±" in table
    assert (out / "variants.png").read_bytes().startswith(b"\x89PNG")
    tuned = json.loads(next(out.glob("tuning/text/*.json")).read_text())
    steps = math.log2(tuned["rate"] / variants.TEXT_RATE)
    assert steps == round(steps)  # the usual one, halved or doubled

    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*.json")}
    assert variants.main([*arguments, "--resume"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*.json")}
    capsys.readouterr()
    assert variants.main([*arguments, "--resume", "--bytes", "512"]) == 2
    assert "are about bytes 256, not 512" in capsys.readouterr().err


def test_variants_differ_from_the_default_by_their_options_alone():
    base = variants.DelayConfig(vocabulary_size=20, **variants.DELAY)
    made = [variants.with_variant(base, **options) for options in variants.VARIANTS.values()]
    assert [config.is_native for config in made].count(True) == 4
    assert len({tuple(sorted(map(str, config.to_dict().items()))) for config in made}) == len(made) - 1  # random twice


def test_a_figure_says_how_many_seeds_it_rests_on():
    assert figure_of([]) == "-"
    assert figure_of([{"loss": 1.5}]) == "1.5000 (one seed)"
    assert figure_of([{"loss": 1.5}, {"loss": 1.7}]) == "1.6000 ± 0.1000"


def test_a_rate_at_the_edge_of_what_was_tried_shows():
    trials = [[0.01, 2.1], [0.02, 2.0], [0.04, None]]
    assert rate_of(0.02, trials) == "0.02"
    assert rate_of(0.04, trials) == "0.04 (the highest tried)"
    assert rate_of(0.01, trials) == "0.01 (the lowest tried)"
    assert rate_of(0.01, []) == "0.01"


def test_an_outlier_does_not_squeeze_the_picture():
    assert highest_drawn([1.0, 1.1, 1.2, 1.3, 9.0, math.inf]) == 1.3
    assert highest_drawn([1.0, 1.1, 1.2, 1.3]) == 1.3
    assert highest_drawn([2.0]) == 2.0
