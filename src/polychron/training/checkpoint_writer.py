"""Checkpoints are written beside the old one and renamed: ``config.json`` last, which names its weights file.

A process killed at any moment leaves the old checkpoint or the new one, never a mixture.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from polychron.errors import InputError
from polychron.storage import CONFIG_NAME, WEIGHTS_PATTERN
from polychron.storage.config_file import reason
from polychron.training.checkpoint import read_record
from polychron.training.records import Record, WeightsRecord

try:
    import fcntl
except ImportError:  # not on Windows: two runs in one folder are not noticed there
    fcntl = None

_WEIGHTS_NAME = re.compile(WEIGHTS_PATTERN)
# What is not complete yet is written in this folder, by whatever temporary names a library may take.
_SCRATCH_NAME = ".writing"
_MOST_DIGITS = 19  # of a step in a name


class CheckpointWriter:
    """Writes checkpoints of one run into one folder, each in place of the last.

    Order of a save: weights under a temporary name, flushed to the disk, renamed; then ``config.json``
    likewise, whose renaming makes the new checkpoint valid; then what the old one needed is deleted.

    While the writer is open the folder is locked: a second run in it is refused. A folder that the writer made and
    saved nothing in is gone when it is closed.

    Args:
        directory: for a new run made if it does not exist. Other files in it are left alone.
        resume: True to go on with the checkpoint in it, False to refuse if there is one.
        kind: what ``config.json`` is read as.

    Raises:
        InputError: the folder cannot be made or written, or another process is writing there; ``resume`` is
            False and there is a checkpoint, or it is True and there is none.
    """

    def __init__(self, directory: str | os.PathLike[str], *, resume: bool = False, kind: type = Record) -> None:
        self.directory = Path(directory)
        self._kind = kind
        self._scratch = self.directory / _SCRATCH_NAME
        self._written: tuple[int, WeightsRecord] | None = None
        self._state: object = None  # of the weights that are written
        self._others: frozenset[str] = frozenset()
        self._lock: int | None = None
        self._made: list[Path] = []
        if resume:
            read_record(self.directory, kind)
        try:
            self._made = [folder for folder in (self.directory, *self.directory.parents) if not folder.exists()]
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_folder(self.directory)
        except OSError as error:
            raise InputError(f"cannot write checkpoints to {self.directory}: {reason(error)}") from None
        try:
            self._take_up(resume)
        except InputError:
            self.close()
            raise

    def _take_up(self, resume: bool) -> None:
        """Find out what is there, now that nobody else changes it."""
        if resume:
            record = read_record(self.directory, self._kind)
            self._written, self._state = (record.position.step, record.weights), record.weights_state
            self._others = frozenset(record.weights.left_alone)
            self._tidy()
        elif (self.directory / CONFIG_NAME).exists():
            raise InputError(
                f"{self.directory} already has a checkpoint: add --resume to go on with it, or give another --out"
            )
        else:  # whatever is called like weights here is somebody's who never had a run in this folder
            names = (path.name for path in self.directory.iterdir())
            self._others = frozenset(name for name in names if _WEIGHTS_NAME.fullmatch(name))

    def save(self, record: Record, tensors: Mapping[str, torch.Tensor]) -> Path:
        """Replace the checkpoint.

        A second save of the same weights (``record.weights_state``) writes ``config.json`` only.

        Args:
            record: of the run at this moment; its ``weights`` is filled in here.
            tensors: names and contents, as `checkpoint_tensors` gives them.

        Returns:
            The folder.

        Raises:
            InputError: the system refused (disk full, no permission, ...). The last checkpoint stands,
                nothing half-written is left.
        """
        step = record.position.step
        try:
            if self._written is None or self._state != record.weights_state:
                weights = self._write_weights(self._name_for(step), tensors)
            else:
                weights = self._written[1]
            self._write_config(record.model_copy(update={"weights": weights}))
        except (OSError, safetensors.SafetensorError) as error:
            self._tidy()
            stands = f"the one of step {self._written[0]} stands" if self._written else "there is none yet"
            raise InputError(f"cannot write a checkpoint to {self.directory}: {reason(error)}; {stands}") from None
        self._written, self._state = (step, weights), record.weights_state
        self._tidy()
        return self.directory

    def _name_for(self, step: int) -> str:
        """Of weights beside what stands there until ``config.json`` names them: the step, behind zeros if need be."""
        taken = self._others | ({self._written[1].file} if self._written else set())
        names = (f"weights-{step:0{width}}.safetensors" for width in range(1, _MOST_DIGITS + 1))
        return next((name for name in names if name not in taken), f"weights-{step}.safetensors")

    def close(self) -> None:
        """Release the folder."""
        if self._written is None:  # a run that was refused
            with suppress(OSError):
                for folder in self._made:
                    folder.rmdir()
        self._made = []
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_weights(self, name: str, tensors: Mapping[str, torch.Tensor]) -> WeightsRecord:
        self._scratch.mkdir(exist_ok=True)
        temporary = self._scratch / name
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        temporary.chmod(0o666 & ~_umask())  # safetensors lets nobody but the owner read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
            n_bytes = os.fstat(file.fileno()).st_size
        temporary.replace(self.directory / name)
        # Before config.json can name it, the weights' own name must be on the disk.
        _flush_folder(self.directory)
        return WeightsRecord(file=name, bytes=n_bytes, left_alone=sorted(self._others))

    def _write_config(self, record: Record) -> None:
        self._scratch.mkdir(exist_ok=True)
        temporary = self._scratch / CONFIG_NAME
        with temporary.open("w", encoding="utf-8") as file:
            file.write(_one_field_a_line(record.model_dump()))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.directory / CONFIG_NAME)
        _flush_folder(self.directory)

    def _tidy(self) -> None:
        """Delete temporaries and superseded weights. What cannot be deleted now is deleted next time."""
        keep = self._others | ({self._written[1].file} if self._written else set())
        shutil.rmtree(self._scratch, ignore_errors=True)
        with suppress(OSError):
            for path in list(self.directory.iterdir()):
                if _WEIGHTS_NAME.fullmatch(path.name) and path.name not in keep:
                    path.unlink()


def _lock_folder(folder: Path) -> int | None:
    """An open folder that no other process has locked; the lock ends with the process, however that ends."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"{folder} is in use: another run is writing its checkpoints there") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _flush_folder(folder: Path) -> None:
    """Make renames in a folder survive a loss of power."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _one_field_a_line(fields: dict[str, Any]) -> str:
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _umask() -> int:
    mask = os.umask(0)  # it cannot be asked for, only exchanged
    os.umask(mask)
    return mask
