"""What all configurations share: checks of their fields, and their form as a dictionary."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from polychron.errors import InputError

MAX_SIZE = 1 << 16  # of a count of neurons, tables, layers, positions
MAX_ROW_BITS = 30
MAX_PARAMETERS = 1 << 40


@dataclass(frozen=True)
class TableConfig:
    """Base of all configurations: a frozen dataclass, saved with the weights."""

    kind: ClassVar[str] = ""

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
        """Raises InputError when a table's index would have more than 30 bits."""
        if n_bits > MAX_ROW_BITS:
            raise InputError(f"{what} must give rows an index of at most {MAX_ROW_BITS} bits; got {n_bits}")

    def check_parameters(self) -> None:
        """Raises InputError when the model would be impossibly large."""
        if self.n_parameters() > MAX_PARAMETERS:
            raise InputError(f"a model must have at most 2^40 parameters; this one would have {self.n_parameters()}")

    def n_parameters(self) -> int:
        """Numbers in the tables, embeddings and position codes, computed without making them."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The fields, with the kind of model, as plain values for JSON."""
        return {"kind": self.kind, **asdict(self)}


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
    if values.keys() != known:
        raise InputError(
            f"a {cls.kind} configuration has the fields {', '.join(sorted(known))}; "
            f"unknown: {sorted(values.keys() - known)}, missing: {sorted(known - values.keys())}"
        )
    return cls(**values)
