"""Named sizes of models, with the training settings that suit them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from polychron.errors import InputError
from polychron.models.config import ModelConfig
from polychron.models.delay import DelayConfig
from polychron.models.recurrent import RecurrentConfig
from polychron.models.transformer import TransformerConfig

# Measured on texts of 1 and 4 MB: the best part to leave out grows with the passes that one member learns from.
PASSES_OF_FULL_DROP = 32

# More members make the tables of a long run larger than any cache.
MOST_MEMBERS = 6

# A text that is read as often, or more often, is remembered; then a fiftieth of it, at most 64 KiB, calibrates.
CALIBRATE_FROM_PASSES = 6


# Of SGD's rate; searched for on Tiny Shakespeare (docs/log.md).
_RATE_OF_OPTIMIZER = {"sgd": 1.0, "adagrad": 2.5, "adam": 0.5}


@dataclass(frozen=True)
class TrainingDefaults:
    """Settings of a run that its preset suggests.

    Attributes:
        batch: windows in a step.
        length: bytes in a window.
        rate: peak learning rate of SGD, for a loss summed over positions.
        warmup_steps: steps in which the rate rises to its peak.
        visit_cap: of SGD: a row read more often in one step moves as if read so often.
        drop: part of a layer's tables that a step leaves out, against overfitting, where each member learns from at
            least ``PASSES_OF_FULL_DROP`` passes over the text; in proportion less where from fewer.
        members_per_root_pass: members of an ensemble, for one pass over the text; their number grows with the passes'
            square root. 0: one member always.
        contexts: bytes of the deepest contexts that are counted beside the training; 0: none are.
        bytes_per_second: what two ordinary cores train on; to guess how often a run of so many minutes reads its text.
    """

    batch: int
    length: int
    rate: float
    warmup_steps: int
    visit_cap: int
    drop: float = 0.0
    members_per_root_pass: float = 0.0
    contexts: int = 0
    bytes_per_second: int = 400_000

    def rate_for(self, optimizer: str) -> float:
        """The peak learning rate by optimizer: steps of Adam and Adagrad do not grow with the gradient.

        Example:
            >>> [training_defaults("delay", "small").rate_for(kind) for kind in ("sgd", "adagrad", "adam")]
            [0.02, 0.05, 0.01]
        """
        return self.rate * _RATE_OF_OPTIMIZER[optimizer]

    def drop_for(self, n_bytes: float, n_text: int, members: int = 1) -> float:
        """The part to leave out in a run over ``n_bytes`` bytes of a text of ``n_text``, to the hundredth."""
        passes = n_bytes / (members * max(n_text, 1))
        return round(self.drop * min(1.0, passes / PASSES_OF_FULL_DROP), 2)

    def members_for(self, n_bytes: float, n_text: int) -> int:
        """Members of the ensemble in a run over ``n_bytes`` bytes of a text of ``n_text``.

        Measured on a text of 1 MB: two are best after ten passes, three after 24; a readout of few tables bears fewer.

        Example:
            >>> defaults = training_defaults("delay", "medium")
            >>> [defaults.members_for(n_bytes, 1_000_000) for n_bytes in (1e6, 1e7, 24e6, 1e9)]
            [1, 2, 3, 6]
        """
        passes = n_bytes / max(n_text, 1)
        return min(MOST_MEMBERS, max(1, round(self.members_per_root_pass * passes**0.5)))


def calibration_bytes(n_bytes: float, n_text: int, *, contexts: bool = False) -> int:
    """Bytes to set aside for calibration in a run over ``n_bytes`` bytes of a text of ``n_text``.

    Counted contexts always need some, of a short text a tenth. None can be spared of one that is very short.

    Example:
        >>> calibration_bytes(24e6, 1_000_000), calibration_bytes(24e6, 3_600_000), calibration_bytes(24e6, 12_000_000)
        (20000, 65536, 0)
        >>> [calibration_bytes(24e6, n, contexts=True) for n in (12_000_000, 50_000, 10_000, 5_000)]
        [65536, 2048, 1000, 0]
    """
    n_aside = min(n_text // 50, 1 << 16)
    if contexts:
        n_aside = max(n_aside, min(n_text // 10, 2048))
        return n_aside if n_aside >= 1000 else 0
    return n_aside if n_bytes >= CALIBRATE_FROM_PASSES * n_text and n_aside >= 2048 else 0


@dataclass(frozen=True)
class Preset:
    """Fields of a configuration that differ from its defaults, and training settings.

    ``from_minutes``: runs of at least so many minutes take it by default; None: only where it is asked for.
    """

    fields: dict[str, Any]
    training: TrainingDefaults
    from_minutes: float | None = None


def _of_windows(batch: int, rate: float, bytes_per_second: int) -> TrainingDefaults:
    """Of networks that read windows as long as the paper's."""
    return TrainingDefaults(batch, 32, rate, warmup_steps=20, visit_cap=64, bytes_per_second=bytes_per_second)


def _delay_training(
    drop: float, bytes_per_second: int, members_per_root_pass: float = 0.0, contexts: int = 0
) -> TrainingDefaults:
    return TrainingDefaults(
        batch=32, length=128, rate=0.02, warmup_steps=20, visit_cap=64, drop=drop,
        members_per_root_pass=members_per_root_pass, contexts=contexts, bytes_per_second=bytes_per_second,
    )  # fmt: skip


CONFIGS: dict[str, type[ModelConfig]] = {
    "delay": DelayConfig,
    "transformer": TransformerConfig,
    "recurrent": RecurrentConfig,
}

PRESETS: dict[str, dict[str, Preset]] = {
    "delay": {
        # In int8 with its program less than 256 KB, what a small microcontroller has.
        "micro": Preset(
            {"n_tables": 16, "n_comparisons": 8, "readout_n_tables": 8, "readout_n_comparisons": 7},
            _delay_training(drop=0.0, bytes_per_second=1_000_000),
        ),
        "tiny": Preset(
            {"n_tables": 32, "n_comparisons": 8, "readout_n_tables": 8, "readout_max_delay": 3},
            _delay_training(drop=0.15, bytes_per_second=900_000),
        ),
        "small": Preset(
            {"readout_n_comparisons": 12, "readout_max_delay": 3},
            _delay_training(drop=0.35, bytes_per_second=350_000, members_per_root_pass=0.4, contexts=7),
            from_minutes=0,
        ),
        "medium": Preset(
            {
                "n_layers": 2,
                "readout_n_tables": 32,
                "readout_n_comparisons": 12,
                "readout_max_delay": 7,
                "table_type": "bfloat16",
            },
            _delay_training(drop=0.4, bytes_per_second=200_000, members_per_root_pass=0.6, contexts=7),
            from_minutes=2,
        ),
        "base": Preset(
            {
                "n_neurons": 64,
                "n_layers": 2,
                "readout_n_tables": 32,
                "readout_n_comparisons": 12,
                "readout_max_delay": 7,
                "table_type": "bfloat16",
            },
            _delay_training(drop=0.4, bytes_per_second=160_000, members_per_root_pass=0.6, contexts=7),
            from_minutes=6,
        ),
    },
    "transformer": {
        "paper-small": Preset(
            {"n_layers": 2, "n_heads": 1, "n_comparisons": 4, "window": 8},
            _of_windows(64, rate=0.02, bytes_per_second=150_000),
        ),
        "paper": Preset({}, _of_windows(64, rate=0.02, bytes_per_second=10_000)),
    },
    "recurrent": {
        "small": Preset(
            {"n_neurons": 32, "n_comparisons": 8},
            _of_windows(128, rate=0.01, bytes_per_second=350_000),
        ),
        "paper": Preset({}, _of_windows(128, rate=0.01, bytes_per_second=75_000)),
    },
}

DEFAULT_PRESETS = {"delay": "small", "transformer": "paper-small", "recurrent": "small"}


def default_preset(kind: str, minutes: float) -> str:
    """The preset that suits a run of so many minutes on two ordinary cores.

    Example:
        >>> [default_preset("delay", minutes) for minutes in (1, 3, 10)]
        ['small', 'medium', 'base']
        >>> default_preset("transformer", 10)
        'paper-small'
    """
    suited = [(p.from_minutes, name) for name, p in PRESETS[kind].items() if p.from_minutes is not None]
    return max(((start, name) for start, name in suited if minutes >= start), default=(0, DEFAULT_PRESETS[kind]))[1]


def preset_names(kind: str) -> list[str]:
    """Names of the presets of a kind of model.

    Raises:
        InputError: no such kind.

    Example:
        >>> preset_names("transformer")
        ['paper-small', 'paper']
    """
    if kind not in PRESETS:
        raise InputError(f"model must be one of {', '.join(PRESETS)}; got {kind!r}")
    return list(PRESETS[kind])


def _find(kind: str, name: str) -> Preset:
    names = preset_names(kind)
    if name not in names:
        raise InputError(f"preset of a {kind} model must be one of {', '.join(names)}; got {name!r}")
    return PRESETS[kind][name]


def preset(kind: str, name: str, vocabulary_size: int) -> ModelConfig:
    """The configuration of a preset for a vocabulary.

    Example:
        >>> preset("delay", "small", vocabulary_size=83).n_tables
        64
    """
    return CONFIGS[kind](vocabulary_size=vocabulary_size, **_find(kind, name).fields)


def with_members(config: ModelConfig, members: int) -> ModelConfig:
    """The configuration with a readout of its size for each of the members.

    Raises:
        InputError: the model's readout has no size of its own.

    Example:
        >>> with_members(preset("delay", "small", vocabulary_size=83), 3).readout_n_tables
        48
    """
    if members == 1:
        return config
    return replace(config, readout_n_tables=members * _readout_tables(config))


def check_members(config: ModelConfig, members: int) -> None:
    """Whether members can share the readout of a model as it is.

    Raises:
        InputError: its tables cannot be divided among them.

    Example:
        >>> check_members(preset("delay", "small", vocabulary_size=83), 4)
    """
    if members > 1 and _readout_tables(config) % members:
        raise InputError(
            f"--members {members} must divide the {_readout_tables(config)} tables of the model's readout evenly"
        )


def _readout_tables(config: ModelConfig) -> int:
    if not hasattr(config, "readout_n_tables"):
        raise InputError(f"members of an ensemble go with a delay or recurrent model; the model is {config.kind}")
    return config.readout_n_tables


def training_defaults(kind: str, name: str) -> TrainingDefaults:
    """The training settings of a preset.

    Example:
        >>> training_defaults("delay", "small").length
        128
    """
    return _find(kind, name).training
