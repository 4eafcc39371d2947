from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from .fuzz import originals, run_case


def test_damaged_models_are_refused_or_run_and_nothing_else(tmp_path: Path):
    models = originals()
    counts = Counter(run_case(models, tmp_path, random.Random(f"test {case}")) for case in range(1500))
    assert counts["refused"] > 300  # the damage is real
    assert counts["run"] > 100  # and does not always stop at the first check
