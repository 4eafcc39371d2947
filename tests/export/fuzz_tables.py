"""Damaged and hostile files of tables for the C reader, under AddressSanitizer: it refuses them or runs.

``python -m tests.export.fuzz_tables --cases 1000000`` (``make fuzz`` does so). A case is a pure function of the seed
and its number; ``fuzz FILE 1 NUMBER SEED`` repeats one.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from polychron.export import export_c, read_integer_model

from ..runtime.conftest import MODELS, random_model, random_text, save_model
from .counted import counted_model
from .test_c_classifier import integers

OPTIONS = ("-std=c99", "-O2", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CONTEXTS = "counted contexts"
NAMES = ("two delay layers", "transformer", "classifier", CONTEXTS)
HARNESS = Path(__file__).with_name("fuzz_tables.c.in")


def build(name: str, folder: Path, compiler: str = "cc") -> tuple[Path, Path]:
    """The program for one of the models, and its file of tables."""
    if name == "classifier":
        model = integers("two layers")
    elif name == CONTEXTS:  # of four letters: every step from a context to a longer one is taken
        text = bytes(97 + byte % 4 for byte in random_text(600))
        model = read_integer_model(save_model(counted_model("readout alone", 5, text), folder / "run"))
    else:
        model = read_integer_model(save_model(random_model(MODELS[name]), folder / "run"))
    done = export_c(model, folder / "model", tables=folder / "model.tables")
    (folder / "fuzz.c").write_text(HARNESS.read_text().replace("@NAME@", "model"))
    options = [*OPTIONS, *(["-DCLASSIFIER"] if name == "classifier" else [])]
    subprocess.run([compiler, *options, folder / "fuzz.c", done.source, "-o", folder / "fuzz"], check=True)
    return folder / "fuzz", done.tables


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for at, name in enumerate(NAMES):
        n_cases = options.cases * (at + 1) // len(NAMES) - options.cases * at // len(NAMES)
        with tempfile.TemporaryDirectory() as folder:
            fuzz, tables = build(name, Path(folder))
            command = [fuzz, tables, n_cases, options.first, options.seed]
            print(f"{name}: ", end="", flush=True)
            subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    main()
