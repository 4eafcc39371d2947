"""Language models of look-up tables: configurations, presets, and the networks from token ids to logits."""

from __future__ import annotations

from typing import Any

from polychron.errors import InputError
from polychron.models.config import ModelConfig, config_from_fields
from polychron.models.delay import DelayConfig, DelayLM
from polychron.models.language_model import LanguageModel
from polychron.models.presets import (
    CONFIGS,
    DEFAULT_PRESETS,
    TrainingDefaults,
    calibration_bytes,
    check_members,
    default_preset,
    preset,
    preset_names,
    training_defaults,
    with_members,
)
from polychron.models.recurrent import RecurrentConfig, RecurrentLM
from polychron.models.transformer import TransformerConfig, TransformerLM
from polychron.models.variants import with_variant

__all__ = [
    "DEFAULT_PRESETS",
    "DelayConfig",
    "DelayLM",
    "LanguageModel",
    "ModelConfig",
    "RecurrentConfig",
    "RecurrentLM",
    "TrainingDefaults",
    "TransformerConfig",
    "TransformerLM",
    "build",
    "calibration_bytes",
    "check_members",
    "config_from_dict",
    "default_preset",
    "preset",
    "preset_names",
    "training_defaults",
    "with_members",
    "with_variant",
]

_MODELS: dict[str, type[LanguageModel]] = {"delay": DelayLM, "transformer": TransformerLM, "recurrent": RecurrentLM}


def build(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """The model of a configuration, its anchors, delays and embedding drawn from ``seed``, its tables at 0.

    Example:
        >>> build(DelayConfig(vocabulary_size=27, n_tables=2, n_comparisons=2), seed=1).config.vocabulary_size
        27
    """
    return _MODELS[config.kind](config, seed)


def config_from_dict(values: dict[str, Any]) -> ModelConfig:
    """The configuration that :meth:`ModelConfig.to_dict` wrote.

    Raises:
        InputError: the kind is unknown, or a field is missing, unknown or out of range.

    Example:
        >>> config = DelayConfig(vocabulary_size=27)
        >>> config_from_dict(config.to_dict()) == config
        True
    """
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise InputError(f"kind of model must be one of {', '.join(CONFIGS)}; got {kind!r}")
    return config_from_fields(CONFIGS[kind], {name: value for name, value in values.items() if name != "kind"})
