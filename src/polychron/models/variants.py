"""A configuration with another hash, reading, gradient or anchors: what one option of the command line changes."""

from __future__ import annotations

import dataclasses
from typing import Any

from polychron.errors import InputError
from polychron.models.config import TableConfig

_COMPARISONS = ("n_comparisons", "readout_n_comparisons")


def with_variant(config: TableConfig, **options: Any) -> TableConfig:
    """The configuration with the options that are not None; for bins with as many comparisons as keep tables no larger.

    Args:
        config: of any kind of model.
        options: hash, reading, gradient, n_bins, anchors, table_type, and of a delay model max_delay.

    Raises:
        InputError: an unknown value, values that do not go together, or an option that the model does not have.

    Example:
        >>> from polychron.models import DelayConfig
        >>> bins = with_variant(DelayConfig(vocabulary_size=83), hash="bins")
        >>> bins.n_bins, bins.n_comparisons   # 3^6 = 729 rows a table in place of 2^10
        (3, 6)
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "n_bins" in given and given.get("hash", config.hash) != "bins":
        raise InputError(f"a number of bins goes with hash bins; the hash is {given.get('hash', config.hash)}")
    if "max_delay" in given and not hasattr(config, "max_delay"):
        raise InputError(f"a longest delay is the delay model's; the model is {config.kind}")
    if given.get("hash") == "bins":
        n_bins = given.get("n_bins", config.n_bins)
        if n_bins < 2:
            raise InputError(f"a comparison has at least 2 bins; got {n_bins}")
        for name in _COMPARISONS:
            if hasattr(config, name):
                given[name] = _comparisons_for(n_bins, 1 << getattr(config, name))
    others = {"hash", "reading", "gradient"} & given.keys()
    if "table_type" not in given and others:  # variants have tables of float32 only
        given["table_type"] = "float32"
    return dataclasses.replace(config, **given)


def _comparisons_for(n_bins: int, most_rows: int) -> int:
    """The most comparisons that give a table no more rows, and at least one.

    Example:
        >>> [_comparisons_for(m, 1024) for m in (2, 3, 4, 2000)]
        [10, 6, 5, 1]
    """
    n_comparisons = 1
    while n_bins ** (n_comparisons + 1) <= most_rows:
        n_comparisons += 1
    return n_comparisons
