"""A word about a model whose run was stopped: it has less than the run will give it."""

from __future__ import annotations

import os
import sys
from typing import Any

from polychron.errors import InputError
from polychron.storage import read_config


def note_unfinished(directory: str | os.PathLike[str]) -> None:
    """Says on standard error if the run in a folder counts contexts that its model does not have yet.

    Of what is no folder of a model nothing is said here: whoever opens it does.
    """
    try:
        fields, _ = read_config(directory, None)
    except InputError:
        return
    training, metrics = (_section(fields, name) for name in ("training", "metrics"))
    if training.get("contexts") and metrics.get("readout_scale") is None:
        print(
            f"note: the run in {directory} was stopped before its end, at which its model gets its counted contexts; "
            "until then it has trained tables alone, and is worse than the validation losses that were shown",
            file=sys.stderr,
        )


def _section(fields: dict[str, Any], name: str) -> dict[str, Any]:
    found = fields.get(name)
    return found if isinstance(found, dict) else {}
