"""``polychron cost DIR --measure TEXT``: what the native kernels did for each byte of a text, beside the prediction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polychron import analysis, runtime
from polychron.analysis.cost import ELEMENT_BYTES, LATENCY_BYTES
from polychron.data import load_corpus
from polychron.models import ModelConfig
from polychron.runtime.counting import LINE_BYTES

_NUMBER_BYTES = 4  # of a latency or an index in the runtime's memory, whatever the tables' type
_COLUMNS = ("comparisons", "joined", "rows", "additions", "row_bytes", "other_bytes")


def measure_cost(directory: Path, config: ModelConfig, text: Path, n_bytes: int) -> dict[str, Any]:
    """Read the beginning of a text with counting kernels: figures a byte, layer by layer, predicted and counted.

    Raises:
        InputError: a text or a model that the runtime cannot read.
    """
    corpus = load_corpus(text, minimum_bytes=2, minimum_distinct=1)
    data = corpus.data[:n_bytes].tobytes()
    cost = analysis.count_cost(config)
    model = runtime.load(directory)
    n_before = max(layer.n_readings for layer in cost.layers if layer.from_cache) if cost.has_attention else 0
    counted = runtime.count_text(model, data, n_before)
    n_counted = len(data) - n_before
    element_bytes = ELEMENT_BYTES[model.precision]
    layers = []
    for layer, counts in zip(cost.layers, counted, strict=True):
        layers.append({
            "layer": layer.name,
            "predicted": {
                "comparisons": layer.comparisons, "joined": 0, "rows": layer.rows, "additions": layer.additions,
                "row_bytes": layer.row_bytes(element_bytes),
                "other_bytes": layer.latency_bytes(_NUMBER_BYTES) + layer.place_bytes,
            },
            "counted": {
                "comparisons": counts.comparisons / n_counted,
                "joined": counts.joined / n_counted,
                "rows": counts.rows / n_counted,
                "additions": counts.additions / n_counted,
                "row_bytes": counts.row_bytes / n_counted,
                "other_bytes": (
                    counts.latency_bytes + counts.place_bytes + _NUMBER_BYTES * (counts.joined + counts.keys)
                ) / n_counted,
            },
            "row_lines": counts.row_lines / n_counted,
            "distinct_rows": counts.distinct_rows,
            "n_rows": layer.n_rows,
        })  # fmt: skip
    return {"text": corpus.name, "bytes": n_counted, "element": model.precision, "layers": layers}


def measured_lines(measured: dict[str, Any]) -> Iterator[str]:
    """The figures for people, and why some differ."""
    layers = measured["layers"]
    read = f"{measured['bytes']:,} bytes of {measured['text']}"
    yield f"counted by the kernels, a mean over {read}, {measured['element']}"
    yield f"  {'':26}" + "".join(f"{name.replace('_', ' '):>13}" for name in _COLUMNS) + f"{'lines of rows':>15}"
    for layer in [*layers, _together(layers)]:
        for of in ("predicted", "counted"):
            cells = "".join(f"{_number(layer[of][column]):>13}" for column in _COLUMNS)
            lines = f"{_number(layer['row_lines']):>15}" if of == "counted" else ""
            yield f"  {layer['layer'] if of == 'predicted' else '':16}{of:10}{cells}{lines}"
    distinct, n_rows = (sum(layer[name] for layer in layers) for name in ("distinct_rows", "n_rows"))
    yield f"  {distinct:,} of {n_rows:,} rows were read at least once; a line is {LINE_BYTES} bytes of the cache"
    latency_bytes = LATENCY_BYTES[measured["element"]]
    if latency_bytes != _NUMBER_BYTES:
        yield (
            f"  other bytes: a latency takes {_NUMBER_BYTES} in the runtime's memory; latency bytes above are of "
            f"{latency_bytes} each"
        )
    if any(layer["counted"]["joined"] for layer in layers):
        yield "  joined: where a layer reads the embedding, bits that follow from the last bytes, listed at loading"
    if layers[-1]["layer"].startswith("contexts"):
        yield "  contexts: rows hold only what followed, and are read as far as the text's contexts were met"
    if any(layer["counted"]["additions"] > layer["predicted"]["additions"] for layer in layers):
        yield "  additions beyond the prediction fill rows up to whole registers"


def _together(layers: list[dict[str, Any]]) -> dict[str, Any]:
    sums = {
        of: {name: sum(layer[of][name] for layer in layers) for name in _COLUMNS} for of in ("predicted", "counted")
    }
    return {"layer": "together", **sums, "row_lines": sum(layer["row_lines"] for layer in layers)}


def _number(x: float) -> str:
    """A mean; without a fraction where it has none.

    Example:
        >>> _number(1312.0), _number(0.25)
        ('1,312', '0.2')
    """
    return f"{x:,.0f}" if x == round(x) else f"{x:,.1f}"
