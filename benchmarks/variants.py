"""Every hash, reading, gradient and way to draw anchors beside the paper's, at equal bytes and at equal time.

    python benchmarks/variants.py book.txt --out results                    # text alone: --no-images
    python benchmarks/variants.py book.txt --out results --resume           # goes on where it was stopped
    python benchmarks/variants.py --out results --report                    # table and picture of what is there

Text: a small delay network, nats per byte on a fixed sample of the held-out tail. Images: a small deep network on
Fashion-MNIST (Debian's dataset-fashion-mnist, or --images FOLDER), wrong answers on the first of the test images. A
variant's rate is chosen on the end of the training part: among three, and on by the same factor where the best is the
lowest or the highest. One thread; time is processor time. Seeds come one after another, so that a benchmark that was
stopped has a whole row of the first.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.classifier_learner import of_classifier
from harness.conditions import machine, versions
from harness.ending import exit_code
from harness.results import ResultFolder
from harness.variant_report import draw, markdown
from polychron.data.examples import divide, load_labelled
from polychron.errors import InputError
from polychron.models import DelayConfig, with_variant
from polychron.models.deep import DeepConfig
from polychron.reproduce.kept import read_object
from polychron.twins.learning import Learner, learn, of_tables, sample_of, search_rate
from polychron.twins.split import Split

# By name: options of `with_variant`. Two bins are the order once more, without the native kernels: what PyTorch costs.
VARIANTS: dict[str, dict[str, Any]] = {
    "order": {},
    "order, in PyTorch": {"hash": "bins", "n_bins": 2},
    "anchors covering": {"anchors": "covering"},
    "no delays": {"max_delay": 0},
    "anchors random": {"anchors": "random"},
    "hash bins, 3": {"hash": "bins"},
    "hash zero": {"hash": "zero"},
    "hash hyperplane": {"hash": "hyperplane"},
    "reading soft": {"reading": "soft"},
    "reading confidence": {"reading": "confidence"},
    "gradient all": {"gradient": "all"},
    "gradient softmax": {"gradient": "softmax"},
    "gradient scalar": {"gradient": "scalar"},
}
TEXT_ONLY, IMAGES_ONLY = ("no delays",), ("anchors random",)
DELAY = {"n_neurons": 32, "n_tables": 32, "n_comparisons": 6, "readout_n_tables": 16, "readout_n_comparisons": 6}
DEEP = {"n_layers": 1, "n_tables": 16, "n_comparisons": 6, "readout_n_tables": 128, "readout_n_comparisons": 6}
RATES = (0.5, 1.0, 2.0)  # of the usual one; the trials go on where the best is at an end
TEXT_RATE, IMAGES_RATE = 0.02, 0.015
IMAGES_BATCH = 64
TUNING_SEED = 1_000_003


@dataclasses.dataclass(frozen=True)
class Task:
    """What a variant is put to: how to make a learner of it, and what it costs.

    Attributes:
        name: ``"text"`` or ``"images"``.
        make: variant, rate, seed, whether it is to be tuned: a learner and what to score.
        amount: bytes or examples of the equal budget.
        seconds: of the equal time.
        rate: the usual one.
    """

    name: str
    make: Callable[[dict[str, Any], float, int, bool], tuple[Learner, np.ndarray]]
    amount: int
    seconds: float
    rate: float


def text_task(path: Path, arguments: argparse.Namespace) -> tuple[Task, dict[str, Any]]:
    split = Split.of(path)
    tuning = split.for_tuning()
    base = DelayConfig(vocabulary_size=split.vocabulary.size, **DELAY)

    def make(variant: dict[str, Any], rate: float, seed: int, tuned: bool) -> tuple[Learner, np.ndarray]:
        part = tuning if tuned else split
        config = with_variant(base, **variant)
        learner = of_tables(config, part, seed, rate=rate, batch=arguments.batch, length=arguments.length)
        return learner, sample_of(part.held_out, arguments.scored_bytes)

    about = {"text": split.name, "sha256": split.sha256, "text_model": base.to_dict()}
    return Task("text", make, arguments.bytes, arguments.seconds, TEXT_RATE), about


def images_task(name: str, arguments: argparse.Namespace) -> tuple[Task, dict[str, Any]]:
    labelled = load_labelled(name)
    inputs, labels, held_out, held_out_labels = divide(labelled.train_inputs, labelled.train_labels)
    tuning = dataclasses.replace(
        labelled, train_inputs=inputs, train_labels=labels, test_inputs=held_out, test_labels=held_out_labels
    )
    base = DeepConfig(n_pixels=labelled.n_inputs, n_classes=len(labelled.class_names), width=labelled.width, **DEEP)

    def make(variant: dict[str, Any], rate: float, seed: int, tuned: bool) -> tuple[Learner, np.ndarray]:
        part = tuning if tuned else labelled
        learner = of_classifier(with_variant(base, **variant), part, rate, seed, IMAGES_BATCH)
        return learner, np.arange(arguments.scored_images)

    about = {"images": labelled.name, "images_sha256": labelled.sha256, "images_model": base.to_dict()}
    return Task("images", make, arguments.examples, arguments.seconds, IMAGES_RATE), about


def measure(tasks: list[Task], folder: ResultFolder, arguments: argparse.Namespace) -> None:
    """Tune, then seed after seed run what the folder does not have."""
    conditions = versions()
    for seed in arguments.seeds:
        for task in tasks:
            for name in arguments.variants:
                if name in (IMAGES_ONLY if task.name == "text" else TEXT_ONLY):
                    continue
                stem = stem_of(task.name, name)
                tuning = folder.once(
                    f"tuning/{stem}.json", lambda task=task, name=name: tune(task, VARIANTS[name], arguments)
                )
                for budget in ("amount", "seconds"):
                    result = folder.once(
                        f"runs/{stem}-{budget}-{seed}.json",
                        lambda task=task, name=name, budget=budget, seed=seed, rate=tuning["rate"]: {
                            "task": task.name, "variant": name, "budget": budget, "seed": seed, "rate": rate,
                            **run(task, VARIANTS[name], rate, seed, budget), "conditions": conditions,
                        },
                    )  # fmt: skip
                    print(f"{task.name:7} {name:20} seed {seed}  {budget:8} {result['loss']:.4f}", flush=True)


def stem_of(task: str, variant: str) -> str:
    """Of the files of a variant's trials and runs."""
    return f"{task}/{variant.replace(' ', '-').replace(',', '')}"


def tune(task: Task, variant: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The best rate, and the trials of all, each of a part of the bytes."""
    _, scored = task.make(variant, task.rate, TUNING_SEED, True)
    search = search_rate(
        lambda rate: task.make(variant, rate, TUNING_SEED, True)[0],
        tuple(task.rate * factor for factor in RATES), scored, int(arguments.trial_part * task.amount),
    )  # fmt: skip
    return search.to_dict()


def run(task: Task, variant: dict[str, Any], rate: float, seed: int, budget: str) -> dict[str, Any]:
    learner, scored = task.make(variant, rate, seed, False)
    budgets = {"n_bytes": task.amount} if budget == "amount" else {"seconds": task.seconds}
    try:
        end = learn(learner, scored, **budgets)[-1]
    except InputError:
        return {"loss": math.inf, "trained": 0, "seconds": 0.0, "parameters": learner.n_parameters}
    return {"loss": end.nats, "trained": end.n_bytes, "seconds": end.seconds, "parameters": learner.n_parameters}


def report(directory: Path) -> None:
    """Table and picture of the runs in a folder."""
    results = [read_object(path) for path in sorted(directory.glob("runs/*/*.json"))]
    if not results:
        raise InputError(f"{directory} holds no results: run the benchmark with --out {directory} first")
    paths = {
        (task, variant): directory / f"tuning/{stem_of(task, variant)}.json"
        for task, variant in {(result["task"], result["variant"]) for result in results}
    }
    trials = {which: read_object(path).get("trials", []) for which, path in paths.items() if path.exists()}
    text = markdown(read_object(directory / "about.json"), results, tuple(VARIANTS), trials)
    (directory / "table.md").write_text(text, encoding="utf-8")
    print("\n" + text)
    print(draw(results, tuple(VARIANTS), directory / "variants.png"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", help="a file, or a folder of text files; without it no text")
    parser.add_argument("--images", default="fashion-mnist", help="as `polychron train-classifier` takes them")
    parser.add_argument("--no-images", action="store_true")
    parser.add_argument("--out", type=Path, required=True, help="result folder")
    parser.add_argument("--bytes", type=int, default=1 << 19, help="of text, trained on at equal bytes")
    parser.add_argument("--examples", type=int, default=30_000, help="trained on at equal examples")
    parser.add_argument("--seconds", type=float, default=10.0, help="of processor time, at equal time")
    parser.add_argument("--trial-part", type=float, default=1.0, help="of the bytes, for each trial of a rate")
    parser.add_argument("--scored-bytes", type=int, default=1 << 16)
    parser.add_argument("--scored-images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=16, help="windows in a step")
    parser.add_argument("--length", type=int, default=64, help="bytes in a window")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=list(VARIANTS), metavar="VARIANT",
                        help="; ".join(VARIANTS))  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on with the runs that --out lacks")
    parser.add_argument("--report", action="store_true", help="only make table and picture of the runs in --out")
    return parser.parse_args(arguments)


def run_all(given: argparse.Namespace) -> None:
    """Measure, then report."""
    torch.set_num_threads(1)
    began = time.process_time()
    if not given.report:
        if given.text is None and given.no_images:
            raise InputError("nothing to do: give a TEXT, or leave --no-images out")
        tasks = [] if given.text is None else [text_task(given.text, given)]
        tasks += [] if given.no_images else [images_task(given.images, given)]
        about = {"machine": machine(), "threads": 1}
        settings = ("bytes", "examples", "seconds", "trial_part", "scored_bytes", "scored_images", "batch", "length")
        about |= {name: getattr(given, name) for name in settings}
        for _, said in tasks:
            about |= said
        measure([task for task, _ in tasks], ResultFolder(given.out, about, resume=given.resume), given)
        print(f"{time.process_time() - began:.0f} s of processor time")
    report(given.out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then report; 2 for input that cannot be used."""
    given = parse(arguments)
    return exit_code(lambda: run_all(given), given.out)


if __name__ == "__main__":
    sys.exit(main())
