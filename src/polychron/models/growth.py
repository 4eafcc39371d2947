"""Trained models that grow without forgetting: further tables, comparisons, and bytes of the vocabulary."""

# V token, I table, J row, K vocabulary

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.limits import require_memory
from polychron.memory import zero_tables
from polychron.models.language_model import LanguageModel
from polychron.nn import PairAttention, growth
from polychron.ops.contexts import bytes_of_symbols

_IMPOSSIBLE_NATS = 40.0


def add_tables(model: LanguageModel, n: int, seed: int = 0) -> None:
    """Gives every layer of a model ``n`` tables of zeros more, each head of an attention too: nothing changes yet.

    The model's function is unchanged to the bit; its ``config`` says the new sizes. See :mod:`polychron.nn.growth`.

    Raises:
        InputError: the model would be too large.

    Example:
        >>> from polychron.models import DelayConfig, DelayLM
        >>> model = DelayLM(DelayConfig(vocabulary_size=9, n_tables=4, n_comparisons=3, readout_n_tables=2))
        >>> add_tables(model, 3)
        >>> model.config.n_tables, model.config.readout_n_tables
        (7, 5)
    """
    _grow(model, "n_tables", n, seed)


def add_comparisons(model: LanguageModel, n: int, seed: int = 0) -> None:
    """Gives every table of a model ``n`` comparisons more, rows copied into all halves: nothing changes yet.

    The model's function is unchanged to the bit; its ``config`` says the new sizes. See :mod:`polychron.nn.growth`.

    Raises:
        InputError: the model would be too large, or tables would ask for more pairs than there are.

    Example:
        >>> from polychron.models import DelayConfig, DelayLM
        >>> model = DelayLM(DelayConfig(vocabulary_size=9, n_tables=4, n_comparisons=3, readout_n_comparisons=2))
        >>> add_comparisons(model, 1)
        >>> model.config.n_comparisons, model.config.readout_n_comparisons
        (4, 3)
    """
    _grow(model, "n_comparisons", n, seed)


def added_tables(model: LanguageModel, n: int) -> dict[str, int]:
    """Of each layer, by its name, how many tables ``add_tables(model, n)`` made."""
    heads = getattr(model.config, "n_heads", 1)
    return {name: n * heads if isinstance(layer, PairAttention) else n for name, layer in _named_layers(model).items()}


def _named_layers(model: LanguageModel) -> dict[str, nn.Module]:
    own = {id(layer) for layer in model.layers_in_order()}
    return {name: module for name, module in model.named_modules() if id(module) in own}


def _grow(model: LanguageModel, what: str, n: int, seed: int) -> None:
    if n < 1:
        raise InputError(f"n must be at least 1 to add any; got {n}")
    config = model.config
    if not config.is_native:
        raise InputError(
            f"the paper's layers grow, and not their variants: the model has hash {config.hash}, reading "
            f"{config.reading}, gradient {config.gradient}"
        )
    sizes = {name: getattr(config, name) + n for name in (what, f"readout_{what}") if hasattr(config, name)}
    grown = dataclasses.replace(config, **sizes)
    # The grown tables of a layer exist beside the old ones for a moment: a layer's more, at most.
    require_memory(grown.number_bytes * grown.n_parameters(), "the grown tables", "add fewer")
    seeds = torch.Generator().manual_seed(seed)
    for name, layer in _named_layers(model).items():
        options = {
            "anchors": config.anchors,
            "delay_distribution": getattr(config, "delay_distribution", "geometric"),
            "seed": int(torch.randint(1 << 31, (), generator=seeds, device="cpu")),
        }
        if what == "n_tables":
            growth.add_tables(layer, added_tables(model, n)[name], **options)
        else:
            growth.add_comparisons(layer, n, **options)
    model.config = grown


@torch.no_grad()
def extend_vocabulary(model: LanguageModel, old: Vocabulary, new: Vocabulary, seed: int = 0) -> None:
    r"""Lets a model read and write bytes that it did not know.

    A new byte costs at first what it cost as one of the m unseen ones, -log p(unseen) + log m: its logit is that of
    unseen less log m, spread evenly over the tables' rows. It gets latencies of its own, so that the model's function
    is unchanged, up to rounding, on texts without the new bytes.

    Args:
        model: changed in place, with its ``config``.
        old: its vocabulary.
        new: holds all of the old one's bytes.
        seed: of the new latencies.

    Raises:
        InputError: ``new`` lacks a byte of ``old``.

    Example:
        >>> from polychron.models import DelayConfig, DelayLM
        >>> model = DelayLM(DelayConfig(vocabulary_size=3, n_tables=4, n_comparisons=3))
        >>> extend_vocabulary(model, Vocabulary(b"ab"), Vocabulary(b"abc"))
        >>> model.config.vocabulary_size
        4
    """
    missing = set(old.byte_values) - set(new.byte_values)
    if missing:
        raise InputError(f"a vocabulary can only be extended; the new one lacks {bytes(sorted(missing))!r}")
    if old == new:
        return
    # Of each new id the old one that it comes from, unseen where there is none.
    source = torch.tensor([*old.encode(new.byte_values).tolist(), old.unseen_id])
    # A vocabulary of all 256 values encodes none as unseen; here the new one has more than the old, which thus has not.
    fresh = source == old.unseen_id
    fresh[-1] = False
    n_unseen, n_fresh = 256 - len(old.byte_values), int(fresh.sum())

    latencies = model.embedding.latencies[source]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(latencies.shape, generator=generator, dtype=latencies.dtype, device="cpu") * 2 - 1
    latencies[fresh] = drawn[fresh]
    model.embedding.latencies = latencies

    left = n_unseen - n_fresh
    bias = torch.zeros(new.size)
    bias[fresh] = -math.log(n_unseen)
    bias[-1] = math.log(left / n_unseen) if left else -_IMPOSSIBLE_NATS
    tables = model.readout.synaptic_vectors
    grown = zero_tables(tables.shape[0], tables.shape[1], new.size, tables.dtype)
    numbers = tables.detach()[..., source].float()
    numbers += bias / len(tables)
    grown.copy_(numbers)
    growth.replace(tables, grown)
    model.config = dataclasses.replace(model.config, vocabulary_size=new.size)
    if model.contexts is not None:  # contexts are of bytes; symbols keep their order, so rows keep theirs
        now = torch.from_numpy(new.encode(bytes(old.byte_values)))
        for of_kind in model.contexts.lists:
            of_kind.entry_symbol[:] = now[of_kind.entry_symbol.long()]
        model.contexts.byte = bytes_of_symbols(bytes(new.byte_values))
    if getattr(model, "vocabulary", None) is not None:  # a hub's model knows its own
        model.vocabulary = new
