"""``polychron bench``: how fast the kernels are on this machine."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import polychron
from polychron.analysis import speed
from polychron.analysis.speed import LayerSpeed, MemorySpeed, ModelSpeed
from polychron.cli.console import StatusLine, counted, make_console, print_json, say
from polychron.errors import InputError

_MOST_SECONDS = 3600

_Speed = MemorySpeed | LayerSpeed | ModelSpeed

_NAMES = {MemorySpeed: "memory", LayerSpeed: "layers", ModelSpeed: "models"}
_HEADS = {
    MemorySpeed: (
        "Rows at random places, read by a loop that does nothing else, and by the gather",
        f"  {'row, bytes':>10}{'memory':>12}{'M rows/s':>14}{'GB/s':>12}{'gather, M rows/s':>19}{'share':>9}",
    ),
    LayerSpeed: (
        "Layers of n neurons, n_t tables of n_c comparisons; step: forward, backward, SGD",
        f"  {'n':>4}{'n_t':>6}{'n_c':>6}{'batch':>8}"
        + f"{'forward, us':>15}{'M rows/s':>12}{'step, us':>15}{'M rows/s':>12}",
    ),
    ModelSpeed: (
        f"Delay models of {speed.VOCABULARY} tokens, the trained tables alone, on random bytes",
        f"  {'preset':10}{'batch':>14}{'training, bytes/s':>27}{'scoring, bytes/s':>27}",
    ),
}


def run_bench(*, seconds: float, threads: int | None, json: bool) -> None:
    """Measure for about so many seconds, and print each figure as soon as it is known."""
    if not 0 < seconds <= _MOST_SECONDS:
        raise InputError(f"--seconds must be positive and at most {_MOST_SECONDS:,}; got {seconds:g}")
    if threads is not None:
        torch.set_num_threads(threads)
    speed.require_kernels()
    info = polychron.kernel_info()
    fields: dict[str, Any] = {
        "polychron": polychron.__version__,
        "torch": torch.__version__,
        **{name: info[name] for name in ("kernel", "threads", "huge_pages")},
        "seconds": seconds,
        **{name: [] for name in _NAMES.values()},
    }
    console = make_console()
    if not json:
        say(console, f"kernels {info['kernel']}, {counted(info['threads'], 'thread')}, huge pages {info['huge_pages']}")
    with StatusLine(console) as status:
        if not json:
            status.show(_progress(0))
        for n, one in enumerate(speed.measure_speed(seconds), start=1):
            of_kind = fields[_NAMES[type(one)]]
            if not json:
                for line in () if of_kind else ("", *_HEADS[type(one)]):
                    say(console, line)
                say(console, _line(one))
                status.show(_progress(n))
            of_kind.append(_as_json(one))
    if json:
        print_json(fields)
        return
    say(console, "\nmemory: its best turn; layers and models: the median turn, quartiles with --json")


def _progress(n: int) -> str:
    return f"{n} of {speed.N_MEASUREMENTS} measured"


def _line(one: _Speed) -> str:
    if isinstance(one, MemorySpeed):
        rates = f"{_figure(one.rows_per_second / 1e6):>14}{_figure(one.bytes_per_second / 1e9):>12}"
        ours = f"{_figure(one.gather_rows_per_second / 1e6):>19}{one.share:>9.0%}"
        return f"  {one.row_bytes:>10}{_size(one.working_set):>12}{rates}{ours}"
    if isinstance(one, LayerSpeed):
        size = f"{one.n_neurons:>4}{one.n_tables:>6}{one.n_comparisons:>6}{one.batch:>8,}"
        forward = f"{_figure(one.forward.median * 1e6):>15}{_figure(one.forward_rows_per_second / 1e6):>12}"
        step = f"{_figure(one.step.median * 1e6):>15}{_figure(one.step_rows_per_second / 1e6):>12}"
        return f"  {size}{forward}{step}"
    batch = f"{one.batch} x {one.length}"
    return f"  {one.preset:10}{batch:>14}{one.train_bytes_per_second:>27,.0f}{one.score_bytes_per_second:>27,.0f}"


def _as_json(one: _Speed) -> dict[str, Any]:
    """Its fields, and what follows from them; spreads are in seconds."""
    derived = {
        MemorySpeed: ("bytes_per_second", "share"),
        LayerSpeed: ("forward_rows_per_second", "step_rows_per_second"),
        ModelSpeed: ("train_bytes_per_second", "score_bytes_per_second"),
    }
    return dataclasses.asdict(one) | {name: getattr(one, name) for name in derived[type(one)]}


def _size(n_bytes: int) -> str:
    """Bytes in powers of 1024.

    Example:
        >>> _size(1 << 15), _size(1 << 24)
        ('32 KiB', '16 MiB')
    """
    return f"{n_bytes >> 10} KiB" if n_bytes < 1 << 20 else f"{n_bytes >> 20} MiB"


def _figure(x: float) -> str:
    """A measured number, with a digit after the point where it is small.

    Example:
        >>> _figure(5.128), _figure(1536.8)
        ('5.1', '1,537')
    """
    return f"{x:.1f}" if x < 99.95 else f"{x:,.0f}"
