"""Tables of counted contexts as arrays and functions of C: a search among children, then additions."""

from __future__ import annotations

import numpy as np

from polychron.export.c_arrays import fill
from polychron.export.c_model_text import Member, ModelText
from polychron.export.contexts import ContextArrays, Contexts
from polychron.ops.contexts import HISTORY, MAX_COLUMN, NO_BYTE
from polychron.ops.recent import N_PLACES, N_RECENT, PLACE_BITS, RECENT_CONTEXTS


def add_contexts(text: ModelText, contexts: Contexts, token_ids: bytes, n_tokens: int) -> str:
    """Adds the arrays; returns the functions that read them.

    Args:
        text: of the model.
        contexts: with whole values.
        token_ids: of the 256 bytes.
        n_tokens: of the vocabulary.
    """
    text.add("uint8_t", "seen_as", contexts.byte[np.frombuffer(token_ids, dtype=np.uint8)])
    tables = "const unsigned char *tables, " if text.arrays.in_file else ""
    places = {"HISTORY": HISTORY, "LAST_PLACE": HISTORY - 1, "MAX_COLUMN": MAX_COLUMN, "NO_BYTE": NO_BYTE}
    functions = [fill("contexts.c.in", **places)]
    for kind, arrays in contexts.kinds.items():
        _add_arrays(text, kind, arrays, n_tokens)
        functions.append(
            fill(
                "contexts_of_kind.c.in",
                KIND=kind,
                TABLES=tables,
                ARGUMENT=text.argument,
                N_PARENTS=arrays.n_parents,
                DEPTH=arrays.depth,
            )
        )
    keys = {f"AFTER_{kind.upper()}": "" for kind in contexts.kinds}
    if contexts.recent is not None:
        text.add("int16_t", "recent_cell", contexts.recent)
        ids = np.frombuffer(token_ids, dtype=np.uint8)
        text.add("uint8_t", "token_of", ids, f"token_of[k] >= {n_tokens}")
        sizes = {"N_RECENT": N_RECENT, "PLACE_BITS": PLACE_BITS, "KEY_SHIFT": 32 - PLACE_BITS}
        functions.append(fill("recent.c.in", TABLES=tables, **sizes))
        for i, (kind, depth) in enumerate(RECENT_CONTEXTS):
            keys[f"AFTER_{kind.upper()}"] += f"  keys[{i}] = recent_key(bytes, {depth});\n"
    keys["KEYS"] = "" if contexts.recent is None else ", uint32_t *keys"
    functions.append(fill("contexts_added.c.in", TABLES=tables, ARGUMENT=text.argument, **places, **keys))
    return "".join(functions)


def members(contexts: Contexts) -> list[Member]:
    """Hashes of three words; column, length of the line before; the last bytes in a ring, and where the latest is.

    With recent tables: their places, and the keys of the contexts that the text ends with.
    """
    known = [
        Member("uint32_t", "words", 3),
        Member("uint16_t", "line", 2),
        Member("uint8_t", "last", HISTORY),
        Member("uint8_t", "latest"),
    ]
    if contexts.recent is None:
        return known
    n_places = N_RECENT * N_PLACES
    written = [Member("uint32_t", "recent_keys", N_RECENT), Member("uint32_t", "place_keys", n_places)]
    return [*written, *known, Member("uint8_t", "places", 4 * n_places)]


def steps(contexts: Contexts, argument: str) -> list[str]:
    """Lines that remember the byte that was read and add to the logits."""
    remember = "remember(seen_as[byte], state->last, &state->latest, state->line, state->words);"
    add = f"add_contexts({argument}state->last, state->latest, state->line, state->words, state->logit"
    if contexts.recent is None:
        return [remember, add + ");"]
    places = "state->recent_keys, state->place_keys, state->places"
    return [
        f"if (!ends_in_run(state->last, state->latest)) write_recent(token_of[byte], {places});",
        remember,
        add + ", state->recent_keys);",
        f"if (!ends_in_run(state->last, state->latest)) add_recent({argument}{places}, state->logit);",
    ]


def _add_arrays(text: ModelText, kind: str, arrays: ContextArrays, n_tokens: int) -> None:
    n_contexts, n_entries = len(arrays.symbol), len(arrays.value)
    text.add("uint8_t", f"{kind}_byte", arrays.symbol)
    for name, places, end in (
        (f"{kind}_first_child", arrays.first_child, n_contexts),
        (f"{kind}_first_entry", arrays.first_entry, n_entries),
    ):
        c_type = "uint16_t" if end < 1 << 16 else "uint32_t"
        text.add(c_type, name, places, f"{name}[k] > {end} || {name}[k] < {name}[k > 0 ? k - 1 : 0]")
    text.add("uint8_t", f"{kind}_token", arrays.entry_symbol, f"{kind}_token[k] >= {n_tokens}")
    text.add("int16_t", f"{kind}_value", arrays.value)
