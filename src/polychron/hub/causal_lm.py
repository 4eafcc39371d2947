"""The language models in the transformers library; importing this module registers them.

import polychron.hub.causal_lm
model = AutoModelForCausalLM.from_pretrained(folder)   # that `polychron export --to hf` wrote
"""

# B sequence, T position, K vocabulary

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from polychron import models
from polychron.data.vocabulary import Vocabulary
from polychron.errors import InputError
from polychron.hub.models import vocabulary_of
from polychron.hub.state_cache import StateCache
from polychron.limits import require_memory

# Generation hands a cache on by name, which transformers 5.24 changed: before, it does not know the new one, and since
# then, it warns of the old one.
_CACHE_NAMES = ("cache", "past_key_values")
_CACHE_NAME = next(name for name in _CACHE_NAMES if name in {field.name for field in fields(CausalLMOutputWithPast)})


class PolychronConfig(PretrainedConfig):
    """``config.json`` of a language model in the transformers library.

    Args:
        network: fields of a configuration of `polychron.models`, its ``kind`` among them.
        byte_values: of the vocabulary, ascending.
        seed: of what is drawn for a model that is not loaded.
        options: of every configuration.

    Raises:
        InputError: ``byte_values`` are no list of byte values.

    Example:
        >>> network = models.DelayConfig(vocabulary_size=3).to_dict()
        >>> PolychronConfig(network, byte_values=list(b"ab")).vocab_size
        3
    """

    model_type = "polychron"
    keys_to_ignore_at_inference = [_CACHE_NAME]  # noqa: RUF012 - as the base class has it

    def __init__(
        self,
        network: dict[str, Any] | None = None,
        byte_values: list[int] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.network = network
        self.byte_values = byte_values
        self.seed = seed
        if network is not None and byte_values is not None:  # transformers makes an empty one to compare with
            vocabulary = vocabulary_of(byte_values)
            self.vocab_size = vocabulary.size
            for name, token in (("bos", vocabulary.start_id), ("pad", vocabulary.unseen_id)):
                options.setdefault(f"{name}_token_id", token)
        self.use_cache = options.pop("use_cache", True)
        options.pop("vocab_size", None)
        super().__init__(tie_word_embeddings=False, **{k: v for k, v in options.items() if k != "tie_word_embeddings"})

    @property
    def vocabulary(self) -> Vocabulary:
        """Byte values and their ids."""
        return vocabulary_of(self.byte_values or [])


class PolychronForCausalLM(PreTrainedModel, GenerationMixin):
    """A language model of look-up tables with transformers' methods, ``generate`` with its cache among them.

    The cache holds what `polychron.models.LanguageModel.extend` remembers: its size and the cost of a token do not
    depend on how long the text is. Greedy generation gives the bytes of ``polychron generate --temperature 0``. The
    unseen id, which no byte stands for, is suppressed by the generation config.

    Args:
        config: of the network.

    Raises:
        InputError: an impossible network, one of another vocabulary, or too little memory.

    Example:
        >>> network = models.DelayConfig(vocabulary_size=3, n_tables=2, n_comparisons=2).to_dict()
        >>> model = PolychronForCausalLM(PolychronConfig(network, byte_values=list(b"ab")))
        >>> model.generate(torch.tensor([[0, 1]]), max_new_tokens=5, do_sample=False).shape
        torch.Size([1, 7])
    """

    config_class = PolychronConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _is_stateful = True  # a state cannot be taken back: transformers refuses assisted decoding by itself

    def __init__(self, config: PolychronConfig) -> None:
        super().__init__(config)
        network = models.config_from_dict(config.network or {})
        self._require_vocabulary(network)
        require_memory(network.n_bytes(), "the tables", "close other programs or use a smaller model")
        # Not on the "meta" device that from_pretrained sets: anchors, delays and tables are drawn and laid out here.
        with torch.device("cpu"):
            self.model = models.build(network, seed=config.seed)
        self.post_init()
        if self.generation_config is not None:
            self.generation_config.suppress_tokens = [config.vocabulary.unseen_id]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *arguments: Any, **options: Any) -> None:
        """As transformers does; ``config.json`` is of the network as it is now, which may have grown."""
        self._require_vocabulary(self.model.config)
        self.config.network = self.model.config.to_dict()
        super().save_pretrained(save_directory, *arguments, **options)

    def _require_vocabulary(self, network: models.ModelConfig) -> None:
        n_ids = self.config.vocabulary.size
        if network.vocabulary_size != n_ids:
            raise InputError(f"the network has {network.vocabulary_size} token ids and byte_values make {n_ids}")

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: the network has drawn what is drawn, and tables start at 0."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: the cache is a `StateCache`, which the first forward pass makes."""
        return False

    def get_input_embeddings(self) -> torch.nn.Module:
        """The latencies of tokens, which are not trained."""
        return self.model.embedding

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token.

        Args:
            input_ids: (B, T) int64; with a cache, those that follow.
            attention_mask: (B, past and new positions): 0 at padding, which may stand before or after a text.
            use_cache: give a cache back; nothing is differentiated then. Default: only where one was given, or
                where there are no ``labels`` and no gradient is wanted.
            labels: (B, T) int64, -100 where nothing is to be predicted: the loss is the mean of nats of the next token.
            logits_to_keep: positions at the end of which logits are wanted; 0: all.
            return_dict: False: a tuple.
            options: ``cache``, from an earlier call, which transformers before 5.24 names ``past_key_values`` (either
                name will do); ``num_items_in_batch`` as in transformers' losses; others are left alone.

        Raises:
            ValueError: padding inside a text, or a text of padding alone; a cache under each of its names.
        """
        cache = _taken_cache(options)
        n_left = None if attention_mask is None else _left_padding(attention_mask)
        if use_cache is None:
            use_cache = cache is not None or (self.config.use_cache and labels is None and not torch.is_grad_enabled())
        if use_cache or cache is not None:
            cache = cache if cache is not None else StateCache(self.model)
            logits = cache.read(input_ids, n_left, last=logits_to_keep == 1)
        else:
            logits = self._logits(input_ids, n_left)
        logits = logits[:, -logits_to_keep:]
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **options)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, **{_CACHE_NAME: cache})
        return output.to_tuple() if return_dict is False else output

    def _logits(self, tokens: Tensor, n_left: Tensor | None) -> Tensor:
        """Of whole texts, differentiable: what is padded on the left is moved there, and its logits back."""
        if n_left is None or not bool(n_left.any()):
            return self.model(tokens)
        T = tokens.shape[1]
        at = torch.arange(T, device=tokens.device)
        moved = tokens.gather(1, (at + n_left[:, None]).clamp(max=T - 1))
        back = (at - n_left[:, None]).clamp(min=0)
        logits = self.model(moved)
        return logits.gather(1, back[..., None].expand_as(logits))


def _taken_cache(options: dict[str, Any]) -> StateCache | None:
    """The cache among ``options``, which has it no longer."""
    given = [cache for cache in (options.pop(name, None) for name in _CACHE_NAMES) if cache is not None]
    if len(given) > 1:
        raise ValueError("cache and past_key_values are two names of one argument; got both: give one")
    return given[0] if given else None


def _left_padding(mask: Tensor) -> Tensor | None:
    """Positions of padding before each text, (B,); None where there is none. Padding behind a text is never read."""
    if bool(mask.all()):
        return None
    real = mask.bool()
    n_left = real.int().argmax(dim=1)
    length = real.sum(dim=1)
    at = torch.arange(mask.shape[1], device=mask.device)
    expected = (at >= n_left[:, None]) & (at < (n_left + length)[:, None])
    if not bool(length.all()):
        raise ValueError("attention_mask must leave at least one position of every text; got a text of padding alone")
    if not torch.equal(real, expected):
        raise ValueError("attention_mask must not be 0 inside of a text: what is left out there would still be read")
    return n_left


AutoConfig.register(PolychronConfig.model_type, PolychronConfig, exist_ok=True)
AutoModelForCausalLM.register(PolychronConfig, PolychronForCausalLM, exist_ok=True)
