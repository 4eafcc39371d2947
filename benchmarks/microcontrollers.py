"""Our C on simulated microcontrollers, beside a dense network of bytes: one table; or a text that a board writes.

    python benchmarks/microcontrollers.py classifier hapt
    python benchmarks/microcontrollers.py text runs/micro-int8 book.txt --hidden 512 --dense-steps 8000
    python benchmarks/microcontrollers.py write runs/micro-int8 "It was a truth" --board cortex-m0

The first trains a classifier of tables for a small flash, and perceptrons from none to 64 hidden units until one that
has some is as accurate on the test part in int8. The second takes a checkpoint of a language model (``--preset micro``
fits 256 KB) and trains a perceptron over the last eight bytes; while that has the higher loss, the comparison flatters
the perceptron. ``--dense FILE`` keeps it, for `dense_generation.py` too. Both are compiled with the same options; the
answers of every board are compared with numpy's. Needs gcc-arm-none-eabi, gcc-riscv64-unknown-elf, qemu-system-arm and
qemu-system-misc, for AVR gcc-avr, avr-libc and simavr (Debian's names); boards whose programs are missing, or whose
memory is too small, are left out, and named.

qemu counts instructions, not cycles: a multiplication of a Cortex-M0 that takes 32 cycles counts as one. simavr counts
cycles.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from boards.dense_int8 import write_classifier, write_language_model
from boards.dense_training import kept_window, train_perceptron, window_in_bytes, windows
from boards.simulator import BOARDS, OPTIMIZATION, Measured, digest, filled, measure, missing
from polychron import optim, runtime
from polychron.data.batches import Batches
from polychron.data.examples import load_labelled
from polychron.data.labelled import LabelledSet
from polychron.export import export_c, read_integer_model
from polychron.export.integer_classifier import IntegerClassifier, accuracy, quantize_classifier
from polychron.models.deep import DeepClassifier, DeepConfig
from polychron.runtime.text_stream import score_progressively
from polychron.training.schedule import Budget, Schedule
from polychron.training.steps import train_steps

HIDDEN = (0, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
CONTEXT_SKIPPED = 8  # bytes at the beginning of a text that neither network is scored on


def train_tables(labelled: LabelledSet, arguments: argparse.Namespace) -> IntegerClassifier:
    config = DeepConfig(
        n_pixels=labelled.n_inputs, n_classes=len(labelled.class_names), width=labelled.width, n_references=16,
        reference_share=0.8, n_layers=0, readout_n_tables=arguments.tables,
        readout_n_comparisons=arguments.comparisons,
    )  # fmt: skip
    model = DeepClassifier(config, arguments.seed)
    batches = Batches(labelled, batch=64, augment="none", seed=arguments.seed)
    optimizer = optim.attach(model, "sgd")
    for _ in train_steps(model, batches, optimizer, Schedule(0.02, 20), Budget(steps=arguments.steps)):
        pass
    return quantize_classifier(model, labelled.class_names)


def compare_classifiers(arguments: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    labelled = load_labelled(arguments.data)
    tables = train_tables(labelled, arguments)
    reached = accuracy(tables, labelled.test_inputs, labelled.test_labels)
    export_c(tables, folder / "tables")
    examples = labelled.test_inputs[:: max(1, len(labelled.test_inputs) // arguments.examples)][: arguments.examples]
    networks = {"tables": (folder / "tables.c", tables.logits(examples), reached, "additions")}
    for n_hidden in HIDDEN:
        dense = train_perceptron(labelled, n_hidden, arguments.dense_steps, arguments.seed)
        logits = dense.logits(labelled.test_inputs)[:, : len(labelled.class_names)]
        right = float((logits.argmax(axis=1) == labelled.test_labels).mean())
        print(json.dumps({"dense_hidden": n_hidden, "accuracy": right, "weights": dense.n_weights}), flush=True)
        name = f"dense {labelled.n_inputs}-{f'{n_hidden}-' if n_hidden else ''}{len(labelled.class_names)}"
        if right >= reached or n_hidden == HIDDEN[-1]:
            path = folder / f"dense_{n_hidden}"
            write_classifier(dense, len(labelled.class_names), path)
            answers = dense.logits(examples)[:, : len(labelled.class_names)]
            networks[name] = (path.with_suffix(".c"), answers, right, f"{dense.n_weights:,} multiplications")
            if n_hidden:  # with hidden units, too
                break
    rows = []
    for name, (source, logits, right, what) in networks.items():
        main = filled(
            "measure_classifier.c.in", NAME=source.stem, N_EXAMPLES=len(examples),
            EXAMPLES=",\n".join("{" + ",".join(map(str, example)) + "}" for example in examples.tolist()),
        )  # fmt: skip
        expected = digest(logits.tolist(), logits.argmax(axis=1).tolist())
        rows += on_boards(name, what, f"{right:.4f}", source, main, len(examples), expected)
    return rows


def compare_language_models(arguments: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    integers = read_integer_model(arguments.directory)
    model = runtime.load(arguments.directory)
    data = np.fromfile(arguments.text, dtype=np.uint8)
    n_train = int(len(data) * 0.9)
    held_out = data[n_train : n_train + arguments.scored].tobytes()
    *_, (nats, n_bytes) = score_progressively(model, held_out)
    export_c(integers, folder / "tables")
    tokens = np.frombuffer(integers.vocabulary.ids_of(data.tobytes()), dtype=np.uint8)
    text = held_out[: arguments.examples]

    trained = kept_window(
        arguments.dense, tokens[:n_train], integers.vocabulary.size, arguments.hidden, arguments.dense_steps,
        arguments.seed,
    )  # fmt: skip
    n_hidden = trained.first.out_features
    dense, embedding = window_in_bytes(trained, tokens[:n_train])
    scored = tokens[n_train : n_train + arguments.scored]
    logits = torch.cat(
        [
            torch.from_numpy(dense.logits(embedding[piece].reshape(len(piece), -1))[:, : integers.vocabulary.size])
            for piece in np.array_split(windows(scored[:-1], trained.context), 50)
        ]
    )
    targets = torch.from_numpy(scored[trained.context :].astype(np.int64))
    dense_nats = torch.nn.functional.cross_entropy(logits.double() * dense.logit_unit, targets).item()

    stream, ours = model.stream(), []
    for byte in text:
        stream.read(bytes([byte]))
        ours.append(stream.units().tolist())
    padded = np.full((trained.context - 1 + len(text), embedding.shape[1]), 128, dtype=np.uint8)
    padded[trained.context - 1 :] = embedding[np.frombuffer(integers.vocabulary.ids_of(text), dtype=np.uint8)]
    side_by_side = np.lib.stride_tricks.sliding_window_view(padded, trained.context, axis=0).transpose(0, 2, 1)
    theirs = dense.logits(side_by_side.reshape(len(text), -1))[:, : integers.vocabulary.size].tolist()
    write_language_model(dense, integers.vocabulary.ids_of(bytes(range(256))), embedding, trained.context,
                         folder / "dense")  # fmt: skip
    rows = []
    for name, source, answers, loss, what, options in (
        ("tables", folder / "tables.c", ours, nats / n_bytes, "additions", [f"-DWRITES={arguments.write}"]),
        (
            f"dense, {trained.context} bytes-{n_hidden}-{integers.vocabulary.size}", folder / "dense.c", theirs,
            dense_nats, f"{dense.n_weights:,} multiplications", [],
        ),
    ):  # fmt: skip
        main = filled("measure_language_model.c.in", NAME=source.stem, N_BYTES=len(text), N_PROMPT=min(9, len(text)),
                      TEXT=",".join(map(str, text)))  # fmt: skip
        rows += on_boards(name, what, f"{loss:.4f} nats/byte", source, main, len(text), digest(answers), *options)
    return rows


def write_on_a_board(arguments: argparse.Namespace, folder: Path) -> None:
    board, prompt = BOARDS[arguments.board], arguments.prompt.encode()
    lacking = missing(board)
    if lacking or not prompt:
        raise SystemExit(f"not installed: {', '.join(lacking)}" if lacking else "the prompt must not be empty")
    done = export_c(read_integer_model(arguments.directory), folder / "model", temperature=arguments.temperature)
    main = filled("measure_language_model.c.in", NAME="model", N_BYTES=len(prompt), N_PROMPT=len(prompt),
                  TEXT=",".join(map(str, prompt)))  # fmt: skip
    measured = measure(board, done.source, main, len(prompt), f"-DWRITES={arguments.write}")
    print(f"{arguments.prompt}{measured.text}")
    print(
        f"{arguments.board}: {measured.instructions:,.0f} {board.unit} a byte read, {measured.flash_bytes:,} bytes of "
        f"flash, {measured.ram_bytes:,} of state, {measured.stack_bytes:,} of stack"
    )


def on_boards(
    name: str, what: str, quality: str, source: Path, main: str, n: int, expected: int, *options: str
) -> list[dict[str, object]]:
    rows = []
    for board_name, board in BOARDS.items():
        lacking = missing(board)
        if lacking:
            print(json.dumps({"left_out": board_name, "missing": lacking}), flush=True)
            continue
        try:
            done: Measured = measure(board, source, main, n, *options)
        except subprocess.CalledProcessError as error:
            print(json.dumps({"left_out": board_name, "network": name, "failed": str(error.cmd[0])}), flush=True)
            continue
        if done.answers != expected:
            raise SystemExit(f"{name} on {board_name} does not answer what numpy does")
        rows.append({"network": name, "work": what, "quality": quality, "board": board_name, **asdict(done)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| board | network | quality | instructions | flash, bytes | state, bytes | stack, bytes | times ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ours = {row["board"]: row["instructions"] for row in rows if row["network"] == "tables"}
    for row in sorted(rows, key=lambda row: list(BOARDS).index(row["board"])):
        name = row["network"] if row["network"] == "tables" else f"{row['network']}, {row['work']}"
        unit = "" if BOARDS[row["board"]].unit == "instructions" else f", {BOARDS[row['board']].unit}"
        sizes = " | ".join(f"{row[size]:,}" for size in ("flash_bytes", "ram_bytes", "stack_bytes"))
        lines.append(
            f"| {row['board']}{unit} | {name} | {row['quality']} | {row['instructions']:,.0f} | {sizes} | "
            f"{row['instructions'] / ours[row['board']]:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    classifier = commands.add_parser("classifier")
    classifier.add_argument("data")
    classifier.add_argument("--tables", type=int, default=96)
    classifier.add_argument("--comparisons", type=int, default=5)
    classifier.add_argument("--steps", type=int, default=1500)
    classifier.add_argument("--examples", type=int, default=40)
    classifier.add_argument("--dense-steps", type=int, default=1500)
    text = commands.add_parser("text")
    text.add_argument("directory", type=Path)
    text.add_argument("text", type=Path, help="what it was trained on with --holdout tail")
    text.add_argument(
        "--dense", type=Path, help="safetensors file of a trained perceptron; written where there is none"
    )
    text.add_argument("--hidden", type=int, default=512)
    text.add_argument("--dense-steps", type=int, default=8000)
    text.add_argument("--examples", type=int, default=100, help="bytes read on the boards")
    text.add_argument("--scored", type=int, default=100_000, help="held-out bytes scored")
    text.add_argument("--write", type=int, default=200, help="bytes that a board writes")
    write = commands.add_parser("write")
    write.add_argument("directory", type=Path)
    write.add_argument("prompt")
    write.add_argument("--board", choices=BOARDS, default="cortex-m0")
    write.add_argument("--write", type=int, default=200, help="bytes")
    write.add_argument("--temperature", type=float, default=1.0)
    for command in (classifier, text, write):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--folder", type=Path, help="where the C and the programs are to stay")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if arguments.command == "write":
            write_on_a_board(arguments, folder)
            return
        compare = compare_classifiers if arguments.command == "classifier" else compare_language_models
        rows = compare(arguments, folder)
    print(f"\n{OPTIMIZATION}, seed {arguments.seed}, instructions are means of {arguments.examples} inferences\n")
    print(table(rows))
    written = [row["text"] for row in rows if row["text"]]
    if written:
        print(f"\nwritten on the {rows[0]['board']}:\n{written[0]}")


if __name__ == "__main__":
    main()
