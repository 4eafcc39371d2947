"""The items by name, and what it takes to run one."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

import polychron
from polychron.analysis import plots
from polychron.analysis.files import written_beside
from polychron.errors import InputError
from polychron.reproduce import counted, measured
from polychron.reproduce.kept import KeptRuns
from polychron.reproduce.measured import SIZES, Work
from polychron.reproduce.outcome import Reproduction
from polychron.twins.split import Split

# The tables are numbered as in the paper's second version.
COUNTED = {"table1": counted.table1, "table3": counted.table3, "table4": counted.table4, "fig3": counted.fig3}
MEASURED: dict[str, Callable[[Work], Reproduction]] = {
    "table2": measured.table2,
    "fig13": measured.fig13,
    "ablation": measured.ablation,
}
ITEMS = ("table1", "table2", "table3", "table4", "fig3", "fig13", "ablation")


def reproduce(
    item: str,
    out: Path,
    *,
    text: Path | None = None,
    scale: str = "small",
    n_seeds: int = 3,
    n_bytes: int | None = None,
    resume: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Reproduction:
    """Run an item and write ``ITEM.json``, ``ITEM.md`` and, where there is a picture, ``ITEM.png`` into ``out``.

    Without matplotlib there is no picture: ``tell`` is told, and what is returned does not draw. What is measured runs
    on one thread, so that processor time is the time it takes; the number of threads is put back.

    Args:
        item: one of :data:`ITEMS`.
        out: folder, made if it is not there.
        text: file or folder to learn; None: Python's standard library.
        scale: ``"small"`` or ``"full"``.
        n_seeds: 0, 1, ... of what is measured.
        n_bytes: trained on in every run in place of the scale's.
        resume: take trials and runs that ``out`` holds already, of the same text, size, machine and versions, as they
            are; they are files in ``out/ITEM-runs``, each written when it is finished.
        tell: takes lines of progress.

    Raises:
        InputError: an unknown item or scale, a text that cannot be used, or files that cannot be written.

    Example:
        >>> reproduce("table9", Path("."))
        Traceback (most recent call last):
        ...
        polychron.errors.InputError: ITEM must be one of table1, ..., ablation; got 'table9'
    """
    if item not in ITEMS:
        raise InputError(f"ITEM must be one of {ITEMS[0]}, ..., {ITEMS[-1]}; got {item!r}")
    if scale not in SIZES:
        raise InputError(f"--scale must be one of {', '.join(SIZES)}; got {scale!r}")
    if n_seeds < 1 or (n_bytes is not None and n_bytes < 1):
        raise InputError(f"--seeds and --bytes must be at least 1; got {n_seeds} and {n_bytes}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out}: {error.strerror or error}") from None
    found = COUNTED[item]() if item in COUNTED else _measure(item, out, text, scale, n_seeds, n_bytes, resume, tell)
    _write(out / f"{item}.json", json.dumps(found.to_dict(), indent=1) + "\n")
    _write(out / f"{item}.md", found.markdown() + "\n")
    if found.draw is not None:
        if plots.can_draw():
            found.draw(out / f"{item}.png")
        else:
            tell(f"no picture: {plots.NO_PLOTS}")
            found = dataclasses.replace(found, draw=None)
    return found


def _measure(
    item: str,
    out: Path,
    text: Path | None,
    scale: str,
    n_seeds: int,
    n_bytes: int | None,
    resume: bool,
    tell: Callable[[str], None],
) -> Reproduction:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        split = Split.of(text)
        size = SIZES[scale]
        if n_bytes is not None:
            trial_bytes = max(1, n_bytes * size.trial_bytes // size.n_bytes)
            size = dataclasses.replace(size, n_bytes=n_bytes, trial_bytes=trial_bytes)
        setting = {
            "text": f"{split.name} (SHA-256 {split.sha256[:12]}), its last tenth held out",
            "scale": scale,
            "bytes_trained_on": size.n_bytes,
            "held-out_bytes_scored": min(size.sample_bytes, split.held_out.size),
            "seeds": ", ".join(map(str, range(n_seeds))),
            "machine": f"one thread of {_processor()}",
            "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
            f"polychron {polychron.__version__}, {polychron.kernel_info()['kernel']} kernels",
        }
        about = {name: value for name, value in setting.items() if name != "seeds"}
        kept = KeptRuns(out / f"{item}-runs", about, resume=resume)
        return MEASURED[item](Work(split, size, tuple(range(n_seeds)), setting, tell, kept.once))
    finally:
        torch.set_num_threads(n_threads)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _write(path: Path, text: str) -> None:
    with written_beside(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
