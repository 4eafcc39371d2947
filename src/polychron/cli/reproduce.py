"""``polychron reproduce``: an item of the paper, ours beside it, and a verdict."""

from __future__ import annotations

import sys
from pathlib import Path

from polychron.cli.console import make_console, print_json, say
from polychron.reproduce import ITEMS, reproduce


def run_reproduce(
    item: str, *, text: Path | None, scale: str, out: Path, n_seeds: int, n_bytes: int | None, resume: bool, json: bool
) -> None:
    """Run an item, or ``all``, print what came of it, and say where it was written."""
    for name in ITEMS if item == "all" else (item,):
        found = reproduce(
            name, out, text=text, scale=scale, n_seeds=n_seeds, n_bytes=n_bytes, resume=resume,
            tell=lambda line: None if json else print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
        files = [str(out / f"{name}.{ending}") for ending in ("json", "md", *(["png"] if found.draw else []))]
        if json:
            print_json({**found.to_dict(), "files": files})
            continue
        console = make_console()
        say(console, f"{found.item}: {found.title}")
        for finding in found.findings:
            say(console, f"  {finding.claim}")
            say(console, f"    published {finding.published}, ours {finding.ours}")
            say(console, f"    {finding.verdict}" + (f": {finding.note}" if finding.note else ""), style="bold")
        say(console, f"  written: {', '.join(files)}")
