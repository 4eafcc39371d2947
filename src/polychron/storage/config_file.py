"""``config.json`` of a model's folder: found, bounded, JSON, polychron's, of a version that can be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from polychron.errors import InputError
from polychron.limits import format_bytes

FORMAT = "polychron"
VERSION = 1
CONFIG_NAME = "config.json"
WEIGHTS_PATTERN = r"weights-[0-9]{1,19}\.safetensors"

_MAXIMUM_BYTES = 2**20


LANGUAGE_MODEL = "language model"


def read_config(directory: str | os.PathLike[str], task: str | None = LANGUAGE_MODEL) -> tuple[dict[str, Any], bytes]:
    """The fields of a folder's ``config.json``, and its text; what the fields hold is not checked yet.

    ``task`` is what the checkpoint must be of, None: any; a file that names none holds a language model.

    Raises:
        InputError: no such folder, no checkpoint in it, not readable, another program's or another task's, or written
            by a newer polychron.
    """
    fields, text = _read_any(directory)
    found = fields.get("task", LANGUAGE_MODEL)
    if task is not None and found != task:
        raise InputError(f"{directory} holds a {found!s:.40}, and a {task} is asked for")
    return fields, text


def task_of(directory: str | os.PathLike[str]) -> str:
    """What the checkpoint in a folder is of: ``"language model"`` or ``"classifier"``; nothing else of it is checked.

    Raises:
        InputError: as :func:`read_config`.
    """
    return str(_read_any(directory)[0].get("task", LANGUAGE_MODEL))


def is_checkpoint(directory: str | os.PathLike[str]) -> bool:
    """Whether a folder's ``config.json`` says that it is polychron's, of any task and version."""
    try:
        _read_fields(directory)
    except InputError:
        return False
    return True


def _read_any(directory: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    fields, text = _read_fields(directory)
    version = fields.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InputError(
            f"{Path(directory) / CONFIG_NAME} has format version {version} and this polychron reads up to {VERSION}: "
            "upgrade polychron"
        )
    return fields, text


def _read_fields(directory: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    folder = Path(directory)
    path = folder / CONFIG_NAME
    try:
        if not folder.is_dir():
            problem = "is not a folder: a checkpoint is a folder" if folder.exists() else "does not exist"
            raise InputError(f"{folder} {problem}")
        if not path.is_file():
            raise InputError(f"{folder} has no checkpoint: there is no {CONFIG_NAME} in it")
        with path.open("rb") as file:
            text = file.read(_MAXIMUM_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {reason(error)}") from None
    if len(text) > _MAXIMUM_BYTES:
        raise InputError(f"{path} is not polychron's: it has more than {format_bytes(_MAXIMUM_BYTES)}")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{path} is damaged or not polychron's: it is not JSON") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise InputError(f'{path} is not polychron\'s: it does not say "format": "{FORMAT}"')
    return fields, text


def reason(error: Exception) -> str:
    """What an error of the system says, on one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split())
