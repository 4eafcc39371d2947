"""Times training steps of the paper's transformer of 806 million synapses, and what it takes in memory.

    python benchmarks/transformer_step.py [TEXT] [--tables float32|bfloat16] [--threads 1] [--steps 12] [--json FILE]

A step is 64 windows of 32 bytes, with the preset's rate and cap. Wall time is what a user waits; processor time, of all
threads together, is what other work on the machine disturbs least. The first steps, which still fill tables of zeros,
are not counted. Memory is the process's peak beside the bytes of its tables: 3.2 GB in float32, 1.6 in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from harness.conditions import machine, versions
from harness.turns import Seconds
from polychron import models, optim
from polychron.data import Vocabulary, Windows, load_corpus
from polychron.models import ModelConfig, preset, training_defaults

WARM_STEPS = 4


def measure(config: ModelConfig, tokens, steps: int) -> dict[str, object]:
    """Seconds of a step, wall and processor, losses, and bytes of tables and process."""
    training = training_defaults("transformer", "paper")
    model = models.build(config, seed=0)
    optim.attach(model, "sgd", rate=training.rate, visit_cap=training.visit_cap)
    windows = Windows(tokens, [(0, tokens.size)], length=training.length, batch=training.batch, seed=0)
    model.train()
    wall, processor, losses = [], [], []
    for k in range(WARM_STEPS + steps):
        batch = windows.batch(k)
        began, processor_began = time.perf_counter(), time.process_time()
        losses.append(model.train_step(*batch) / windows.bytes_per_batch)
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - processor_began)
    return {
        "wall": Seconds.of(wall[WARM_STEPS:]),
        "processor": Seconds.of(processor[WARM_STEPS:]),
        "bytes_per_step": windows.bytes_per_batch,
        "nats": losses,
        "table_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def report(result: dict[str, object]) -> str:
    """What was measured, in two lines and one of memory."""
    n = result["bytes_per_step"]
    lines = []
    for clock in ("wall", "processor"):
        s = result[clock]
        lines.append(
            f"{clock}: {1e3 * s.median:,.0f} ms a step of {n:,} bytes (lowest {1e3 * s.lowest:,.0f}, quartiles "
            f"{1e3 * s.lower_quartile:,.0f}-{1e3 * s.upper_quartile:,.0f}), {n / s.median:,.0f} bytes/s"
        )
    tables, peak = result["table_bytes"], result["peak_bytes"]
    lines.append(f"memory: {peak / 1e6:,.0f} MB at most, {peak / tables:.2f} times the tables' {tables / 1e6:,.0f} MB")
    return "\n".join(lines)


def main() -> int:
    """Prints the report, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", help="default: Python's standard library")
    parser.add_argument("--tables", choices=("float32", "bfloat16"), default="float32", help="default float32")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--steps", type=int, default=12, help="steps that are timed (default 12)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1; got {arguments.steps}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    about = {
        "machine": machine(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "tables": arguments.tables,
    }
    print(about)
    data = load_corpus(arguments.text).data
    vocabulary = Vocabulary.of(data)
    config = replace(preset("transformer", "paper", vocabulary.size), table_type=arguments.tables)
    result = measure(config, vocabulary.encode(data), arguments.steps)
    print(report(result))
    if arguments.json:
        plain = {key: vars(value) if isinstance(value, Seconds) else value for key, value in result.items()}
        arguments.json.write_text(json.dumps(about | plain, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
