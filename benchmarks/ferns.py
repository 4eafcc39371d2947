"""Counts instead of gradients: the same readout of tables filled by one pass of counting, and trained.

    python benchmarks/ferns.py --data digits fashion-mnist --passes 10 --seeds 3
    python benchmarks/ferns.py --text austen.txt --bytes 8e6 --seeds 3

Images: the classifier's readout alone, no residual layers, the same anchors for both. Text: a readout of delayed tables
on the tokens' latencies, no hidden layer; counted on the whole training part, trained on ``--bytes`` of it. A tenth of
the training part (at most 5,000 examples, or 65,536 bytes) is not counted but chooses the scale of the evidence, for a
text the smoothing, too. The test part, or the last tenth of the text, is scored once. Time is the processor's, of all
threads. Prints one JSON object a run, which ``--results`` keeps and does not repeat, and a Markdown table at the end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from harness.kept import KeptRuns, Text, add_common_options, conditions, spread
from polychron import models, optim
from polychron.data import Vocabulary, Windows
from polychron.data.batches import Batches
from polychron.data.examples import load_labelled
from polychron.data.labelled import LabelledSet
from polychron.models.deep import DeepClassifier, DeepConfig, classifier_preset
from polychron.models.ferns import Ferns
from polychron.training.classify import score_classifier
from polychron.training.counting import count_classifier
from polychron.training.evaluate import score
from polychron.training.schedule import Budget, Schedule
from polychron.training.steps import train_steps

SMOOTHINGS = (0.3, 1.0, 3.0)
CALIBRATION_BYTES = 1 << 16
WINDOW = 1 << 12
WARMUP_STEPS = 20


def classifier(labelled: LabelledSet, preset: str, seed: int) -> DeepClassifier:
    fields = {**classifier_preset(preset).fields, "n_layers": 0}
    config = DeepConfig(n_pixels=labelled.n_inputs, n_classes=len(labelled.class_names), width=labelled.width, **fields)
    return DeepClassifier(config, seed)


def classifier_runs(labelled: LabelledSet, passes: float, seed: int) -> Iterator[tuple[str, Callable[[], dict]]]:
    preset = "small" if len(labelled.train_labels) >= 20_000 else "tiny"

    def measured(model: DeepClassifier, began: float) -> dict:
        spent = time.process_time() - began
        optim.attach(model, "sgd")
        result = score_classifier(model, labelled.test_inputs, labelled.test_labels, len(labelled.class_names))
        return {"accuracy": result.accuracy, "nats": result.nats, "seconds": spent}

    def counted() -> dict:
        model = classifier(labelled, preset, seed)
        began = time.process_time()
        scale, _ = count_classifier(model, labelled, seed)
        return {"scale": scale, **measured(model, began)}

    def trained() -> dict:
        model = classifier(labelled, preset, seed)
        settings = classifier_preset(preset)
        augment = ("shift+mirror" if labelled.mirrors else "shift") if labelled.height else "none"
        batches = Batches(labelled, batch=settings.batch, augment=augment, seed=seed)
        optimizer = optim.attach(model, "sgd")
        budget = Budget(steps=max(1, round(passes * len(labelled.train_labels) / settings.batch)))
        began = time.process_time()
        for _ in train_steps(model, batches, optimizer, Schedule(settings.rate, WARMUP_STEPS), budget):
            pass
        return measured(model, began)

    yield "counted", counted
    yield "trained", trained


def text_runs(text: Text, arguments, seed: int) -> Iterator[tuple[str, Callable[[], dict]]]:
    vocabulary = Vocabulary.of(text.train)
    config = models.DelayConfig(
        vocabulary_size=vocabulary.size, n_layers=0, readout_n_tables=arguments.tables,
        readout_n_comparisons=arguments.comparisons, readout_max_delay=7,
    )  # fmt: skip
    held_out = vocabulary.encode(text.held_out)
    tokens = torch.from_numpy(vocabulary.encode(text.train)).long()

    def windows(part: torch.Tensor, model) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Latencies, targets and the latencies before, a stretch of the text after another."""
        z = model.embedding.latencies
        for start in range(0, len(part) - 1, WINDOW):
            piece = part[start : start + WINDOW + 1]
            before = part[max(0, start - 7) : start]
            yield z[piece[:-1]][None], piece[1:][None], z[before][None]

    def counted() -> dict:
        model = models.build(config, seed)
        began = time.process_time()
        ferns = Ferns(model.readout)
        for x, targets, before in windows(tokens[:-CALIBRATION_BYTES], model):
            ferns.count(x, targets, before)
        part = tokens[-CALIBRATION_BYTES:]
        x, targets = model.embedding.latencies[part[:-1]][None], part[1:][None]
        tried = {smoothing: ferns.calibrate(x, targets, smoothing)[1] for smoothing in SMOOTHINGS}
        smoothing = min(tried, key=tried.__getitem__)
        scale, _ = ferns.calibrate(x, targets, smoothing)
        spent = time.process_time() - began
        nats = score(model, held_out, vocabulary).nats_per_byte
        return {"scale": scale, "smoothing": smoothing, "nats": nats, "seconds": spent}

    def trained() -> dict:
        settings = models.training_defaults("delay", "small")
        model = models.build(config, seed)
        optimizer = optim.attach(model, "sgd", visit_cap=settings.visit_cap)
        source = Windows(
            vocabulary.encode(text.train), [(0, text.train.size)], length=settings.length, batch=settings.batch,
            seed=seed,
        )  # fmt: skip
        budget = Budget(steps=max(1, round(arguments.bytes / source.bytes_per_batch)))
        began = time.process_time()
        for _ in train_steps(model, source, optimizer, Schedule(settings.rate, settings.warmup_steps), budget):
            pass
        return {
            "seconds": time.process_time() - began,
            "nats": score(model, held_out, vocabulary).nats_per_byte,
        }

    yield "counted", counted
    yield "trained", trained


def table_of(results: list[dict]) -> Iterator[str]:
    yield "| data | rows are | accuracy | nats | seconds of processor |\n|---|---|---|---|---|"
    for data, way in dict.fromkeys((result["data"], result["way"]) for result in results):
        of_kind = [result for result in results if (result["data"], result["way"]) == (data, way)]
        cells = [spread([result[name] for result in of_kind if name in result]) for name in ("accuracy", "nats")]
        yield f"| {data} | {way} | {' | '.join(cells)} | {statistics.mean(r['seconds'] for r in of_kind):.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[], help="labelled sets, as train-classifier takes them")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--passes", type=float, default=10.0, help="over its training part, of a trained classifier")
    parser.add_argument("--bytes", type=float, default=8e6, help="to train the text's readout on")
    parser.add_argument("--tables", type=int, default=64, help="of the text's readout")
    parser.add_argument("--comparisons", type=int, default=10)
    add_common_options(parser)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    kept = KeptRuns(arguments.results, key=("data", "way", "seed"))

    def finish(data: str, seed: int, runs: Iterator[tuple[str, Callable[[], dict]]]) -> None:
        for way, run in runs:
            if not kept.has(data, way, seed):
                kept.add({"data": data, "way": way, "seed": seed, **run()})

    text = Text(arguments.text, arguments.score_bytes) if arguments.text else None
    sets = [load_labelled(name) for name in arguments.data]
    for seed in range(arguments.seeds):
        for labelled in sets:
            finish(labelled.name, seed, classifier_runs(labelled, arguments.passes, seed))
        if text is not None:
            finish(text.name, seed, text_runs(text, arguments, seed))
    print(f"\n{conditions(arguments.seeds)}\n")
    print("\n".join(table_of(kept)))


if __name__ == "__main__":
    main()
