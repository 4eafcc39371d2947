"""A trained model as a folder: ``config.json``, which says what it is, and ``weights-<step>.safetensors``.

``config.json`` names the weights file that belongs to it, so renaming a new ``config.json`` into place
replaces the whole checkpoint at once: a process killed at any moment leaves the old checkpoint or the new
one, never a mixture. What is read is not trusted: JSON is validated field by field, the weights' header is
compared with the model that the config describes before any memory is taken for it, and nothing is ever
unpickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import safetensors
import safetensors.torch
import torch
from pydantic import Field

from polychron import models
from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.ops.contexts import MAX_TEXT
from polychron.storage import CONFIG_NAME, FORMAT, VERSION, WEIGHTS_PATTERN, TensorFile, read_config
from polychron.storage.config_file import LANGUAGE_MODEL, reason
from polychron.training.schedule import Budget, ReferenceSchedule, Schedule

try:
    import fcntl
except ImportError:  # not on Windows: two runs in one folder are not noticed there
    fcntl = None

_WEIGHTS_NAME = re.compile(WEIGHTS_PATTERN)
# What is not complete yet is written in this folder, by whatever temporary names a library may take.
_SCRATCH_NAME = ".writing"

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

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Section(pydantic.BaseModel):
    """Base of what ``config.json`` consists of: strict, nothing unknown, never changed."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)


class WeightsRecord(Section):
    """Which file holds the tensors, and its size in bytes."""

    file: Annotated[str, Field(pattern=rf"^{_WEIGHTS_NAME.pattern}$")]
    bytes: _Count


class CorpusRecord(Section):
    """What was trained on, enough to find it again and to know it again.

    ``path`` is None for the standard library.
    """

    name: Annotated[str, Field(max_length=256)]
    path: Annotated[str, Field(max_length=8192)] | None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: _Count
    holdout: Literal["blocks", "tail"]
    holdout_fraction: Annotated[float, Field(gt=0, le=0.5)]


class BudgetedSection(Section):
    """Base of the records that say how long to train, and at which rate."""

    @property
    def budget(self) -> Budget:
        """How long the run is to train."""
        return Budget(steps=self.steps, seconds=self.seconds)

    @property
    def schedule(self) -> Schedule:
        """The learning rate over the run."""
        return Schedule(peak=self.rate, warmup_steps=self.warmup_steps)


class StartRecord(Section):
    """The checkpoint that a run began from, and what its model was given: tables a layer, comparisons a table."""

    path: Annotated[str, Field(max_length=8192)]
    step: _Count
    add_tables: Annotated[int, Field(ge=0, lt=2**16)] = 0
    add_comparisons: Annotated[int, Field(ge=0, lt=2**16)] = 0


class TrainingRecord(BudgetedSection):
    """What decides what a run computes. Of ``steps`` and ``seconds`` one is its budget, the other None.

    ``only`` names what is trained: the tables that a run added to what it began from, or the readout; None: all.
    ``calibration``: bytes of the training part that are not trained on but fit the factor of the logits at the end.
    ``contexts``: bytes of the deepest contexts that are counted beside the training, 0: none are; at most ``counted``
    bytes of the text are. ``recent``: whether tables that are written while a text is read go with them.
    ``rate_schedule``: of ``rate``, or the reference program's own, whose highest rate ``rate`` is then.
    ``rewire``: after so many steps each the least telling comparisons are replaced; None: never.
    """

    seed: _Count
    batch: Annotated[int, Field(ge=1, lt=2**31)]
    length: Annotated[int, Field(ge=1, lt=2**31)]
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    warmup_steps: _Count
    rate_schedule: Literal["linear", "reference"] = "linear"
    visit_cap: Annotated[int, Field(ge=1, lt=2**31)] | None
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    members: Annotated[int, Field(ge=1, le=64)] = 1
    calibration: _Count = 0
    contexts: Annotated[int, Field(ge=0, le=7)] = 0
    counted: Annotated[int, Field(ge=0, lt=MAX_TEXT)] = 0
    recent: bool = False
    optimizer: Literal["sgd", "adagrad"]
    update: Literal["batch", "online"]
    only: Literal["added", "readout"] | None = None
    rewire: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    steps: Annotated[int, Field(ge=1, lt=2**63)] | None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None

    @property
    def schedule(self) -> Schedule | ReferenceSchedule:
        """The learning rate over the run."""
        return ReferenceSchedule(self.batch) if self.rate_schedule == "reference" else super().schedule

    @pydantic.model_validator(mode="after")
    def _cap_goes_with_sgd(self) -> TrainingRecord:
        if self.visit_cap is not None and (self.optimizer != "sgd" or self.update != "batch"):
            raise ValueError("visit_cap goes with optimizer sgd and update batch only")
        return self


class PositionRecord(Section):
    """How far the run has come: steps done, and seconds spent training.

    The position in the data and all randomness follow from the seed and the step.
    """

    step: _Count = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class MetricsRecord(Section):
    """What was measured last, None where nothing was; the ``val`` figures are of the whole held-out part.

    ``readout_scale``: what calibration at the end of the training multiplied the readout's tables by;
    ``context_scales``: the counted tables of each depth of each kind, if there are any.
    """

    train_nats_per_byte: _Finite | None = None
    readout_scale: _Finite | None = None
    context_scales: list[list[_Finite]] | None = None
    val_nats_per_byte: _Finite | None = None
    val_bytes: _Count | None = None


class QuantizationRecord(Section):
    """Of a model that `polychron.quantization` made: its tables' precision, and what int8 sums count.

    Latencies count 2^-latency_bits, logits 2^-logit_bits nats; both None unless the precision is int8.
    """

    precision: Literal["int8", "bfloat16"]
    latency_bits: Annotated[int, Field(ge=0, le=30)] | None = None
    logit_bits: Annotated[int, Field(ge=0, le=30)] | None = None


class Record(Section):
    """All of a language model's ``config.json``.

    ``quantization`` is None for a model as it was trained, in float32; ``start`` for one that was trained from nothing.
    """

    TASK: ClassVar[str] = LANGUAGE_MODEL
    format: Literal["polychron"] = FORMAT
    version: Literal[1] = VERSION
    model: dict[str, pydantic.JsonValue]
    preset: Annotated[str, Field(max_length=64)]
    vocabulary: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=1, max_length=256)]
    corpus: CorpusRecord
    training: TrainingRecord
    position: PositionRecord = PositionRecord()
    metrics: MetricsRecord = MetricsRecord()
    quantization: QuantizationRecord | None = None
    start: StartRecord | None = None
    weights: WeightsRecord | None = None

    @pydantic.model_validator(mode="after")
    def _only_what_is_there(self) -> Record:
        if self.training.only == "added" and not (self.start and self.start.add_tables):
            raise ValueError("training only added tables needs a start with add_tables")
        return self


class CheckpointWriter:
    """Writes checkpoints of one run into one folder, each in place of the last.

    Order of a save: weights under a temporary name, flushed to the disk, renamed; then ``config.json``
    likewise, whose renaming makes the new checkpoint valid; then what the old one needed is deleted.

    While the writer is open the folder is locked: a second run in it is refused.

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
        self._others: frozenset[str] = frozenset()
        self._lock: int | None = None
        if resume:
            read_record(self.directory, kind)
        try:
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
            self._written = (record.position.step, record.weights)
            self._tidy()
        elif (self.directory / CONFIG_NAME).exists():
            raise InputError(
                f"{self.directory} already has a checkpoint: add --resume to go on with it, or give another --out"
            )
        else:  # whatever is called like weights here is somebody's who never had a run in this folder
            self._others = frozenset(path.name for path in self.directory.iterdir())

    def save(self, record: Record, tensors: Mapping[str, torch.Tensor]) -> Path:
        """Replace the checkpoint.

        A second save of the same step writes ``config.json`` only: a step's weights do not change.

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
            if self._written is None or self._written[0] != step:
                weights = self._write_weights(f"weights-{step}.safetensors", tensors)
            else:
                weights = self._written[1]
            self._write_config(record.model_copy(update={"weights": weights}))
        except (OSError, safetensors.SafetensorError) as error:
            self._tidy()
            stands = f"the one of step {self._written[0]} stands" if self._written else "there is none yet"
            raise InputError(f"cannot write a checkpoint to {self.directory}: {reason(error)}; {stands}") from None
        self._written = (step, weights)
        self._tidy()
        return self.directory

    def close(self) -> None:
        """Release the folder."""
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
        return WeightsRecord(file=name, bytes=n_bytes)

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
