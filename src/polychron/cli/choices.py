"""What options of the command line may be set to."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from polychron.errors import InputError

MOST_MINUTES = 10**9


class ModelKind(str, Enum):
    """Values of ``--model``."""

    delay = "delay"
    transformer = "transformer"
    recurrent = "recurrent"


class HoldoutKind(str, Enum):
    """Values of ``--holdout``."""

    blocks = "blocks"
    tail = "tail"


class DeviceKind(str, Enum):
    """Values of ``--device``."""

    cpu = "cpu"
    cuda = "cuda"


class OptimizerKind(str, Enum):
    """Values of ``--optimizer``."""

    sgd = "sgd"
    adagrad = "adagrad"
    adam = "adam"


class ExportKind(str, Enum):
    """Values of ``export --to``."""

    c = "c"
    hf = "hf"
    onnx = "onnx"
    web = "web"


class Precision(str, Enum):
    """Values of ``quantize --to``."""

    int8 = "int8"
    bfloat16 = "bfloat16"


class Augmentation(str, Enum):
    """Values of ``--augment``."""

    none = "none"
    shift = "shift"
    shift_mirror = "shift+mirror"


class Element(str, Enum):
    """Values of ``--element``."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


class Part(str, Enum):
    """Values of ``--only``."""

    added = "added"
    readout = "readout"


class UpdateKind(str, Enum):
    """Values of ``--update``."""

    batch = "batch"
    online = "online"


class ScheduleKind(str, Enum):
    """Values of ``--schedule``."""

    linear = "linear"
    reference = "reference"


class TableType(str, Enum):
    """Values of ``--tables``."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class HashKind(str, Enum):
    """Values of ``--hash``."""

    order = "order"
    bins = "bins"
    zero = "zero"
    hyperplane = "hyperplane"


class ReadingKind(str, Enum):
    """Values of ``--reading``."""

    hard = "hard"
    soft = "soft"
    confidence = "confidence"


class GradientKind(str, Enum):
    """Values of ``--gradient``."""

    nearest = "nearest"
    all = "all"
    softmax = "softmax"
    scalar = "scalar"


class AnchorKind(str, Enum):
    """Values of ``train --anchors``."""

    random = "random"
    covering = "covering"
    independent = "independent"


class SensoryAnchorKind(str, Enum):
    """Values of ``train-classifier --anchors``."""

    sensory = "sensory"
    random = "random"
    covering = "covering"
    independent = "independent"


class ReproducedItem(str, Enum):
    """Values of ``reproduce ITEM``."""

    table1 = "table1"
    table2 = "table2"
    table3 = "table3"
    table4 = "table4"
    fig3 = "fig3"
    fig13 = "fig13"
    ablation = "ablation"
    all = "all"


class ScaleKind(str, Enum):
    """Values of ``--scale``."""

    small = "small"
    full = "full"


Hash = Annotated[HashKind | None, typer.Option(help="How latencies address rows. [default: order]")]
Reading = Annotated[ReadingKind | None, typer.Option(help="What of the rows is added. [default: hard]")]
Gradient = Annotated[
    GradientKind | None, typer.Option(help="What latencies learn from, of the hard reading. [default: nearest]")
]
Bins = Annotated[
    int | None, typer.Option(min=2, max=65_536, help="Bins of a comparison under --hash bins. [default: 3]")
]

# What `train` and `train-classifier` have in common.
Minutes = Annotated[
    float | None, typer.Option(help="Train so long; validating and saving take no part of it. [default: 1]")
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, max=2**63 - 1, help="Train so many steps, instead of minutes: reproducible to the bit."),
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Of all randomness. [default: 0]")]
Rate = Annotated[float | None, typer.Option(help="Learning rate at its highest. [default: the preset's]")]
Optimizer = Annotated[OptimizerKind | None, typer.Option(help="How rows are updated. [default: sgd]")]
RunFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder for the checkpoint. [default: a new one in runs/]")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the checkpoint in --out, with the settings it records.")
]

Threads = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="Threads to compute with; the native kernels give the same bits with any number."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON objects, one a line, and nothing else.")]


def _folder(given: str) -> Path:
    if not given:  # it would mean the working folder
        raise typer.BadParameter("DIR is empty: perhaps a variable of the shell that is not set")
    return Path(given)


Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of a checkpoint.", show_default=False, parser=_folder)
]
Labelled = (
    "fashion-mnist, mnist-5k or digits; a folder of idx files or of UCI HAPT's raw data; or a .csv file, label last."
)


def value_of(choice: Enum | None) -> str | None:
    """What was chosen; None where nothing was."""
    return None if choice is None else choice.value


def require_minutes(minutes: float | None) -> None:
    """Raises InputError unless the minutes, if given, can be trained."""
    if minutes is not None and not 0 < minutes <= MOST_MINUTES:
        raise InputError(f"--minutes must be positive and at most {MOST_MINUTES:,}; got {minutes:g}")


def recorded_minutes(seconds: float | None, given: float | None) -> float | None:
    """The minutes of a run of so many seconds; as they are given again, for 60 * minutes / 60 need not be minutes.

    Example:
        >>> recorded_minutes(60 * 0.015, None), recorded_minutes(60 * 0.015, 0.015)
        (0.014999999999999998, 0.015)
    """
    if given is not None and seconds == 60 * given:
        return given
    return None if seconds is None else seconds / 60
