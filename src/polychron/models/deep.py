"""DeepClassifier: the paper's deep network (equation 10) on pixels that fire by brightness."""

# B example, K class

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polychron.anchors import ANCHOR_KINDS, draw_anchors, sensory_anchors
from polychron.errors import InputError
from polychron.models.config import TableConfig, config_from_fields
from polychron.models.layers import make_readout, make_tables
from polychron.nn import LookupTables, VariantTables
from polychron.nn.row_layer import anchors_in_range


@dataclass(frozen=True)
class DeepConfig(TableConfig):
    """Sizes of a :class:`DeepClassifier`.

    Attributes:
        n_pixels: inputs of an example.
        n_classes: classes.
        width: pixels in a row of an image: anchors are near each other. 0: inputs are no image.
        n_references: neurons that fire at set times between black and white; a comparison with one is a threshold.
        reference_share: part of the comparisons that are thresholds.
        radius: distance of the two pixels of a comparison, a standard deviation in pixels.
        n_layers: residual layers; 0: the readout alone.
        n_tables: tables in a layer.
        n_comparisons: anchor pairs a table.
        readout_n_tables: tables of the readout.
        readout_n_comparisons: anchor pairs a table of the readout.
        anchors: ``"sensory"`` (near pixels, and thresholds), or any two neurons, ``"random"``, ``"covering"`` or
            ``"independent"``.
    """

    kind: ClassVar[str] = "deep"
    later_fields: ClassVar[tuple[str, ...]] = (*TableConfig.later_fields, "anchors")
    n_pixels: int
    n_classes: int
    width: int = 0
    n_references: int = 8
    reference_share: float = 1 / 3
    radius: float = 4.0
    n_layers: int = 1
    n_tables: int = 64
    n_comparisons: int = 8
    readout_n_tables: int = 1024
    readout_n_comparisons: int = 8
    anchors: str = "sensory"

    def __post_init__(self) -> None:
        self.check_counts(
            n_pixels=2, n_classes=2, width=0, n_references=0, n_layers=0, n_tables=1, n_comparisons=1,
            readout_n_tables=1, readout_n_comparisons=1,
        )  # fmt: skip
        self.check_variant()
        self.check_choice("anchors", ("sensory", *ANCHOR_KINDS))
        self.check_row_bits("n_comparisons", self.n_comparisons)
        self.check_row_bits("readout_n_comparisons", self.readout_n_comparisons)
        if self.width and self.n_pixels % self.width:
            raise InputError(f"width must divide n_pixels = {self.n_pixels}; got {self.width}")
        for name, highest in (("reference_share", 1.0), ("radius", 65536.0)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= highest:
                raise InputError(f"{name} must be a number in [0, {highest:g}]; got {value!r}")
        self.check_parameters()

    @property
    def n_neurons(self) -> int:
        """Pixels and references."""
        return self.n_pixels + self.n_references

    def n_parameters(self) -> int:
        """Numbers in the tables and the references' latencies."""
        layer = self.n_tables * self.n_rows(self.n_comparisons) * self.n_neurons
        layers = self.n_layers * (layer + self.n_trained_beside(self.n_tables, self.n_comparisons, self.n_neurons))
        readout = self.readout_n_tables * self.n_rows(self.readout_n_comparisons) * self.n_classes
        readout += self.n_trained_beside(self.readout_n_tables, self.readout_n_comparisons, self.n_neurons)
        return layers + readout + self.n_references


class DeepClassifier(nn.Module):
    r"""Residual layers of tables on the latencies of an image, then a readout of logits.

    .. math:: x = 1 - \mathrm{brightness},\quad x \leftarrow x + S^l_x,\quad \mathrm{logits} = U_x

    A bright pixel fires early. Layers change when pixels fire, later layers compare the changed times; with tables at 0
    every layer is the identity, so that depth costs nothing before it has learnt something.

    Args:
        config: sizes.
        seed: of the anchors. The tables start at 0.

    Shapes: inputs (B, n_pixels) float32, brightness in [0, 1]; logits (B, n_classes).

    Source: Spiking Manifesto, equations 9 and 10.

    Example:
        >>> model = DeepClassifier(DeepConfig(n_pixels=64, n_classes=10, width=8, readout_n_tables=16))
        >>> model(torch.rand(5, 64)).shape
        torch.Size([5, 10])
    """

    def __init__(self, config: DeepConfig, seed: int = 0):
        super().__init__()
        self.config = config
        seeds = torch.Generator().manual_seed(seed)
        self.register_buffer("references", _spread(config.n_references))
        n = config.n_neurons
        self.layers = nn.ModuleList(
            make_tables(
                config, n, n, config.n_tables, config.n_comparisons, residual=True,
                anchors=_draw(config, config.n_tables, config.n_comparisons, seeds),
            )
            for _ in range(config.n_layers)
        )  # fmt: skip
        self.readout = make_readout(
            config, n, config.n_classes, config.readout_n_tables, config.readout_n_comparisons,
            anchors=_draw(config, config.readout_n_tables, config.readout_n_comparisons, seeds),
        )  # fmt: skip

    def latencies(self, inputs: Tensor) -> Tensor:
        """Brightness (B, n_pixels) to the latencies (B, n_neurons) that the readout reads."""
        if inputs.dim() != 2 or inputs.shape[1] != self.config.n_pixels:
            raise ValueError(f"inputs must have shape (B, {self.config.n_pixels}); got {tuple(inputs.shape)}")
        x = torch.cat([1 - inputs, self.references.expand(len(inputs), -1)], dim=1)
        if self.config.hash in ("zero", "hyperplane"):  # unlike an order these know the window's centre
            x = x - 0.5
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, n_classes)."""
        return self.readout(self.latencies(inputs))

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Sum over the batch of the nats of ``labels`` (B,) int64: a 0-dim tensor."""
        return self.readout.loss(self.latencies(inputs)[None], labels[None]).sum()

    def train_step(self, inputs: Tensor, labels: Tensor) -> float:
        """``loss(inputs, labels).backward()``; returns the loss."""
        loss = self.loss(inputs, labels)
        loss.backward()
        return loss.item()

    def n_parameters(self) -> int:
        """Numbers in the tables and the references' latencies."""
        return self.config.n_parameters()

    def check(self) -> None:
        """Raises ValueError when anchors, as loaded from a file, do not fit the model."""
        for name, layer in self.named_modules():
            if isinstance(layer, (LookupTables, VariantTables)) and not anchors_in_range(layer.anchors, layer.n_inputs):
                raise ValueError(f"{name}.anchors must be pairs of different neurons in [0, {layer.n_inputs})")


def _spread(n: int) -> Tensor:
    """n latencies between 0 and 1, evenly spaced."""
    return torch.linspace(0, 1, n + 2, dtype=torch.float32, device="cpu")[1:-1]


def _draw(config: DeepConfig, n_tables: int, n_comparisons: int, seeds: torch.Generator) -> Tensor:
    seed = int(torch.randint(1 << 31, (), generator=seeds, device="cpu"))
    if config.anchors != "sensory":
        return draw_anchors(config.anchors, config.n_neurons, n_tables, n_comparisons, seed)
    return sensory_anchors(
        config.n_pixels, config.n_references, n_tables, n_comparisons, width=config.width, radius=config.radius,
        reference_share=config.reference_share, seed=seed,
    )  # fmt: skip


def deep_config_from_dict(values: dict[str, Any]) -> DeepConfig:
    """The configuration that :meth:`DeepConfig.to_dict` wrote.

    Raises:
        InputError: another kind, or a field that is missing, unknown or out of range.

    Example:
        >>> config = DeepConfig(n_pixels=64, n_classes=10)
        >>> deep_config_from_dict(config.to_dict()) == config
        True
    """
    if values.get("kind") != DeepConfig.kind:
        raise InputError(f"kind of a classifier must be {DeepConfig.kind}; got {values.get('kind')!r}")
    return config_from_fields(DeepConfig, {name: value for name, value in values.items() if name != "kind"})


@dataclass(frozen=True)
class ClassifierPreset:
    """Fields of a configuration that differ from its defaults, and settings to train it with.

    Attributes:
        fields: of :class:`DeepConfig`.
        batch: examples in a step.
        rate: peak learning rate of plain SGD, for a loss summed over the batch. All tables move in a step, so that the
            best rate falls with their number.
        warmup_steps: steps in which the rate rises to its peak.
    """

    fields: dict[str, Any]
    batch: int
    rate: float
    warmup_steps: int = 20


CLASSIFIER_PRESETS = {
    "tiny": ClassifierPreset({"readout_n_tables": 256, "n_tables": 16, "n_comparisons": 6}, batch=64, rate=0.01),
    "small": ClassifierPreset({}, batch=256, rate=0.003),
    "base": ClassifierPreset({"readout_n_tables": 2048}, batch=256, rate=0.002),
}


def classifier_preset(name: str) -> ClassifierPreset:
    """A preset by name.

    Raises:
        InputError: no such preset.

    Example:
        >>> classifier_preset("small").batch
        256
    """
    if name not in CLASSIFIER_PRESETS:
        raise InputError(f"preset of a classifier must be one of {', '.join(CLASSIFIER_PRESETS)}; got {name!r}")
    return CLASSIFIER_PRESETS[name]
