"""``polychron inspect``: how the tables of a trained model are used, as a table and as a report with pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from polychron import models, runtime
from polychron.analysis.context_report import ContextsShown
from polychron.analysis.context_usage import ContextUsage, inspect_contexts
from polychron.analysis.inspection import as_the_papers_layers, compared_latencies, inspect_model
from polychron.analysis.recent_usage import RUNS, RecentUsage, inspect_recent, percent
from polychron.analysis.report import Raster, write_report
from polychron.analysis.usage import CONSTANT_SHARE, CORRELATED, NEAR_TIES, TELLING_SHARE, LayerUsage
from polychron.cli.classify import load_test_set
from polychron.cli.console import counted, make_console, print_json, say
from polychron.cli.evaluate import load_recorded_corpus
from polychron.cli.output import visible
from polychron.data import hold_out, load_corpus
from polychron.data.batches import brightness
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.quantization import dequantize
from polychron.storage.config_file import LANGUAGE_MODEL, task_of
from polychron.training.checkpoint import Checkpoint, open_checkpoint
from polychron.training.classify import open_classifier

_RASTER_POSITIONS = 48
_RASTER_NEURONS = 64
_MOST_EXAMPLES = 10_000
_STRETCH = 512  # positions that a recurrent network reads from a state of 0


def run_inspect(
    directory: Path,
    data: str | None,
    *,
    n_inputs: int,
    page: Path | None,
    spikes: str | None,
    threads: int | None,
    json: bool,
) -> None:
    """Inspect a language model on a text, or a classifier on examples; without either on what was held out."""
    if threads is not None:
        torch.set_num_threads(threads)
    if page is not None:
        _require_file_name(page)
    if spikes is not None and page is None:
        raise InputError("--spikes says what the report draws: give --html FILE as well")
    inspected = _language_model if task_of(directory) == LANGUAGE_MODEL else _classifier
    model, inputs, facts, shown, labels = inspected(directory, data, n_inputs, spikes)
    model = as_the_papers_layers(model)
    usages = inspect_model(model, inputs)
    has_contexts = isinstance(model, models.LanguageModel) and inputs.shape[1] > 1
    contexts = inspect_contexts(model, inputs) if has_contexts else []
    recent = inspect_recent(model, inputs) if has_contexts else None
    if page is not None:
        rasters = [
            _raster(f"Spikes that {name} compares", x.flatten(0, 1).numpy(), labels)
            for name, x in compared_latencies(model, shown)
        ]
        drawn = ContextsShown(contexts, inspect_contexts(model, shown), labels, recent) if contexts else None
        write_report(page, f"{directory.resolve().name}: how its tables are used", facts, usages, rasters, drawn)
    if json:
        found = {"layers": [usage.summary() for usage in usages]}
        if contexts:
            found["contexts"] = [usage.summary() for usage in contexts]
        if recent is not None:
            found["recent"] = recent.summary()
        print_json({"model": str(directory), "facts": facts, **found})
        return
    console = make_console()
    further = [line for usage in contexts for line in ["", *context_lines(usage)]]
    if recent is not None:
        further += ["", *recent_lines(recent)]
    for line in [*facts, "", *usage_lines(usages), *further]:
        say(console, line)
    if page is not None:
        say(console, f"\nreport with pictures: {page}")


def _require_file_name(page: Path) -> None:
    try:
        if not page.absolute().parent.is_dir():
            raise InputError(f"cannot write {page}: {page.parent} is not a folder")
        if page.is_dir():
            raise InputError(f"cannot write {page}: it is a folder")
    except OSError as error:  # a name too long, or a folder that may not be entered
        raise InputError(f"cannot write {page}: {error.strerror or error}") from None


def usage_lines(usages: Sequence[LayerUsage]) -> list[str]:
    """The figures of all layers as a table, and what its columns mean."""
    lines = [
        f"{'':14}{'':18}{'rows read':^32}{'':14}{'|u| below':^18}{'comparisons':^40}",
        f"{'layer':14}{'tables':>8}{'rows':>10}{'never':>8}{'rarely':>8}{'evenly':>8}{'often':>8}{'entropy':>14}"
        + "".join(f"{threshold:>9g}" for threshold in NEAR_TIES[:2])
        + f"{'all':>8}{'constant':>10}{'doubled':>9}{'silent':>8}",
    ]
    for usage in usages:
        lines.append(
            f"{usage.name:14}{usage.n_tables:>8,}{usage.n_rows:>10,}"
            + "".join(f"{share:>8.1%}" for share in usage.visit_shares.values())
            + f"{usage.entropy.mean():>8.2f} of {len(usage.bits):<2}"
            + "".join(f"{usage.near_ties(threshold):>9.2%}" for threshold in NEAR_TIES[:2])
            + f"{usage.n_comparisons:>8,}{usage.n_constant:>10,}{usage.n_correlated:>9,}{usage.n_silent:>8,}"
        )
    lines += [
        "",
        "rows     never, rarely (below half the even share), evenly, often (above double)",
        "entropy  of the row that is read, in bits, mean of the tables, of the bits of its index",
        f"constant falls one way in less than {CONSTANT_SHARE:.0%} of the readings; doubled: correlation above "
        f"{CORRELATED:g} with another",
        f"silent   its two half-tables hold the same: it explains less than {TELLING_SHARE:.0%} of the rows' variance",
    ]
    few = [usage.name for usage in usages if usage.n_readings < 4 * usage.n_rows]
    if few:
        lines.append(f"         {', '.join(few)}: fewer than four readings a row, many rows had no chance to be read")
    equal = sum(usage.n_equal for usage in usages)
    if equal:
        lines.append(f"equal    {equal} comparisons stand twice in their table, whose rows between cannot be reached")
    return lines


def context_lines(usage: ContextUsage) -> list[str]:
    """What is stored of counted contexts, depth by depth, and how deep the text's were met."""
    n = len(usage.depth)
    lines = [
        f"counted contexts, {usage.kind}, at {n:,} positions: {usage.depth.mean():.2f} bytes deep in the mean, "
        f"{usage.n_added.mean():.1f} numbers added",
        f"{'bytes':>5}  {'the deepest is of':18}{'contexts':>12}{'numbers':>12}{'read':>12}{'come here':>12}"
        f"{'end here':>10}{'nats there':>12}",
    ]
    for k, nats in enumerate(usage.nats_by_depth):
        lines.append(
            f"{k:>5}  {usage.parts[k]:18}{usage.n_contexts[k]:>12,}{usage.n_entries[k]:>12,}{usage.n_read[k]:>12,}"
            f"{usage.arrivals[k] / n:>12.1%}{usage.ends[k] / n:>10.1%}{'' if nats is None else f'{nats:.3f}':>12}"
        )
    return [*lines, "come here, end here: of the walks from the empty context to the longest that was ever met"]


def recent_lines(usage: RecentUsage) -> list[str]:
    """How often the text met its own past in each recent table, and how often that was right."""
    lines = [
        f"recent tables at {usage.n_positions:,} positions",
        f"{'':10}{'':8}{'right':^16}{'latest right, after a run of':^{8 * len(RUNS)}}",
        f"{'table':10}{'met':>8}{'latest':>8}{'before':>8}" + "".join(f"{run:>8}" for run in RUNS),
    ]
    of_tables = zip(usage.names, usage.met, usage.right(0), usage.right(1), strict=True)
    for i, (name, met, latest, before) in enumerate(of_tables):
        by_run = "".join(f"{percent(part):>8}" for part in usage.right_by_run(i))
        lines.append(f"{name:10}{percent(met):>8}{percent(latest):>8}{percent(before):>8}{by_run}")
    return [
        *lines,
        "met      the context was met earlier in this text; of these, right: what followed it then follows again,",
        "         latest when it was last met, before: the symbol before that one's run",
    ]


def _language_model(
    directory: Path, data: str | None, n_bytes: int, spikes: str | None
) -> tuple[torch.nn.Module, torch.Tensor, list[str], torch.Tensor, tuple[str, ...]]:
    checkpoint = open_checkpoint(directory)
    record, vocabulary = checkpoint.record, checkpoint.vocabulary
    model = checkpoint.load_model() if record.quantization is None else _dequantized(checkpoint)
    if data is None:
        corpus = load_recorded_corpus(record)
        holdout = hold_out(corpus.data.size, record.corpus.holdout, record.corpus.holdout_fraction)
        text, source = holdout.held_out_of(corpus.data), f"the held-out part of {corpus.source}"
    else:
        corpus = load_corpus(Path(data), minimum_bytes=2, minimum_distinct=1)
        text, source = corpus.data, corpus.source
    text = text[:n_bytes]
    shown = os.fsencode(spikes)[:_RASTER_POSITIONS] if spikes else text[:_RASTER_POSITIONS].tobytes()
    precision = "float32" if record.quantization is None else record.quantization.precision
    facts = [
        f"{record.model['kind']} {record.preset}, {model.n_parameters():,} parameters, {precision}, "
        f"step {record.position.step:,}",
        f"{source}: {counted(text.size, 'byte')} read",
    ]
    if model.contexts is not None:
        facts.append(
            f"beside the readout: counted contexts of up to {model.contexts.depth} bytes, "
            f"{sum(model.contexts.n_contexts):,} rows of {sum(model.contexts.n_entries):,} numbers together"
        )
    tokens = _tokens(vocabulary.encode(text))
    if record.model["kind"] == "recurrent" and text.size > _STRETCH:  # it takes position after position
        tokens = tokens[:, : text.size // _STRETCH * _STRETCH].view(-1, _STRETCH)
        facts[1] += f", in stretches of {_STRETCH:,}"
    return model, tokens, facts, _tokens(vocabulary.encode(shown)), _letters(shown)


def _tokens(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64))[None]


def _letters(text: bytes) -> tuple[str, ...]:
    """A letter for each byte: what cannot be printed is a dot, a space is an open box."""
    return tuple(
        "␣" if byte == 32 else "↵" if byte == 10 else visible(chr(byte)) if byte < 127 else "·" for byte in text
    )


def _dequantized(checkpoint: Checkpoint) -> torch.nn.Module:
    """The float model of a quantised checkpoint."""
    record = checkpoint.record
    runtime.load(checkpoint.directory)  # checks every tensor
    require_memory(4 * checkpoint.config.n_parameters(), "the tables as float32", "close other programs")
    model = models.build(checkpoint.config, seed=record.training.seed)
    bits = record.quantization
    tensors = dequantize(checkpoint.load_tensors(), bits.latency_bits, bits.logit_bits)
    own = model.state_dict()
    for name, tensor in own.items():
        stored = tensors.get(f"model.{name}")
        if stored is None or stored.shape != tensor.shape or stored.dtype != tensor.dtype:
            raise InputError(
                f"{checkpoint.directory} is damaged: {name} does not belong to the model in its config.json"
            )
        tensor.copy_(stored)
    try:
        model.check()
    except ValueError as error:
        raise InputError(f"{checkpoint.directory / record.weights.file} is damaged: {error}") from None
    return model


def _classifier(
    directory: Path, data: str | None, n_examples: int, spikes: str | None
) -> tuple[torch.nn.Module, torch.Tensor, list[str], torch.Tensor, tuple[str, ...]]:
    if spikes is not None:
        raise InputError("--spikes is a text for a language model; a classifier's report shows its first examples")
    checkpoint = open_classifier(directory)
    labelled = load_test_set(checkpoint, data)
    model = checkpoint.load_model()
    inputs = labelled.test_inputs[: min(n_examples, _MOST_EXAMPLES)]
    facts = [
        f"classifier {checkpoint.record.preset}, {model.n_parameters():,} parameters, "
        f"step {checkpoint.record.position.step:,}",
        f"{labelled.source}: {counted(len(inputs), 'test example')} read",
    ]
    labels = tuple(str(label) for label in labelled.test_labels[:_RASTER_POSITIONS].tolist())
    return model, brightness(inputs), facts, brightness(inputs[: len(labels)]), labels


def _raster(title: str, latencies: np.ndarray, labels: tuple[str, ...]) -> Raster:
    """Latencies (T, n) of at most so many neurons as a picture has lines for, evenly spread."""
    n = latencies.shape[1]
    neurons = np.linspace(0, n - 1, min(n, _RASTER_NEURONS)).astype(int)
    return Raster(title, latencies[:, neurons], labels, tuple(neurons.tolist()))
