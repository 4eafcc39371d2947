"""A trained model as a folder: ``config.json``, which says what it is, and ``weights-<step>.safetensors``.

What is read is not trusted: JSON is validated field by field, the weights' header is compared with the model that the
config describes before any memory is taken for it, and nothing is ever unpickled.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import torch

from polychron import models
from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.storage import CONFIG_NAME, TensorFile, read_config
from polychron.storage.config_file import reason
from polychron.training.records import Record

_MODEL, _OPTIMIZER = "model.", "optimizer."
_ATTEMPTS = 20

_DTYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose ``config.json`` and weights' header were found right; the weights stay open.

    Attributes:
        directory: where it is.
        record: ``config.json``.
        config: the model's, from ``record.model``.
        vocabulary: from ``record.vocabulary``.
    """

    directory: Path
    record: Record
    config: Any
    vocabulary: Vocabulary
    _weights: TensorFile

    def load_model(self) -> torch.nn.Module:
        """Take the memory and read the model.

        Raises:
            InputError: not enough memory, or tensors that do not belong to the model.
        """
        if self.record.quantization is not None:
            raise InputError(
                f"{self.directory} is quantised to {self.record.quantization.precision}: it can be run, scored and "
                "exported; training needs the folder that it was made from"
            )
        require_memory(
            self.config.n_bytes(),
            f"the weights in {self.directory}",
            "close other programs or use a smaller model",
        )
        n_tensors = len(self._weights.entries)
        if self.config.n_layers > n_tensors:  # or building layer upon layer would take minutes before it fails
            raise self._damaged(f"a model of {self.config.n_layers} layers has more than {n_tensors} tensors")
        model = self._build()
        own = model.state_dict()
        self._require_same(own)
        for name, tensor in own.items():
            tensor.copy_(_tensor(self._weights, _MODEL + name))
        try:
            model.check()
        except ValueError as error:
            raise self._damaged(str(error)) from None
        return model

    def load_tensors(self) -> dict[str, torch.Tensor]:
        """The model's tensors by name, as they are stored; they stay mapped."""
        return {name: _tensor(self._weights, name) for name in self._weights.entries if name.startswith(_MODEL)}

    def _build(self) -> torch.nn.Module:
        return models.build(self.config, seed=self.record.training.seed)

    def load_optimizer(self, optimizer: Any) -> None:
        """Put back the state of an optimizer that was just attached to the loaded model.

        Raises:
            InputError: the state is another optimizer's.
        """
        names = [name for name in self._weights.entries if name.startswith(_OPTIMIZER)]
        for name in names:
            if self._weights.entries[name].dtype not in _DTYPES:
                raise self._damaged(f"{name} has a dtype that no optimizer has")
        state = {name.removeprefix(_OPTIMIZER): _tensor(self._weights, name) for name in names}
        try:
            optimizer.load_state_dict(state)
        except ValueError as error:
            raise self._damaged(f"optimizer: {error}") from None

    def _require_same(self, own: Mapping[str, torch.Tensor]) -> None:
        """The stored tensors of the model must be those that it has, by name, dtype and shape."""
        expected = {_MODEL + name: (_dtype_name(tensor), tuple(tensor.shape)) for name, tensor in own.items()}
        stored = {
            name: (entry.dtype, entry.shape) for name, entry in self._weights.entries.items() if name.startswith(_MODEL)
        }
        for name in sorted(expected.keys() | stored.keys()):
            if expected.get(name) != stored.get(name):
                raise self._damaged(
                    f"{name} must be {_describe(expected.get(name))} and is {_describe(stored.get(name))}"
                )

    def _damaged(self, problem: str) -> InputError:
        return InputError(f"{self.directory / self.record.weights.file} is damaged: {problem}")


def checkpoint_tensors(model: torch.nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """All tensors of a run under the names they have in a checkpoint: ``model.*`` and ``optimizer.*``."""
    return {
        **{_MODEL + name: tensor for name, tensor in model.state_dict().items()},
        **{_OPTIMIZER + name: tensor for name, tensor in optimizer.state_dict().items()},
    }


def open_checkpoint(directory: str | os.PathLike[str]) -> Checkpoint:
    """Read what a checkpoint says about itself and check it; memory for the weights is not taken yet.

    A run may be writing to the folder meanwhile: if the weights are superseded between the reading of
    ``config.json`` and their opening, both are read anew.

    Raises:
        InputError: no such folder, no checkpoint in it, another program's, written by a newer polychron,
            damaged, or of sizes that cannot be.
    """
    folder = Path(directory)

    def config_of(record: Record) -> Any:
        config = models.config_from_dict(record.model)
        n_ids = Vocabulary(bytes(record.vocabulary)).size
        if config.vocabulary_size != n_ids:
            raise InputError(
                f"{folder / CONFIG_NAME} is damaged: the model's vocabulary_size is {config.vocabulary_size} "
                f"and the vocabulary has {n_ids} ids"
            )
        return config

    record, config, weights = open_weights(folder, Record, config_of)
    return Checkpoint(folder, record, config, Vocabulary(bytes(record.vocabulary)), weights)


def open_weights(folder: Path, kind: type, config_of: Callable[[Any], Any]) -> tuple[Any, Any, TensorFile]:
    """A checkpoint's record, its model's configuration and its open weights, that belong together.

    Args:
        folder: of the checkpoint.
        kind: what ``config.json`` is read as.
        config_of: from the record, the model's configuration; raises InputError where they contradict each other.

    Raises:
        InputError: as `open_checkpoint`.
    """
    for _ in range(_ATTEMPTS):
        record = read_record(folder, kind)
        path = folder / record.weights.file
        try:
            n_bytes = path.stat().st_size
            config = config_of(record)
            _require_plausible(folder, record, config, n_bytes)
            return record, config, TensorFile(path)
        except FileNotFoundError:
            time.sleep(0.01)
        except OSError as error:
            raise InputError(f"cannot read {path}: {reason(error)}") from None
    raise InputError(f"{folder} is incomplete: its {CONFIG_NAME} names {record.weights.file}, which is not there")


def read_record(folder: Path, kind: type = Record) -> Any:
    """What ``config.json`` says, validated field by field.

    Raises:
        InputError: no such folder, nothing in it, damaged, or a checkpoint of another task.
    """
    _, text = read_config(folder, kind.TASK)
    path = folder / CONFIG_NAME
    try:
        record = kind.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is damaged: {where}: {first['msg']}") from None
    if record.weights is None:
        raise InputError(f"{path} is damaged: weights: Field required")
    return record


def _require_plausible(folder: Path, record: Any, config: Any, n_bytes: int) -> None:
    """What can be known to be wrong from ``config.json`` and the size of the weights file alone."""
    path = folder / record.weights.file
    if n_bytes != record.weights.bytes:
        problem = "truncated" if n_bytes < record.weights.bytes else "damaged"
        raise InputError(f"{path} is {problem}: it has {n_bytes:,} bytes and should have {record.weights.bytes:,}")
    # Every parameter is stored, so a model cannot be larger than its file: what follows takes no more memory
    # than somebody took the trouble to send.
    size = {None: config.number_bytes, "bfloat16": 2, "int8": 1}[record.quantization and record.quantization.precision]
    if size * config.n_parameters() > n_bytes:
        raise InputError(
            f"{folder / CONFIG_NAME} is damaged: it describes a model of {config.n_parameters():,} "
            f"parameters and {path.name} has only {n_bytes:,} bytes"
        )
    try:
        record.training.budget, record.training.schedule  # noqa: B018 - they check themselves
    except InputError as error:
        raise InputError(f"{folder / CONFIG_NAME} is damaged: training: {error}") from None


def _tensor(weights: TensorFile, name: str) -> torch.Tensor:
    entry = weights.entries[name]
    dtype = _DTYPES[entry.dtype]
    if entry.begin == entry.end:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(weights.bytes_of(name), dtype=dtype).reshape(entry.shape)


def _dtype_name(tensor: torch.Tensor) -> str:
    return _DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))


def _describe(kind: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if kind is None else f"{kind[0]} of shape {kind[1]}"
