"""The command line: ``polychron train | evaluate | generate``."""

from __future__ import annotations

from polychron.cli.app import main

__all__ = ["main"]
