"""Finished trials and runs of an item as files, so that a reproduction that was stopped can go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polychron.analysis.files import written_beside
from polychron.errors import InputError

_ABOUT = "about.json"


class KeptRuns:
    """A folder with a file for each trial and run that is finished.

    Args:
        directory: of one item; made when the first run is finished.
        about: what all of them have in common.
        resume: whether what is there counts. Otherwise it is taken away: an item is measured anew unless told.

    Raises:
        InputError: with ``resume``, what is there is about something else; or the system refused.
    """

    def __init__(self, directory: Path, about: dict[str, Any], *, resume: bool):
        self._directory = directory
        path = directory / _ABOUT
        if path.exists():
            kept = read_object(path)
            if resume:
                for name, value in about.items():
                    if kept.get(name) != value:
                        raise InputError(
                            f"the runs in {directory} are about {name} {kept.get(name)!r}, not {value!r}: name another "
                            "--out, or leave --resume out to measure anew"
                        )
                return
            try:
                shutil.rmtree(directory)
            except OSError as error:
                raise InputError(f"cannot remove {directory}: {error.strerror or error}") from None
        self._write(path, about)

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the file of this name holds; made and written where there is none.

        Raises:
            InputError: it holds something else, or cannot be written.
        """
        path = self._directory / f"{name}.json"
        if path.exists():
            return read_object(path)
        values = make()
        self._write(path, values)
        return values

    @staticmethod
    def _write(path: Path, values: dict[str, Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {path.parent}: {error.strerror or error}") from None
        with written_beside(path) as scratch:
            scratch.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: there is none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a JSON object; it holds a {type(values).__name__}")
    return values
