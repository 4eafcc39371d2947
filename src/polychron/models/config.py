"""What all configurations share: checks of their fields, and their form as a dictionary."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from polychron.errors import InputError
from polychron.ops.variants import GRADIENTS, HASHES, READINGS

MAX_SIZE = 1 << 16  # of a count of neurons, tables, layers, positions
MAX_ROW_BITS = 30
MAX_PARAMETERS = 1 << 40
# Of all configurations. Older checkpoints do not name these fields, and where one has its default it is not written.
TABLE_TYPES = ("float32", "bfloat16")
VARIANT_FIELDS = ("hash", "reading", "gradient", "n_bins", "bin_width", "temperature")


@dataclass(frozen=True)
class TableConfig:
    """Base of all configurations: a frozen dataclass, saved with the weights.

    The variant, of all layers of a model; see docs/variants.md. By default the paper's, on the native kernels; anything
    else runs in PyTorch.

    Attributes:
        hash: ``"order"``, ``"zero"``, ``"hyperplane"`` or ``"bins"``.
        reading: ``"hard"``, ``"soft"`` or ``"confidence"``.
        gradient: of the hard reading in the latencies: ``"nearest"``, ``"all"``, ``"softmax"`` or ``"scalar"``.
        n_bins: of the bins: a table has n_bins^n_comparisons rows.
        bin_width: distance of two thresholds of the bins, in the latencies' unit of time.
        temperature: of the softmax.
        table_type: of the tables' numbers, ``"float32"`` or ``"bfloat16"``; the latter halves what a step reads, its
            rows are rounded stochastically when they change. Not for variants, nor for the recurrent network.
    """

    kind: ClassVar[str] = ""
    later_fields: ClassVar[tuple[str, ...]] = (*VARIANT_FIELDS, "table_type")
    hash: str = field(default="order", kw_only=True)
    reading: str = field(default="hard", kw_only=True)
    gradient: str = field(default="nearest", kw_only=True)
    n_bins: int = field(default=3, kw_only=True)
    bin_width: float = field(default=1.0, kw_only=True)
    temperature: float = field(default=1.0, kw_only=True)
    table_type: str = field(default="float32", kw_only=True)

    @property
    def variant(self) -> dict[str, Any]:
        """The variant's fields."""
        return {name: getattr(self, name) for name in VARIANT_FIELDS}

    @property
    def is_native(self) -> bool:
        """Whether the paper's layers are used, which the native kernels train."""
        return (self.hash, self.reading, self.gradient) == ("order", "hard", "nearest")

    @property
    def reads_by_order(self) -> bool:
        """Whether a trained model reads one row a table, addressed by order: what the runtime and exports know."""
        return (self.hash, self.reading) == ("order", "hard")

    def check_variant(self) -> None:
        """Raises InputError unless these fields are of their kinds, in range and fit together."""
        self.check_choice("table_type", TABLE_TYPES)
        if self.table_type != "float32" and (not self.is_native or self.kind == "recurrent"):
            raise InputError(
                f"tables of {self.table_type} are for delay, deep and transformer networks without variants"
            )
        self.check_choice("hash", HASHES)
        self.check_choice("reading", READINGS)
        self.check_choice("gradient", GRADIENTS)
        self.check_counts(n_bins=2)
        for name in ("bin_width", "temperature"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
                raise InputError(f"{name} must be a positive, finite number; got {value!r}")
        if self.reading != "hard" and self.gradient != "nearest":
            raise InputError(
                f"gradient {self.gradient} is the hard reading's; the {self.reading} reading is differentiated as it is"
            )
        if self.hash == "bins" and self.gradient == "softmax":
            raise InputError("gradient softmax needs rows whose index is made of bits; hash bins has none")

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in the tables."""
        return 4 if self.table_type == "float32" else 2

    def n_rows(self, n_comparisons: int) -> int:
        """Rows of a table with so many comparisons."""
        return self.n_bins**n_comparisons if self.hash == "bins" else 1 << n_comparisons

    def n_trained_beside(self, n_tables: int, n_comparisons: int, n_inputs: int) -> int:
        """Numbers that a layer of the variant trains beside its tables: directions, and beta and gamma."""
        directions = n_tables * n_comparisons * n_inputs if self.hash == "hyperplane" else 0
        return directions + (2 if self.reading == "confidence" else 0)

    def check_counts(self, **lowest: int) -> None:
        """Raises InputError unless each named field is an integer from its lowest value to 65,536."""
        for name, low in lowest.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= MAX_SIZE:
                raise InputError(f"{name} must be an integer in [{low}, {MAX_SIZE}]; got {value!r}")

    def check_choice(self, name: str, choices: tuple) -> None:
        """Raises InputError unless the field is one of ``choices``."""
        if getattr(self, name) not in choices:
            raise InputError(f"{name} must be one of {', '.join(map(str, choices))}; got {getattr(self, name)!r}")

    def check_row_bits(self, what: str, n_bits: int) -> None:
        """Raises InputError when a table's index would have more than 30 bits; a bin's digit has log2 n_bins."""
        if self.hash == "bins" and n_bits * math.log2(self.n_bins) > MAX_ROW_BITS:
            raise InputError(f"{what} must give rows an index of at most 2^{MAX_ROW_BITS}; got {self.n_bins}^{n_bits}")
        if n_bits > MAX_ROW_BITS:
            raise InputError(f"{what} must give rows an index of at most {MAX_ROW_BITS} bits; got {n_bits}")

    def check_parameters(self) -> None:
        """Raises InputError when the model would be impossibly large."""
        if self.n_parameters() > MAX_PARAMETERS:
            raise InputError(f"a model must have at most 2^40 parameters; this one would have {self.n_parameters()}")

    def n_parameters(self) -> int:
        """Numbers in the tables, embeddings and position codes, computed without making them."""
        raise NotImplementedError

    def n_bytes(self) -> int:
        """Memory that these take."""
        return self.number_bytes * self.n_parameters()

    def to_dict(self) -> dict[str, Any]:
        """The fields, with the kind of model, as plain values for JSON; of ``later_fields`` those not at default."""
        usual = {field.name: field.default for field in fields(self) if field.name in self.later_fields}
        values = {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {"kind": self.kind, **plain}


@dataclass(frozen=True)
class ModelConfig(TableConfig):
    """Base of the language models' configurations.

    Attributes:
        vocabulary_size: token ids lie in [0, vocabulary_size).
    """

    vocabulary_size: int


def config_from_fields(cls: type[TableConfig], values: dict[str, Any]) -> TableConfig:
    """The configuration with these fields.

    Raises:
        InputError: a field is missing, unknown, of the wrong type or out of range.
    """
    known = {field.name for field in fields(cls)}
    missing = known - values.keys() - set(cls.later_fields)
    if missing or values.keys() - known:
        raise InputError(
            f"a {cls.kind} configuration has the fields {', '.join(sorted(known))}; "
            f"unknown: {sorted(values.keys() - known)}, missing: {sorted(missing)}"
        )
    return cls(**values)
