"""The networks of `polychron.models`, saved and loaded the way of the Hugging Face hub."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE

from polychron import models
from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.models import deep
from polychron.models.config import TableConfig, config_from_fields
from polychron.storage.config_file import LANGUAGE_MODEL, read_config, reason
from polychron.training.checkpoint import open_checkpoint
from polychron.training.classify import open_classifier


class HubModel(PyTorchModelHubMixin, library_name="polychron", tags=["polychron", "spiking", "look-up-tables"]):
    """Adds to a network: ``save_pretrained(folder)``, ``from_pretrained(folder or name)``, ``push_to_hub(name)``.

    A folder has ``model.safetensors``, the network's state, and ``config.json`` with the arguments of the class.
    """

    CONFIG: ClassVar[type[TableConfig]]

    def save_pretrained(
        self, save_directory: str | Path, *, config: dict[str, Any] | None = None, **options: Any
    ) -> str | None:
        """As the mixin does; ``config.json`` makes the network as it is now, which may have grown since it was made."""
        now = {**self._hub_mixin_config, **self._arguments()}
        return super().save_pretrained(save_directory, config=now if config is None else config, **options)

    def _arguments(self) -> dict[str, Any]:
        """Arguments of the class that may have changed, as they would make the network anew; plain values for JSON."""
        return {"network": asdict(self.config)}

    def _save_pretrained(self, save_directory: Path) -> None:
        """Without the padding that rows have in memory, for which the mixin's own way refuses them."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        safetensors.torch.save_file(tensors, save_directory / SAFETENSORS_SINGLE_FILE, metadata={"format": "pt"})

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, revision: str | None = None,
        cache_dir: str | Path | None = None, force_download: bool = False, local_files_only: bool = False,
        token: str | bool | None = None, **arguments: Any,
    ) -> HubModel:  # fmt: skip
        """All tensors and no others, whatever ``strict``: an anchor that is missing would be drawn anew. No pickles."""
        if Path(model_id).is_dir():
            file = str(Path(model_id) / SAFETENSORS_SINGLE_FILE)
        else:
            file = hf_hub_download(
                model_id, SAFETENSORS_SINGLE_FILE, revision=revision, cache_dir=cache_dir,
                force_download=force_download, local_files_only=local_files_only, token=token,
            )  # fmt: skip
        model: Any = cls(**arguments)
        try:
            model.load_state_dict(safetensors.torch.load_file(file), strict=True)
            model.check()
        except OSError as error:
            raise InputError(f"cannot read {file}: {reason(error)}") from None
        except (RuntimeError, ValueError, safetensors.SafetensorError) as error:
            raise InputError(f"{file} is damaged or another model's: {' '.join(str(error).split())}") from None
        return model.to(map_location)

    @classmethod
    def _network(cls, network: TableConfig | dict[str, Any]) -> Any:
        """The configuration, from ``config.json`` if need be; refused where there is no memory for it."""
        config = config_from_fields(cls.CONFIG, network) if isinstance(network, dict) else network
        require_memory(config.n_bytes(), "the tables", "close other programs or use a smaller model")
        return config


def vocabulary_of(byte_values: Any) -> Vocabulary:
    """The vocabulary of ``byte_values``, which a stranger's ``config.json`` may hold.

    Raises:
        InputError: no list of at most 256 byte values, or not in strictly ascending order.

    Example:
        >>> vocabulary_of([97, 98]).byte_values
        b'ab'
    """
    is_list = isinstance(byte_values, Sequence) and not isinstance(byte_values, str) and len(byte_values) <= 256
    if not is_list or not all(type(value) is int and 0 <= value <= 255 for value in byte_values):
        raise InputError(
            "byte_values must be a list of at most 256 whole numbers in [0, 255], the bytes that the model knows; got "
            f"{reprlib.repr(byte_values)}"
        )
    return Vocabulary(bytes(byte_values))


class _HubLanguageModel(HubModel):
    """What the three language models share.

    Args:
        network: sizes, a configuration of `polychron.models` or its fields.
        seed: of what is drawn; what is loaded is as it was saved.
        byte_values: of the vocabulary, ascending; None: not known.

    Raises:
        InputError: an impossible size, a vocabulary of another size than the network's, or too little memory.
    """

    def __init__(
        self, network: models.ModelConfig | dict[str, Any], seed: int = 0, byte_values: Sequence[int] | None = None
    ) -> None:
        config = self._network(network)
        self.vocabulary = None if byte_values is None else vocabulary_of(byte_values)
        if self.vocabulary is not None and self.vocabulary.size != config.vocabulary_size:
            raise InputError(
                f"the network has {config.vocabulary_size} token ids and byte_values make {self.vocabulary.size}"
            )
        super().__init__(config, seed)

    def _arguments(self) -> dict[str, Any]:
        known = self.vocabulary
        if known is not None and known.size != self.config.vocabulary_size:
            raise InputError(
                f"the network has {self.config.vocabulary_size} token ids and its vocabulary makes {known.size}: set "
                "the model's vocabulary to the one that it was extended to"
            )
        return {**super()._arguments(), "byte_values": None if known is None else list(known.byte_values)}


class DelayLM(_HubLanguageModel, models.DelayLM):
    """`polychron.models.DelayLM` with the hub's methods; arguments as for all language models here.

    Args:
        network: sizes, or their fields.
        seed: of the embedding, anchors and delays.
        byte_values: of the vocabulary, or None.

    Example:
        >>> import tempfile
        >>> from polychron.models import DelayConfig
        >>> model = DelayLM(DelayConfig(vocabulary_size=3, n_tables=2, n_comparisons=2), byte_values=list(b"ab"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = model.save_pretrained(folder)
        ...     DelayLM.from_pretrained(folder).vocabulary.byte_values
        b'ab'
    """

    CONFIG = models.DelayConfig


class TransformerLM(_HubLanguageModel, models.TransformerLM):
    """`polychron.models.TransformerLM` with the hub's methods; arguments as `DelayLM`'s."""

    CONFIG = models.TransformerConfig


class RecurrentLM(_HubLanguageModel, models.RecurrentLM):
    """`polychron.models.RecurrentLM` with the hub's methods; arguments as `DelayLM`'s."""

    CONFIG = models.RecurrentConfig


class DeepClassifier(HubModel, deep.DeepClassifier):
    """`polychron.models.deep.DeepClassifier` with the hub's methods.

    Args:
        network: sizes, or their fields.
        seed: of the anchors.
        class_names: one for each class, or None.

    Raises:
        InputError: an impossible size, more or fewer names than classes, or too little memory.
    """

    CONFIG = deep.DeepConfig

    def __init__(
        self, network: deep.DeepConfig | dict[str, Any], seed: int = 0, class_names: Sequence[str] | None = None
    ) -> None:
        config = self._network(network)
        self.class_names = None if class_names is None else list(class_names)
        if self.class_names is not None and len(self.class_names) != config.n_classes:
            raise InputError(f"the network has {config.n_classes} classes; got {len(self.class_names)} class_names")
        super().__init__(config, seed)

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "class_names": self.class_names}


_CLASSES: dict[str, type[HubModel]] = {cls.CONFIG.kind: cls for cls in (DelayLM, TransformerLM, RecurrentLM)}


def from_checkpoint(directory: str | os.PathLike[str]) -> Any:
    """The model that ``polychron train`` or ``train-classifier`` saved in a folder, as one of the classes here.

    Raises:
        InputError: as `polychron.training.open_checkpoint`; or it is quantised.

    Example:
        >>> from_checkpoint("nowhere")
        Traceback (most recent call last):
        ...
        polychron.errors.InputError: nowhere does not exist
    """
    fields, _ = read_config(directory, None)
    if fields.get("task", LANGUAGE_MODEL) == LANGUAGE_MODEL:
        checkpoint = open_checkpoint(directory)
        cls, extra = _CLASSES[checkpoint.config.kind], {"byte_values": checkpoint.record.vocabulary}
    else:
        checkpoint = open_classifier(directory)
        cls, extra = DeepClassifier, {"class_names": checkpoint.record.data.class_names}
    if checkpoint.record.quantization is not None:
        raise InputError(
            f"{directory} is quantised to {checkpoint.record.quantization.precision} and models of the hub are "
            "float32: give the folder that it was made from"
        )
    trained = checkpoint.load_model()
    model = cls(checkpoint.config, seed=checkpoint.record.training.seed, **extra)
    model.load_state_dict(trained.state_dict())
    return model
