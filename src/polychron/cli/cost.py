"""``polychron cost``: what a token costs, beside what the paper publishes and what that leaves out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polychron import analysis, models
from polychron.analysis.capacity import power_of_ten
from polychron.analysis.cost import ELEMENT_BYTES, LATENCY_BYTES
from polychron.analysis.energy import TABLE_NAME
from polychron.cli.console import make_console, print_json, say
from polychron.cli.cost_measured import measure_cost, measured_lines
from polychron.errors import InputError
from polychron.limits import format_bytes
from polychron.models.config import TableConfig
from polychron.storage.config_file import LANGUAGE_MODEL, task_of
from polychron.training.checkpoint import open_checkpoint
from polychron.training.classify import open_classifier

_BYTES = 256  # vocabulary of a preset that nobody trained yet
_MEASURED_BYTES = 65_536
_NEURONS = (16, 32, 60, 100, 512)


def run_cost(
    directory: Path | None,
    *,
    model: str | None,
    preset: str | None,
    positions: int,
    element: str | None,
    plot: Path | None,
    measure: Path | None = None,
    n_measured: int | None = None,
    json: bool,
) -> None:
    """Count a checkpoint or a preset; without either, the paper's tables and all presets.

    ``element``: type of the tables' numbers; None: what each model's are.

    ``measure``: a text, of which a checkpoint reads ``n_measured`` bytes, by default 65,536, with kernels that count.
    """
    if directory is not None and (model is not None or preset is not None):
        raise InputError("DIR and --model or --preset exclude each other: a checkpoint says what it is")
    if measure is not None and directory is None:
        raise InputError("--measure counts what a trained model does: give its folder DIR as well")
    if n_measured is not None and measure is None:
        raise InputError("--bytes says how much of a text --measure reads: give --measure TEXT as well")
    if plot is not None:
        analysis.plot_capacity(plot)
    if directory is None and model is None and preset is None:
        fields = _paper(positions)
        fields["presets"] = [
            _preset(kind, name, positions, element)
            for kind in models.DEFAULT_PRESETS
            for name in models.preset_names(kind)
        ]
        lines = [*_paper_lines(fields), "", *_preset_lines(fields["presets"])]
    else:
        title, config, own_element = _asked_for(directory, model, preset)
        if config.kind == "deep" and measure is not None:
            raise InputError(
                f"--measure is for language models, and {directory} holds a classifier, which reads one row of every "
                f"table for every example: `polychron inspect {directory}` counts which"
            )
        if measure is not None and element not in (None, own_element):
            raise InputError(
                f"--measure runs {directory} as it is, with tables of {own_element}: leave --element {element} out"
            )
        fields = _one(title, config, positions, element or own_element)
        lines = list(_one_lines(fields))
        if directory is not None and measure is not None:
            fields["measured"] = measure_cost(directory, config, measure, n_measured or _MEASURED_BYTES)
            lines += ["", *measured_lines(fields["measured"])]
    if plot is not None:
        fields["plot"] = str(plot)
        lines.append(f"\ncapacity drawn in {plot}")
    if json:
        print_json(fields)
        return
    console = make_console()
    for line in lines:
        say(console, line)


def _asked_for(directory: Path | None, model: str | None, preset: str | None) -> tuple[str, TableConfig, str]:
    """Title, configuration, and type of the tables' numbers."""
    if directory is not None:
        opened = (open_checkpoint if task_of(directory) == LANGUAGE_MODEL else open_classifier)(directory)
        quantization = opened.record.quantization
        element = opened.config.table_type if quantization is None else quantization.precision
        return str(directory), opened.config, element
    kind = model or "delay"
    name = preset or models.DEFAULT_PRESETS[kind]
    config = models.preset(kind, name, _BYTES)
    return f"{kind} {name}", config, config.table_type


def _preset(kind: str, name: str, positions: int, element: str | None) -> dict[str, Any]:
    title, config, own_element = _asked_for(None, kind, name)
    return _total(title, config, positions, element or own_element)


def _paper(positions: int) -> dict[str, Any]:
    """The published tables at so many positions."""
    head, dense = analysis.SpikingHead(), analysis.DenseLayer()
    return {
        "positions": positions,
        "spiking": {
            **dataclasses.asdict(head),
            "synapses": head.synapses,
            "operations": head.operations(positions),
            "bandwidth": dataclasses.asdict(head.bandwidth),
        },
        "dense": {
            **dataclasses.asdict(dense),
            "synapses": dense.synapses,
            "operations": dense.operations(positions),
            "bandwidth": dataclasses.asdict(dense.bandwidth),
        },
        "critique": [
            {**dataclasses.asdict(line), "ratio": line.ratio} for line in analysis.critique(positions, head, dense)
        ],
        "paper_transformer_synapses": analysis.published_synapses(models.preset("transformer", "paper", _BYTES)),
        "brain_proportion_watts": analysis.brain_proportion(),
        "capacity_log10": [
            {
                "n_neurons": n,
                "orders": analysis.log10_orders(n),
                "patterns_in_100_bins": analysis.log10_patterns(n, 100),
                "rates_epsilon_0.1": analysis.log10_rates(n, 0.1),
            }
            for n in _NEURONS
        ],
    }


def _paper_lines(fields: dict[str, Any]) -> Iterator[str]:
    spiking, dense = fields["spiking"], fields["dense"]
    yield f"The paper's Table IV: one layer, one head, {fields['positions']} positions"
    yield f"{'':34}{'spiking':>16}{'dense':>20}"
    for title, name in (("synapses held", "synapses"), ("operations, whole context", "operations")):
        yield f"  {title:32}{spiking[name]:>16,}{dense[name]:>20,}"
    formulas = [f"{side['bandwidth']['constant']:,} + {side['bandwidth']['slope']} n" for side in (spiking, dense)]
    yield f"  {'numbers read for a token':32}{formulas[0]:>16}{formulas[1]:>20}"
    yield f"  {'the 806 M transformer, synapses':32}{fields['paper_transformer_synapses']:>16,}"
    yield ""
    yield "How many times more the dense one takes, and what that leaves out"
    for line in fields["critique"]:
        yield f"  {line['claim']:56}{line['ratio']:>10,.1f}   {line['dense']:,} / {line['spiking']:,}"
    yield (
        "  a brain's 20 W scaled from 10^15 synapses to 10^11 parameters: "
        f"{fields['brain_proportion_watts'] * 1000:g} mW - a proportion, not a measurement"
    )
    yield ""
    yield "Patterns that n neurons can tell apart"
    yield f"  {'n':>5}{'orders, n!':>16}{'in 100 bins':>16}{'rates, eps 0.1':>16}"
    for row in fields["capacity_log10"]:
        numbers = (row["orders"], row["patterns_in_100_bins"], row["rates_epsilon_0.1"])
        yield f"  {row['n_neurons']:>5}" + "".join(f"{power_of_ten(x):>16}" for x in numbers)


def _total(title: str, config: TableConfig, positions: int, element: str) -> dict[str, Any]:
    """Sums of one model."""
    cost = analysis.count_cost(config)
    n_bytes, number_bytes = ELEMENT_BYTES[element], LATENCY_BYTES[element]
    energy = analysis.model_energy(cost, element)
    return {
        "model": title,
        "element": element,
        "synapses": cost.synapses,
        "synapses_touched": cost.synapses_touched,
        "table_bytes": cost.table_bytes(n_bytes),
        "comparisons": cost.comparisons,
        "multiplications": cost.multiplications,
        "additions": cost.additions,
        "rows": cost.rows,
        "row_bytes": cost.row_bytes(n_bytes),
        "latency_bytes": cost.latency_bytes(number_bytes),
        "key_bytes": cost.key_bytes,
        "place_bytes": cost.place_bytes,
        "counted_as_published": {
            "positions": positions,
            "operations": analysis.published_operations(config, positions),
            "bandwidth": dataclasses.asdict(analysis.published_bandwidth(config)),
            "rows_counted": not cost.has_attention,
        },
        "energy_nanojoules": {
            "table": TABLE_NAME,
            "memory": energy.memory,
            "arithmetic": energy.arithmetic,
            "latencies": energy.latencies,
            "rows": energy.rows,
            "key_memory": energy.key_memory,
            "keys": energy.keys,
            "place_memory": energy.place_memory,
            "places": energy.places,
            "total": energy.total,
        },
    }


def _preset_lines(presets: list[dict[str, Any]]) -> Iterator[str]:
    yield f"Ours, for the next token of a text, {_BYTES} tokens"
    yield (
        f"  {'preset':24}{'numbers':8}{'synapses':>14}{'tables':>10}{'compared':>10}{'added':>10}{'rows':>8}"
        f"{'bytes read':>12}{'energy':>16}"
    )
    for total in presets:
        read = total["row_bytes"] + total["latency_bytes"] + total["place_bytes"]
        yield (
            f"  {total['model']:24}{total['element']:8}{total['synapses']:>14,}"
            f"{format_bytes(total['table_bytes']):>10}{total['comparisons']:>10,}{total['additions']:>10,}"
            f"{total['rows']:>8,}{format_bytes(read):>12}{_microjoules(total):>16}"
        )
    yield f"  energy is modelled, not measured: {TABLE_NAME}, memory included"


def _one(title: str, config: TableConfig, positions: int, element: str) -> dict[str, Any]:
    n_bytes, number_bytes = ELEMENT_BYTES[element], LATENCY_BYTES[element]
    if config.kind == "deep":  # an example has no positions
        positions = 1
    layers = [
        {
            "layer": layer.name,
            "synapses": layer.synapses,
            "comparisons": layer.comparisons,
            "additions": layer.additions,
            "rows": layer.rows,
            "row_bytes": layer.row_bytes(n_bytes),
            "latency_bytes": layer.latency_bytes(number_bytes),
            "key_bytes": layer.key_bytes,
            "place_bytes": layer.place_bytes,
        }
        for layer in analysis.count_cost(config).layers
    ]
    unit = "example" if config.kind == "deep" else "token"
    return {**_total(title, config, positions, element), "for": unit, "layers": layers}


def _one_lines(fields: dict[str, Any]) -> Iterator[str]:
    columns = ["synapses", "comparisons", "additions", "rows", "row_bytes", "latency_bytes"]
    if fields["place_bytes"]:
        columns.append("place_bytes")
    is_example = fields["for"] == "example"
    yield f"{fields['model']}, for {'one example' if is_example else 'the next token of a text'}, {fields['element']}"
    yield f"  {'':16}" + "".join(f"{name.replace('_', ' '):>16}" for name in columns)
    for layer in fields["layers"]:
        yield f"  {layer['layer']:16}" + "".join(f"{layer[name]:>16,}" for name in columns)
    yield f"  {'together':16}" + "".join(f"{fields[name]:>16,}" for name in columns)
    if fields["multiplications"]:
        yield f"  and {fields['multiplications']:,} multiplications of the variant"
    if fields["layers"][-1]["layer"].startswith("contexts"):
        yield "  of contexts at most: rows hold only what followed, and contexts that were never met have none"
    yield f"  as the paper counts: {_published(fields['counted_as_published'], is_example)}"
    energy = fields["energy_nanojoules"]
    memories = [f"rows from {energy['memory']}"]
    memories += [f"{of}s from {energy[f'{of}_memory']}" for of in ("key", "place") if energy[f"{of}_memory"]]
    yield (
        f"  energy, modelled, not measured ({TABLE_NAME}): {_microjoules(fields)}; {', '.join(memories)}, "
        f"arithmetic {energy['arithmetic'] / energy['total'][0]:.2%} of it"
    )


def _published(counted: dict[str, Any], is_example: bool) -> str:
    """Operations and numbers read; rows are numbers of Table I, which has no attention, and none of Table IV."""
    operations, bandwidth = counted["operations"], counted["bandwidth"]
    if is_example:
        return f"{operations:,} operations, {bandwidth['constant']:,} numbers read, rows counted (Table I)"
    read, rows = f"{bandwidth['constant']:,}", "rows counted (Table I)"
    if not counted["rows_counted"]:
        read, rows = f"{read} + {bandwidth['slope']:,} n", "rows not counted (Table IV)"
    return f"{operations:,} operations for {counted['positions']} positions, {read} numbers read for a token, {rows}"


def _microjoules(total: dict[str, Any]) -> str:
    low, high = (nanojoules / 1000 for nanojoules in total["energy_nanojoules"]["total"])
    return f"{low:.3g} uJ" if low == high else f"{low:.3g} - {high:.3g} uJ"
