"""Damaged and hostile model files for the runtime: whatever they hold, it runs them or raises InputError.

``python -m tests.runtime.fuzz --cases 1000000 --seed 0`` (``make fuzz`` does so under AddressSanitizer). A case is a
pure function of the seed and its number, which is written to standard error every thousand cases; ``--first`` begins
there.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from polychron import runtime
from polychron.errors import InputError
from polychron.runtime import SamplingOptions
from polychron.runtime.text_stream import score_progressively

ODD_NUMBERS = (0, 1, -1, 2, 7, 8, 31, 32, 255, 257, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**48, 2**63, 2**64, 10**30)
ODD_VALUES = (*ODD_NUMBERS, None, True, "", "float32", "F32", 0.5, [], {}, [1, 2, 3])


def run_case(originals: list[dict[str, bytes]], folder: Path, random_: random.Random) -> str:
    """Damages one of the models, writes it to the folder, runs it: what came of it."""
    files = dict(random_.choice(originals))
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        damage(files, random_)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        model = runtime.load(folder)
        stream = model.stream()
        stream.start(bytes(random_.randrange(256) for _ in range(random_.randrange(40))))
        stream.generate(
            30, SamplingOptions(temperature=random_.choice((0.0, 0.5, 1.0)), top_p=random_.choice((0.5, 1)))
        )
        list(score_progressively(model, b"ab c\nz" * 5))
    except InputError as error:
        message = str(error)
        assert "\n" not in message, message
        return "refused"
    return "run"


def damage(files: dict[str, bytes], random_: random.Random) -> None:
    """Changes one of the two files in place of the dictionary."""
    weights = next(name for name in files if name.startswith("weights"))
    kind = random_.choice(("config", "bits", "bytes", "cut", "header", "header", "numbers", "numbers", "move"))
    if kind == "config":
        fields = parsed(files["config.json"])
        if fields is None:
            return
        mutate(fields, random_)
        files["config.json"] = json.dumps(fields).encode()
        return
    name = weights if random_.random() < 0.8 else "config.json"
    content = bytearray(files[name])
    if not content:
        return
    if kind == "bits":
        for _ in range(random_.choice((1, 1, 4, 64))):
            content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
    elif kind == "bytes":
        at = random_.randrange(len(content))
        content[at : at + random_.randrange(64)] = random_.randbytes(random_.randrange(64))
    elif kind == "cut":
        del content[random_.randrange(len(content)) :]
    else:
        content = bytearray(files[name := weights])
        split = split_weights(content)
        if split is None:
            return
        header, data = split
        if kind == "header":
            mutate(header, random_)
        elif kind == "move" and len(header) > 1:
            one, other = random_.sample(sorted(header), 2)
            header[one], header[other] = header[other], header[one]
        else:
            overwrite_numbers(header, data, random_)
        content = joined_weights(header, data)
    files[name] = bytes(content)
    fields = parsed(files["config.json"])
    if name == weights and random_.random() < 0.9 and isinstance((fields or {}).get("weights"), dict):
        fields["weights"]["bytes"] = len(content)  # a careful attacker says the right size
        files["config.json"] = json.dumps(fields).encode()


def parsed(content: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def mutate(fields: Any, random_: random.Random) -> None:
    """Changes, removes or copies something at a random depth of JSON."""
    place = fields
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = random_.choice(keys)
        if isinstance(place[key], (dict, list)) and place[key] and random_.random() < 0.8:
            place = place[key]
            continue
        action = random_.random()
        if action < 0.7:
            value = place[key]
            near = [value + 1, value - 1, value * 2, value // 2] if type(value) is int else []
            place[key] = random_.choice([*ODD_VALUES, *near * 6])
        elif action < 0.9:
            del place[key]
        elif isinstance(place, dict):
            place[f"{key}2"] = place[key]
        return


def split_weights(content: bytes) -> tuple[dict[str, Any], bytearray] | None:
    n_header = int.from_bytes(content[:8], "little")
    header = parsed(bytes(content[8 : 8 + n_header])) if n_header < len(content) else None
    return None if header is None else (header, bytearray(content[8 + n_header :]))


def joined_weights(header: dict[str, Any], data: bytearray) -> bytearray:
    text = json.dumps(header).encode()
    text = text.ljust((len(text) + 7) // 8 * 8)
    return bytearray(len(text).to_bytes(8, "little") + text + data)


def overwrite_numbers(header: dict[str, Any], data: bytearray, random_: random.Random) -> None:
    """Odd numbers in one of the tensors: anchors outside the layer, delays without end, shifts, NaN."""
    entry = header[random_.choice(sorted(header))]
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int for n in offsets)):
        return
    begin, end = (min(max(n, 0), len(data)) for n in offsets)
    size = random_.choice((1, 2, 4))
    for _ in range(random_.choice((1, 3, 100))):
        if end - begin < size:
            return
        at = begin + random_.randrange((end - begin) // size) * size
        number = random_.choice((*ODD_NUMBERS, 0x7FC00000, 0x7F800000, 0xFF800000, random_.getrandbits(32)))
        if random_.random() < 0.25:  # what only just does not fit, or does
            number = int.from_bytes(data[at : at + size], "little") + random_.choice((-1, 1))
        elif at >= begin + size and random_.random() < 0.2:  # twice the same, where numbers should ascend
            number = int.from_bytes(data[at - size : at], "little")
        data[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")


def originals() -> list[dict[str, bytes]]:
    """Small models of every kind and precision, as the files of their folders: small, for speed is cases a second."""
    from polychron import models

    from .conftest import random_model, save_model, with_contexts
    from .test_quantized import quantized

    configs = (
        models.DelayConfig(
            vocabulary_size=28, n_neurons=12, n_layers=2, n_tables=3, n_comparisons=4, max_delay=3, readout_n_tables=2,
            readout_n_comparisons=3, readout_max_delay=2,
        ),
        models.DelayConfig(
            vocabulary_size=28, n_layers=0, readout_n_tables=3, readout_n_comparisons=4, readout_max_delay=5
        ),
        models.TransformerConfig(
            vocabulary_size=28, context=8, n_neurons=9, n_layers=2, n_heads=2, n_tables=2, n_comparisons=2,
            n_position_bits=2,
        ),
        models.TransformerConfig(
            vocabulary_size=28, context=9, n_neurons=33, n_layers=1, n_heads=1, n_tables=3, n_comparisons=2,
            n_position_bits=0, window=4, ffn=None, share_anchors=False,
        ),
        models.RecurrentConfig(
            vocabulary_size=28, context=8, n_neurons=11, n_tables=3, n_comparisons=3, readout_n_tables=2,
            readout_n_comparisons=3,
        ),
        with_contexts(models.DelayConfig(vocabulary_size=28, n_tables=2, n_comparisons=3, readout_n_tables=2), 7),
        with_contexts(
            models.DelayConfig(vocabulary_size=28, n_layers=0, readout_n_tables=2, readout_n_comparisons=3), 2
        ),
    )  # fmt: skip
    found = []
    for config in configs:
        with tempfile.TemporaryDirectory() as folder:
            saved = save_model(random_model(config), Path(folder) / "run")
            for made in (saved, quantized(saved, "int8"), quantized(saved, "bfloat16")):
                found.append({path.name: path.read_bytes() for path in made.iterdir()})
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faulthandler.enable()
    models = originals()
    counts: Counter[str] = Counter()
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as folder:
        for case in range(options.first, options.first + options.cases):
            if case % 1000 == 0:
                print(f"case {case}", file=sys.stderr, flush=True)
            try:
                counts[run_case(models, Path(folder), random.Random(f"{options.seed} {case}"))] += 1
            except Exception:
                print(f"seed {options.seed}, case {case}:", file=sys.stderr)
                raise
    print(f"{options.cases:,} damaged models: {counts['refused']:,} refused, {counts['run']:,} run")


if __name__ == "__main__":
    main()
