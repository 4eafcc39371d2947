"""A trained model as a folder that the Hugging Face libraries load.

A language model becomes one of transformers, with its tokenizer; a classifier becomes one of `polychron.hub`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors

from polychron.errors import InputError
from polychron.hub.models import DeepClassifier, from_checkpoint
from polychron.storage.config_file import reason

_CODE = '''"""Loads polychron's classes when transformers is asked to with trust_remote_code=True."""

from polychron.hub.causal_lm import PolychronConfig, PolychronForCausalLM

__all__ = ["PolychronConfig", "PolychronForCausalLM"]
'''
_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [polychron, spiking, look-up-tables]
---

A {kind} language model of bytes made of look-up tables ([polychron](https://arxiv.org/abs/2512.11843)),
{n_parameters:,} parameters.

```python
import polychron.hub.causal_lm  # registers the classes; or pass trust_remote_code=True
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
text = model.generate(**tokenizer("It was a ", return_tensors="pt"), max_new_tokens=200, do_sample=True)
print(tokenizer.decode(text[0]))
```
"""


@dataclass(frozen=True)
class ExportedFolder:
    """What was written.

    Attributes:
        folder: where.
        n_bytes: of all files.
        loads_with: the class that loads it.
    """

    folder: Path
    n_bytes: int
    loads_with: str


def export_hf(directory: str | os.PathLike[str], out: str | os.PathLike[str]) -> ExportedFolder:
    """Write a checkpoint's model for ``from_pretrained``.

    Args:
        directory: a checkpoint in float32.
        out: a folder that is not there yet, or is empty.

    Raises:
        InputError: no checkpoint, damaged, quantised; ``out`` is taken; the system refused to write.
    """
    target = Path(out)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} is there already: give another --out, or remove it")
    except OSError as error:
        raise InputError(f"cannot write {target}: {reason(error)}") from None
    model = from_checkpoint(directory)
    if isinstance(model, DeepClassifier):
        _write(target, model.save_pretrained)
        loads_with = "polychron.hub.DeepClassifier"
    else:
        _write(target, lambda folder: _save_language_model(model, folder, target.absolute().name))
        loads_with = "transformers.AutoModelForCausalLM"
    return ExportedFolder(target, sum(path.stat().st_size for path in target.iterdir()), loads_with)


def _save_language_model(trained, folder: Path, name: str) -> None:
    from polychron.hub.causal_lm import PolychronConfig, PolychronForCausalLM
    from polychron.hub.tokenizer import byte_tokenizer

    # Tables of bfloat16 are exact in float32; where a folder says bfloat16, transformers rounds latencies as well.
    network = dataclasses.replace(trained.config, table_type="float32")
    config = PolychronConfig(network.to_dict(), byte_values=list(trained.vocabulary.byte_values))
    config.auto_map = {
        "AutoConfig": "modeling_polychron.PolychronConfig",
        "AutoModelForCausalLM": "modeling_polychron.PolychronForCausalLM",
    }
    model = PolychronForCausalLM(config)
    model.model.load_state_dict(trained.state_dict())
    model.save_pretrained(folder)
    byte_tokenizer(trained.vocabulary).save_pretrained(folder)
    (folder / "modeling_polychron.py").write_text(_CODE, encoding="ascii")
    card = _CARD.format(kind=trained.config.kind, n_parameters=trained.n_parameters(), name=name)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write(target: Path, save: Callable[[Path], object]) -> None:
    """Write a folder beside its place, then rename it there."""
    target = target.absolute()  # "." has a name, too
    temporary = target.with_name(f".{target.name}.writing")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            save(temporary)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"cannot write {target}: {reason(error)}") from None
