from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from polychron import hub, models
from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.models.deep import DeepConfig
from polychron.models.growth import add_comparisons, add_tables, extend_vocabulary

from ..runtime.conftest import BYTE_VALUES, COUNTED, MODELS, random_model, save_model

RECURRENT = models.RecurrentConfig(
    vocabulary_size=28, n_neurons=8, n_tables=3, n_comparisons=4, readout_n_tables=3, readout_n_comparisons=4
)
NETWORKS = {
    "delay": (hub.DelayLM, MODELS["two delay layers"]),
    "transformer": (hub.TransformerLM, MODELS["attention only"]),
    "recurrent": (hub.RecurrentLM, RECURRENT),
    "deep": (hub.DeepClassifier, DeepConfig(n_pixels=20, n_classes=3, n_tables=4, readout_n_tables=6)),
}


def filled(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.manual_seed(i)))
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_saved_is_loaded(name: str, tmp_path: Path):
    cls, config = NETWORKS[name]
    extra = {"class_names": ["a", "b", "c"]} if name == "deep" else {"byte_values": list(BYTE_VALUES[:27])}
    model = filled(cls(config, seed=5, **extra))
    model.save_pretrained(tmp_path / "saved")
    loaded = cls.from_pretrained(tmp_path / "saved")
    assert type(loaded) is cls
    assert loaded.config == config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    if name == "deep":
        assert loaded.class_names == ["a", "b", "c"]
    else:
        assert loaded.vocabulary.byte_values == BYTE_VALUES[:27]
    assert "README.md" in {path.name for path in (tmp_path / "saved").iterdir()}


@pytest.mark.parametrize("name", ["delay", "transformer", "recurrent"])
def test_a_checkpoint_is_taken_over(name: str, tmp_path: Path):
    cls, config = NETWORKS[name]
    trained = random_model(config)
    model = hub.from_checkpoint(save_model(trained, tmp_path / "run"))
    assert type(model) is cls
    tokens = torch.arange(9)[None]
    assert torch.equal(model(tokens), trained(tokens))


def test_counted_contexts_are_taken_over_saved_and_loaded(tmp_path: Path):
    trained = random_model(COUNTED["contexts"])
    model = hub.from_checkpoint(save_model(trained, tmp_path / "run"))
    model.save_pretrained(tmp_path / "saved")
    loaded = hub.DelayLM.from_pretrained(tmp_path / "saved")
    assert loaded.config == COUNTED["contexts"]
    tokens = torch.arange(28)[None]
    assert torch.equal(loaded(tokens), trained(tokens))
    without = hub.from_checkpoint(save_model(random_model(MODELS["two delay layers"]), tmp_path / "without"))
    assert not torch.equal(without(tokens), trained(tokens))
    without.set_contexts(trained.contexts)
    without.save_pretrained(tmp_path / "given")
    assert torch.equal(hub.DelayLM.from_pretrained(tmp_path / "given")(tokens), trained(tokens))
    path = tmp_path / "saved" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["contexts.text.first_child"][3] = -1
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="is damaged or another model's: first_child must ascend"):
        hub.DelayLM.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("name", ["delay", "transformer", "recurrent"])
def test_a_model_that_grew_is_saved_as_it_is_now(name: str, tmp_path: Path):
    cls, config = NETWORKS[name]
    old, new = Vocabulary(BYTE_VALUES[:27]), Vocabulary(BYTE_VALUES[:27] + b"~")
    model = filled(cls(config, byte_values=list(old.byte_values)))
    add_tables(model, 2)
    add_comparisons(model, 1)
    model.save_pretrained(tmp_path / "grown")
    loaded = cls.from_pretrained(tmp_path / "grown")
    assert loaded.config == model.config != config
    tokens = torch.arange(9)[None]
    assert torch.equal(loaded(tokens), model(tokens))

    extend_vocabulary(loaded, old, new)
    loaded.vocabulary = old
    with pytest.raises(InputError, match="29 token ids and its vocabulary makes 28: set the model's vocabulary"):
        loaded.save_pretrained(tmp_path / "grown")
    assert torch.equal(cls.from_pretrained(tmp_path / "grown")(tokens), model(tokens))  # nothing was written over
    extended = cls.from_pretrained(tmp_path / "grown")
    extend_vocabulary(extended, old, new)
    assert extended.vocabulary == new
    loaded.vocabulary = new
    loaded.save_pretrained(tmp_path / "extended")
    again = cls.from_pretrained(tmp_path / "extended")
    assert again.vocabulary == new
    assert torch.equal(again(tokens), loaded(tokens))


def test_byte_values_that_json_does_not_know_are_saved(tmp_path: Path):
    hub.DelayLM(MODELS["delay"], byte_values=BYTE_VALUES[:27]).save_pretrained(tmp_path)
    assert hub.DelayLM.from_pretrained(tmp_path).vocabulary.byte_values == BYTE_VALUES[:27]


BAD_BYTE_VALUES = {
    "a number, which bytes() would take as a size": 50_000_000,
    "many": [0] * 257,
    "too large": [97, 256],
    "negative": [-1, 97],
    "truth": [True],
    "fraction": [97.0],
    "lists": [[97]],
    "text": "ab",
    "an object": {"97": 98},
}


@pytest.mark.parametrize("values", BAD_BYTE_VALUES.values(), ids=BAD_BYTE_VALUES)
def test_what_are_no_byte_values_is_refused(values: Any, tmp_path: Path):
    hub.DelayLM(MODELS["delay"], byte_values=list(BYTE_VALUES[:27])).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "byte_values": values}))
    with pytest.raises(InputError, match="byte_values must be a list of at most 256 whole numbers in") as refused:
        hub.DelayLM.from_pretrained(tmp_path)
    assert len(str(refused.value)) < 200


def damage(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    safetensors.torch.save_file(tensors, path)


def test_what_does_not_fit_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="the network has 28 token ids and byte_values make 3"):
        hub.DelayLM(MODELS["delay"], byte_values=list(b"ab"))
    with pytest.raises(InputError, match="the network has 3 classes; got 1"):
        hub.DeepClassifier(NETWORKS["deep"][1], class_names=["a"])
    with pytest.raises(InputError, match="GB of memory"):
        hub.DelayLM(models.DelayConfig(vocabulary_size=28, n_tables=1 << 10, n_comparisons=24))
    many = ((1 << 31) - 2, 1, 1)
    counted = {"context_depth": 7, "n_contexts": many, "n_context_entries": many}
    with pytest.raises(InputError, match="GB of memory"):
        hub.DelayLM(replace(MODELS["delay"], **counted))
    model = hub.DelayLM(MODELS["delay"])
    model.save_pretrained(tmp_path)
    damage(tmp_path, "layers.0.anchors", torch.full_like(model.layers[0].anchors, 99))
    with pytest.raises(InputError, match=r"is damaged or another model's: layers\.0\.anchors must be pairs"):
        hub.DelayLM.from_pretrained(tmp_path)
    damage(tmp_path, "layers.0.anchors", None)
    with pytest.raises(InputError, match=r'damaged or another model\'s: .* "layers\.0\.anchors"'):
        hub.DelayLM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="damaged or another model's"):
        hub.DelayLM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="No such file"):
        hub.DelayLM.from_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["network"]["n_tables"] = "many"
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="n_tables must be an integer"):
        hub.DelayLM.from_pretrained(tmp_path)
