"""The paper's deep network beside a dense MLP: same examples, same augmentation, same time, each at its best rate.

    python benchmarks/classifiers.py fashion-mnist --seconds 60 --seeds 3
    python benchmarks/classifiers.py digits FOLDER_OF_HAPT --seconds 10

The rate of either is chosen by training on four fifths of the training part and scoring the fifth, and the trials go on
where the best is the lowest or the highest; the test part is scored once a seed, at the rate chosen. One thread;
seconds are processor time. Prints one JSON object a run, which ``--results`` keeps and does not repeat, and a Markdown
table at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness.classifier_learner import WARMUP_STEPS, batches_of, of_classifier, wrong_answers
from harness.kept import KeptRuns, conditions, spread
from polychron.data.examples import divide, load_labelled
from polychron.data.labelled import LabelledSet
from polychron.models.deep import DeepConfig, classifier_preset
from polychron.training.schedule import Schedule
from polychron.twins.learning import Learner, learn, search_rate

TUNING_SEED = 1_000_003
OUR_FACTORS = (0.5, 1.0, 2.0)  # of the preset's rate
DENSE_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
TUNING = "tuning"


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


def deep(labelled: LabelledSet, preset: str, rate: float, seed: int) -> Learner:
    settings = classifier_preset(preset)
    config = DeepConfig(
        n_pixels=labelled.n_inputs, n_classes=len(labelled.class_names), width=labelled.width, **settings.fields
    )
    return of_classifier(config, labelled, rate, seed, settings.batch)


def dense(labelled: LabelledSet, width: int, batch: int, rate: float, seed: int) -> Learner:
    torch.manual_seed(seed)
    model = DenseMLP(labelled.n_inputs, len(labelled.class_names), width)
    adam = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.01)
    batches, rates = batches_of(labelled, batch, seed), Schedule(rate, WARMUP_STEPS)

    def step(k: int, progress: float) -> float:
        model.train()
        adam.param_groups[0]["lr"] = rates.rate(k, progress)
        adam.zero_grad()
        inputs, labels = batches.batch(k)
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        adam.step()
        return loss.item()

    return Learner(step, wrong_answers(model, labelled), batch, sum(p.numel() for p in model.parameters()))


def run_set(labelled: LabelledSet, arguments: argparse.Namespace, kept: KeptRuns) -> None:
    """Tune and run both networks on a set, seed after seed."""
    preset = arguments.preset or ("small" if len(labelled.train_labels) >= 20_000 else "tiny")
    settings = classifier_preset(preset)
    inputs, labels, held_out, held_out_labels = divide(labelled.train_inputs, labelled.train_labels)
    tuning = dataclasses.replace(
        labelled, train_inputs=inputs, train_labels=labels, test_inputs=held_out, test_labels=held_out_labels
    )
    width = arguments.width
    networks: dict[str, tuple[Callable[[LabelledSet, float, int], Learner], tuple[float, ...]]] = {
        f"deep {preset}": (
            lambda part, rate, seed: deep(part, preset, rate, seed),
            tuple(factor * settings.rate for factor in OUR_FACTORS),
        ),
        f"dense MLP, 2 x {width}": (
            lambda part, rate, seed: dense(part, width, settings.batch, rate, seed), DENSE_RATES
        ),
    }  # fmt: skip
    for name, (make, rates) in networks.items():
        if not kept.has(labelled.name, name, TUNING):
            seconds = arguments.tuning_seconds or arguments.seconds / 5
            search = search_rate(
                lambda rate, make=make: make(tuning, rate, TUNING_SEED), rates, np.arange(len(held_out_labels)),
                seconds=seconds,
            )  # fmt: skip
            kept.add({"data": labelled.name, "network": name, "seed": TUNING, "seconds": seconds, **search.to_dict()})
        chosen = kept.get(labelled.name, name, TUNING)["rate"]
        for seed in range(arguments.seeds):
            if kept.has(labelled.name, name, seed):
                continue
            learner = make(labelled, chosen, seed)
            end = learn(learner, np.arange(len(labelled.test_labels)), seconds=arguments.seconds)[-1]
            kept.add({
                "data": labelled.name, "network": name, "seed": seed, "rate": chosen, "seconds": arguments.seconds,
                "accuracy": 1 - end.nats, "examples": end.n_bytes, "parameters": learner.n_parameters,
            })  # fmt: skip


def table_of(results: list[dict]) -> Iterator[str]:
    yield "| data | seconds | network | rate | parameters | examples seen | test accuracy |"
    yield "|---|---|---|---|---|---|---|"
    runs = [result for result in results if result["seed"] != TUNING]
    for data, name in dict.fromkeys((run["data"], run["network"]) for run in runs):
        of_kind = [run for run in runs if (run["data"], run["network"]) == (data, name)]
        yield (
            f"| {data} | {of_kind[0]['seconds']:g} | {name} | {of_kind[0]['rate']:g} | {of_kind[0]['parameters']:,} | "
            f"{statistics.mean(run['examples'] for run in of_kind):,.0f} | "
            f"{spread([run['accuracy'] for run in of_kind])} |"
        )


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["fashion-mnist"], help="sets, as train-classifier takes them")
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time, of every run")
    parser.add_argument("--tuning-seconds", type=float, help="a rate is tried for so long (default: a fifth)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", help="of the deep network (default: by the number of examples)")
    parser.add_argument("--width", type=int, default=256, help="of the MLP's hidden layers")
    parser.add_argument("--results", type=Path, help="file of finished runs, read and added to")
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    kept = KeptRuns(arguments.results, key=("data", "network", "seed"))
    for name in arguments.data:
        run_set(load_labelled(name), arguments, kept)
    print(f"\n{conditions(arguments.seeds)}\n")
    print("\n".join(table_of(kept)))


if __name__ == "__main__":
    main()
