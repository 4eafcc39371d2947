"""Files of a result folder: each finished run is one, so that an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from polychron.errors import InputError
from polychron.reproduce.kept import read_object

OURS = "polychron"
TRAINED = "polychron-trained"  # its trained tables alone, without counted contexts
OWN = (OURS, TRAINED)
COUNTED = "-counted"  # ends the name of a twin beside our counted and recent tables


@dataclass(frozen=True)
class Result:
    """What one run came to.

    Attributes:
        model: name of the contestant.
        budget: seconds of training that were given; None for a reference, which takes what it needs.
        seed: None for a reference.
        nats_per_byte: of all held-out bytes.
        scored_bytes: how many that are.
        seconds: that training took.
        trained_bytes: predicted while training.
        parameters: trained numbers; None for a reference.
        operations: per byte read, by the rule of `polychron.twins.cost`; None where it is not counted.
        bytes_touched: per byte read.
        training_operations: per byte trained on.
        settings: what a reader needs to do it again.
        conditions: machine, versions, commit.
        adapting_nats_per_byte: of the same bytes, if the model goes on learning from each part after it was scored.
        curve: (seconds, trained bytes, nats per byte of a sample of the held-out part) on the way.
    """

    model: str
    budget: float | None
    seed: int | None
    nats_per_byte: float
    scored_bytes: int
    seconds: float
    trained_bytes: int
    parameters: int | None = None
    operations: float | None = None
    bytes_touched: float | None = None
    training_operations: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    adapting_nats_per_byte: float | None = None
    curve: list[tuple[float, int, float]] = field(default_factory=list)

    @property
    def bytes_per_second(self) -> float:
        """Training speed."""
        return self.trained_bytes / max(self.seconds, 1e-9)


class ResultFolder:
    """A folder of results about one text and number of threads.

    Args:
        directory: made if it is not there.
        about: what all its results have in common: text, threads, machine. A folder about something else is refused.
        resume: whether the folder may hold results already.

    Raises:
        InputError: the folder holds something and ``resume`` is not said, or it is about something else.
    """

    def __init__(self, directory: Path, about: dict[str, Any], *, resume: bool):
        self.directory = directory
        if directory.exists() and not directory.is_dir():
            raise InputError(f"--out {directory} is not a folder")
        if directory.is_dir() and any(directory.iterdir()) and not resume:
            raise InputError(f"--out {directory} is not empty: add --resume to go on with it, or name another folder")
        kept = self.once("about.json", lambda: about)
        for name, value in about.items():
            if kept.get(name) != value:
                raise InputError(
                    f"the results in {directory} are about {name} {kept.get(name)!r}, not {value!r}: name another --out"
                )

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The content of a file; made, and written beside and renamed, if it is not there.

        Raises:
            InputError: the file is there and is not one of ours.
        """
        path = self.directory / name
        if path.exists():
            return read_object(path)
        values = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return values

    def run_once(self, name: str, make: Callable[[], Result]) -> Result:
        """The same for a run's result."""
        values = self.once(f"runs/{name}.json", lambda: asdict(make()))
        return _result(values, self.directory / "runs" / f"{name}.json")

    def has(self, name: str) -> bool:
        """Whether a run's result is there."""
        return (self.directory / "runs" / f"{name}.json").exists()


def read_results(directory: Path) -> tuple[dict[str, Any], list[Result], dict[str, dict[str, Any]]]:
    """What a result folder is about, its runs, and its tunings by name.

    Raises:
        InputError: it holds none.
    """
    paths = sorted((directory / "runs").glob("*.json"))
    if not paths:
        raise InputError(f"{directory} holds no results: run the benchmark with --out {directory} first")
    tunings = {path.stem: read_object(path) for path in sorted((directory / "tuning").glob("*.json"))}
    return read_object(directory / "about.json"), [_result(read_object(path), path) for path in paths], tunings


def _result(values: dict[str, Any], path: Path) -> Result:
    try:
        return Result(**{**values, "curve": [tuple(point) for point in values["curve"]]})
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} is not a result of this benchmark: {error}; remove it to measure again") from None
