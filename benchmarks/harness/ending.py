"""How a benchmark of hours ends: done, refused in one line, or stopped and ready to go on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from polychron.errors import InputError


def exit_code(run: Callable[[], None], out: Path) -> int:
    """Run it: 0; 2 for input that cannot be used; 130 when stopped, with how to go on."""
    try:
        run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; go on with --out {out} --resume", file=sys.stderr)
        return 130
    return 0
