"""What a checkpoint's ``config.json`` says, field by field: strict, nothing unknown, never changed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from polychron.ops.contexts import LISTS, MAX_TEXT
from polychron.ops.recent import N_CELLS
from polychron.storage import FORMAT, VERSION, WEIGHTS_PATTERN
from polychron.storage.config_file import LANGUAGE_MODEL
from polychron.training.schedule import Budget, ReferenceSchedule, Schedule

MOST_BESIDE = 0.9
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


def storable(path: str) -> str:
    """A path as JSON can hold it; one that is no Unicode will not be found again and must be given.

    Example:
        >>> storable("caf\\udce9")
        'caf\\\\udce9'
    """
    return path.encode("utf-8", "backslashreplace").decode()


class Section(pydantic.BaseModel):
    """Base of what ``config.json`` consists of: strict, nothing unknown, never changed."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", frozen=True)


class WeightsRecord(Section):
    """Which file holds the tensors, and its size in bytes; ``left_alone``: files of such names that are somebody's."""

    file: Annotated[str, Field(pattern=rf"^{WEIGHTS_PATTERN}$")]
    bytes: _Count
    left_alone: list[Annotated[str, Field(pattern=rf"^{WEIGHTS_PATTERN}$")]] = []


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
    ``beside``: the part of the budget, at the end, in which the trained tables learn beside the counted ones, which are
    counted in all but one of ``parts`` of the text then; 0: they never do.
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
    beside: Annotated[float, Field(ge=0, le=MOST_BESIDE)] = 0.0
    parts: Annotated[int, Field(ge=0, le=64)] = 0
    optimizer: Literal["sgd", "adagrad", "adam"]
    update: Literal["batch", "online"]
    only: Literal["added", "readout"] | None = None
    rewire: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    steps: Annotated[int, Field(ge=1, lt=2**63)] | None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None

    @property
    def schedule(self) -> Schedule | ReferenceSchedule:
        """The learning rate over the run, or over what precedes the training beside counted tables."""
        if self.rate_schedule == "reference":
            return ReferenceSchedule(self.batch)
        return Schedule(peak=self.rate, warmup_steps=self.warmup_steps, end=1 - self.beside)

    @pydantic.model_validator(mode="after")
    def _beside_goes_with_contexts(self) -> TrainingRecord:
        if self.beside and not (self.contexts and self.calibration and self.parts >= 2):
            raise ValueError("beside goes with contexts, calibration and two parts at least")
        if self.beside and self.rate_schedule != "linear":
            raise ValueError("beside goes with rate_schedule linear")
        return self

    @pydantic.model_validator(mode="after")
    def _cap_goes_with_sgd(self) -> TrainingRecord:
        if self.visit_cap is not None and (self.optimizer != "sgd" or self.update != "batch"):
            raise ValueError("visit_cap goes with optimizer sgd and update batch only")
        return self


class BesideRecord(Section):
    """What stands beside the trained tables, from ``progress`` on: how far its parts are believed.

    ``scales``: factors of the counted rows of each kind, two a depth; ``cells``: of the recent tables, None: there are
    none. The readout's own factor is in its rows.
    """

    progress: Annotated[float, Field(ge=0, lt=1)]
    scales: Annotated[list[list[_Finite]], Field(max_length=8)]
    cells: Annotated[list[_Finite], Field(min_length=N_CELLS, max_length=N_CELLS)] | None


class PositionRecord(Section):
    """How far the run has come: steps done, and seconds spent training.

    The position in the data and all randomness follow from the seed and the step.
    """

    step: _Count = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class MetricsRecord(Section):
    """What was measured last, None where nothing was; the ``val`` figures are of the whole held-out part.

    ``readout_scale``: what calibration at the end of the training multiplied the readout's tables by;
    ``context_scales``: the counted tables of each kind, two factors a depth, if there are any.
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
    beside: BesideRecord | None = None
    metrics: MetricsRecord = MetricsRecord()
    quantization: QuantizationRecord | None = None
    start: StartRecord | None = None
    weights: WeightsRecord | None = None

    @property
    def weights_state(self) -> tuple[int, bool, bool]:
        """Differs where weights do: a step's are multiplied where the last part of a run begins, and at its end."""
        return self.position.step, self.beside is not None, self.metrics.readout_scale is not None

    @pydantic.model_validator(mode="after")
    def _beside_fits(self) -> Record:
        if self.beside is not None:
            depths = [min(self.training.contexts, length) for length in LISTS.values()]
            if not self.training.beside or [len(of) for of in self.beside.scales] != [2 * (d + 1) for d in depths]:
                raise ValueError("beside must have two scales for each depth of each kind of contexts that are counted")
        return self

    @pydantic.model_validator(mode="after")
    def _only_what_is_there(self) -> Record:
        if self.training.only == "added" and not (self.start and self.start.add_tables):
            raise ValueError("training only added tables needs a start with add_tables")
        return self
