"""The vocabulary of bytes as a tokenizer of the transformers library, which anyone can load without polychron."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from polychron.data.vocabulary import Vocabulary

UNSEEN = "<unseen>"


def byte_tokenizer(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """Text to UTF-8 bytes to the vocabulary's ids and back.

    A byte that the vocabulary does not have becomes its unseen id, which also pads: on the left, as generation wants
    it. It is a byte-level BPE without merges.

    Example:
        >>> tokenizer = byte_tokenizer(Vocabulary(b"abc"))
        >>> tokenizer("cab!")["input_ids"], tokenizer.decode([2, 0, 1])
        ([2, 0, 1, 3], 'cab')
    """
    letters = _byte_letters()
    ids = {letters[value]: token for token, value in enumerate(vocabulary.byte_values)} | {UNSEEN: vocabulary.unseen_id}
    tokenizer = Tokenizer(BPE(vocab=ids, merges=[], unk_token=UNSEEN, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNSEEN,
        pad_token=UNSEEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE: its own where it can be printed, else one from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    letters, next_letter = [], 256
    for value in range(256):
        letters.append(chr(value if value in printable else next_letter))
        next_letter += value not in printable
    return letters
