"""Tables of counted contexts as arrays and functions of C: a search among children, then additions."""

from __future__ import annotations

import numpy as np

from polychron.export.c_arrays import fill
from polychron.export.c_model_text import Member, ModelText
from polychron.export.contexts import Contexts


def add_contexts(text: ModelText, contexts: Contexts, token_ids: bytes, n_tokens: int) -> str:
    """Adds the arrays; returns the functions that read them.

    Args:
        text: of the model.
        contexts: with whole values.
        token_ids: of the 256 bytes.
        n_tokens: of the vocabulary.
    """
    n_contexts, n_entries = len(contexts.symbol), len(contexts.value)
    text.add("uint8_t", "token_of", np.frombuffer(token_ids, dtype=np.uint8))  # a wrong one is no context's
    letter = [int(contexts.letter[token]) if token < n_tokens else 0 for token in token_ids]
    text.add("uint8_t", "letter_of", np.array(letter, dtype=np.uint8))
    text.add("uint8_t", "context_byte", contexts.symbol)
    for name, places, end in (
        ("first_child", contexts.first_child, n_contexts),
        ("first_entry", contexts.first_entry, n_entries),
    ):
        c_type = "uint16_t" if end < 1 << 16 else "uint32_t"
        text.add(c_type, name, places, f"{name}[k] > {end} || {name}[k] < {name}[k > 0 ? k - 1 : 0]")
    text.add("uint8_t", "entry_token", contexts.entry_symbol, f"entry_token[k] >= {n_tokens}")
    text.add("int16_t", "entry_value", contexts.value)
    tables = "const unsigned char *tables, " if text.arrays.in_file else ""
    return fill("contexts.c.in", TABLES=tables, ARGUMENT=text.argument, N_PARENTS=contexts.n_parents)


def members() -> list[Member]:
    """The last three tokens, the latest first, and how many they are; hashes of the word so far and the one before."""
    return [Member("uint8_t", "last", 3), Member("uint8_t", "n_last"), Member("uint32_t", "words", 2)]


def steps(argument: str) -> list[str]:
    """Lines that remember the byte that was read and add to the logits.

    No loop: compilers would make a call of it.
    """
    return [
        "state->last[2] = state->last[1];",
        "state->last[1] = state->last[0];",
        "state->last[0] = token_of[byte];",
        "if (state->n_last < 3) ++state->n_last;",
        "advance_words(state->words, letter_of[byte]);",
        f"add_contexts({argument}state->last, state->n_last, state->words, state->logit);",
    ]
