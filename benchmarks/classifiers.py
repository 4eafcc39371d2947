"""The paper's deep network beside a dense MLP: same examples, same augmentation, same time, each at its best rate.

    python benchmarks/classifiers.py fashion-mnist --seconds 60 --seeds 3
    python benchmarks/classifiers.py digits --seconds 10
    python benchmarks/classifiers.py FOLDER_OF_HAPT --seconds 20

The rate of either is chosen by training on four fifths of the training part and scoring the fifth; the test part is
scored once a seed, at the rate chosen. Prints one JSON object a run and a Markdown table at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import polychron
from polychron import optim
from polychron.data.batches import Batches
from polychron.data.examples import LabelledSet, divide, load_labelled
from polychron.models.deep import DeepClassifier, DeepConfig, classifier_preset
from polychron.training.classify import score_classifier
from polychron.training.loop import train_steps
from polychron.training.schedule import Budget, Schedule

WARMUP_STEPS = 20


class DenseMLP(nn.Sequential):
    """Two hidden layers of rectified units, each after a batch norm: the usual classifier of this size."""

    def __init__(self, n_inputs: int, n_classes: int, width: int):
        super().__init__(
            nn.Linear(n_inputs, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(width, n_classes),
        )  # fmt: skip

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum over the batch of the nats of ``labels``."""
        return nn.functional.cross_entropy(self(inputs), labels, reduction="sum")

    def train_step(self, inputs: torch.Tensor, labels: torch.Tensor) -> float:
        """``loss(inputs, labels).backward()``; returns the loss."""
        loss = self.loss(inputs, labels)
        loss.backward()
        return loss.item()


class DenseOptimizer:
    """Adam with the interface that the training loop drives; the summed loss is averaged by its scale invariance."""

    def __init__(self, model: nn.Module):
        self._adam = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.01)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self._adam.param_groups[0]["lr"]

    @rate.setter
    def rate(self, value: float) -> None:
        self._adam.param_groups[0]["lr"] = value

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        self._adam.zero_grad()

    def step(self) -> None:
        """Changes the weights."""
        self._adam.step()


def make_deep(labelled: LabelledSet, preset: str, seed: int) -> tuple[nn.Module, optim.RowOptimizer]:
    config = DeepConfig(
        n_pixels=labelled.n_inputs, n_classes=len(labelled.class_names), width=labelled.width,
        **classifier_preset(preset).fields,
    )  # fmt: skip
    model = DeepClassifier(config, seed)
    return model, optim.attach(model, "sgd")


def make_dense(labelled: LabelledSet, width: int, seed: int) -> tuple[nn.Module, DenseOptimizer]:
    torch.manual_seed(seed)
    model = DenseMLP(labelled.n_inputs, len(labelled.class_names), width)
    return model, DenseOptimizer(model)


def train_and_score(
    make: Callable[[LabelledSet, int], tuple], labelled: LabelledSet, batch: int, rate: float, seconds: float, seed: int
) -> dict[str, object]:
    model, optimizer = make(labelled, seed)
    augment = ("shift+mirror" if labelled.mirrors else "shift") if labelled.height else "none"
    batches = Batches(labelled, batch=batch, augment=augment, seed=seed)
    *_, report = train_steps(model, batches, optimizer, Schedule(rate, WARMUP_STEPS), Budget(seconds=seconds))
    began = time.perf_counter()
    score = score_classifier(model, labelled.test_inputs, labelled.test_labels, len(labelled.class_names))
    return {
        "rate": rate,
        "seed": seed,
        "accuracy": score.accuracy,
        "nats": score.nats,
        "examples": report.n_bytes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tested_a_second": len(labelled.test_labels) / (time.perf_counter() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="fashion-mnist")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tuning-seconds", type=float, help="a rate is tried for so long (default: a fifth)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", help="of the deep network (default: by the number of examples)")
    parser.add_argument("--width", type=int, default=256, help="of the MLP's hidden layers")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    labelled = load_labelled(arguments.data)
    preset = arguments.preset or ("small" if len(labelled.train_labels) >= 20_000 else "tiny")
    batch = classifier_preset(preset).batch
    inputs, labels, held_out, held_out_labels = divide(labelled.train_inputs, labelled.train_labels)
    tuning = dataclasses.replace(
        labelled, train_inputs=inputs, train_labels=labels, test_inputs=held_out, test_labels=held_out_labels
    )
    peers = {
        f"deep {preset}": (lambda s, seed: make_deep(s, preset, seed), [f * classifier_preset(preset).rate for f in
                                                                          (0.3, 1.0, 3.0)]),
        f"dense MLP, 2 x {arguments.width}": (lambda s, seed: make_dense(s, arguments.width, seed), [3e-4, 1e-3, 3e-3,
                                                                                                    1e-2]),
    }  # fmt: skip
    rows = []
    for name, (make, rates) in peers.items():
        tried = {}
        for rate in rates:
            seconds = arguments.tuning_seconds or arguments.seconds / 5
            result = train_and_score(make, tuning, batch, rate, seconds, seed=1000)
            tried[rate] = result["accuracy"]
            print(json.dumps({"tuning": name, **result}), flush=True)
        rate = max(tried, key=tried.__getitem__)
        results = []
        for seed in range(arguments.seeds):
            results.append(train_and_score(make, labelled, batch, rate, arguments.seconds, seed))
            print(json.dumps({"test": name, **results[-1]}), flush=True)
        accuracies = [result["accuracy"] for result in results]
        half = (max(accuracies) - min(accuracies)) / 2
        rows.append(
            f"| {name} | {rate:g} | {results[0]['parameters']:,} | {np.mean([r['examples'] for r in results]):,.0f} | "
            f"**{statistics.mean(accuracies):.4f}** ± {half:.4f} |"
        )
    print(
        f"\n{labelled.name}: {arguments.seconds:g} s of training, {arguments.seeds} seeds, "
        f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}, "
        f"polychron {polychron.__version__}\n"
    )
    print("| network | rate | parameters | examples seen | test accuracy |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
