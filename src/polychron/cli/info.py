"""``polychron info``: what computes here, and on which memory."""

from __future__ import annotations

import platform

import torch

import polychron
from polychron.cli.console import make_console, print_json, say
from polychron.limits import format_bytes
from polychron.memory import zero_tables

_SAMPLE = (1, 1 << 15, 64)  # 8 MiB


def run_info(*, json: bool) -> None:
    """Print versions, kernels, threads, and how much of freshly made tables lies on huge pages."""
    tables = zero_tables(*_SAMPLE)  # held until the pages are counted
    fields = {
        "polychron": polychron.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **polychron.kernel_info(),
    }
    del tables
    if json:
        print_json(fields)
        return
    console = make_console()
    for name, text in _lines(fields):
        say(console, f"{name:<11} {text}")


def _lines(fields: dict[str, object]) -> list[tuple[str, str]]:
    others = ", ".join(str(name) for name in fields["available"] if name != fields["kernel"])
    return [
        ("polychron", f"{fields['polychron']}, torch {fields['torch']}, Python {fields['python']}"),
        ("kernels", f"{fields['kernel']} (POLYCHRON_KERNEL can force {others or 'no other'})"),
        (
            "cuda",
            fields["cuda"] + (", on " + torch.cuda.get_device_name() if torch.cuda.is_available() else "; no GPU"),
        ),
        ("threads", f"{fields['threads']}{', of PyTorch while they are awake' if fields['shares_threads'] else ''}"),
        ("huge pages", _pages(fields)),
    ]


def _pages(fields: dict[str, object]) -> str:
    setting, asked, got = (fields[key] for key in ("huge_pages", "table_bytes", "huge_page_bytes"))
    if got is None or asked == 0:
        return f"{setting}; the system does not tell which pages tables get"
    return f"{setting}; {format_bytes(got)} of {format_bytes(asked)} of new tables lie on them"
