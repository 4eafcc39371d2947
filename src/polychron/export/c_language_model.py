"""The C of a language model: reading a byte, drawing the next."""

# V token, I table, K output

from __future__ import annotations

import numpy as np

from polychron.export import c_contexts
from polychron.export.c_arrays import fill
from polychron.export.c_layers import key_bits, longest_delay, n_words
from polychron.export.c_model_text import Member, ModelText
from polychron.export.network import Network
from polychron.runtime.extension import require_native
from polychron.runtime.options import SamplingOptions


class LanguageModelText(ModelText):
    """Source, header and file of tables.

    Args:
        model: its numbers.
        name: of the source.
        in_file: arrays stand in a file.
        draws: temperature and top-p.

    Attributes:
        source: the .c file.
        header: the .h file.
        file: the file of tables.
        ram_bytes: of the state.
    """

    def __init__(self, model: Network, name: str, in_file: bool, draws: SamplingOptions) -> None:
        super().__init__(model.layers, name, model.embedding.shape[1], in_file)
        self.model = model
        self.n_tokens = model.vocabulary.size
        self.members = self._members()
        self.ram_bytes = sum(member.n_bytes for member in self.members)
        weights, weight_shift = require_native().runtime_weight_table(2.0**-model.logit_bits, draws.temperature)
        self._add_vocabulary(np.array(weights, dtype=np.uint32))
        functions = self.add_layers()
        if model.contexts is not None:
            token_ids = model.vocabulary.ids_of(bytes(range(256)))
            functions += c_contexts.add_contexts(self, model.contexts, token_ids, self.n_tokens)
        values = {
            "NAME": name,
            "N_NEURONS": self.n_neurons,
            "N_TOKENS": self.n_tokens,
            "N_WEIGHTS": len(weights),
            "WEIGHT_SHIFT": weight_shift,
            "LEFT_OUT": draws.left_out,
            "STEPS": self._steps(),
            "LOCAL": self.local,
            "REMEMBER": self.local,
            "RESTORE": "  state->tables = tables;\n" if in_file else "",
        }
        fixed = functions + "".join(str(value) for key, value in values.items() if key != "NAME")
        self.source = fill(
            "language_model.c.in", TABLES_CODE=self.tables_code(functions), **values, **self.opening(fixed)
        )
        self.file = self.arrays.file(fixed) if in_file else b""
        self.header = fill(
            "language_model.h.in",
            NAME=name,
            GUARD=name.upper() + "_H",
            N_TOKENS=self.n_tokens,
            LOGIT_BITS=model.logit_bits,
            TEMPERATURE=f"{draws.temperature:g}",
            TOP_P=f"{draws.top_p:g}",
            **self.header_opening(self.members),
        )

    def _add_vocabulary(self, weights: np.ndarray) -> None:
        vocabulary, n = self.model.vocabulary, self.n_neurons
        places = n * np.frombuffer(vocabulary.ids_of(bytes(range(256))), dtype=np.uint8).astype(np.int64)
        last = n * (self.n_tokens - 1)
        self.add("uint16_t" if last < 1 << 16 else "uint32_t", "place_of", places, f"place_of[k] > {last}")
        self.add("uint8_t", "byte_of", np.frombuffer(vocabulary.byte_values, dtype=np.uint8))
        self.add("int16_t", "embedding", self.model.embedding)
        # A draw ends for weights of which the first is not 0, and whose sum fits 32 bits.
        self.add("uint32_t", "weight_of", weights, "weight_of[k] > 1u << 22 || weight_of[0] == 0")

    def _members(self) -> list[Member]:
        n, members = self.n_neurons, []
        for at, layer in enumerate(self.layers):
            delay = longest_delay(layer)
            if delay:
                members += [Member("int16_t", f"history_{at}", 2 * (delay + 1) * n), Member("uint32_t", f"at_{at}")]
            if layer.code is not None:
                members.append(Member("uint16_t", f"keys_{at}", len(layer.rows) << key_bits(layer)))
        if not all(map(longest_delay, self.layers)):
            members.append(Member("int16_t", "latencies", n))
        if any(layer.code is not None for layer in self.layers):
            members += [Member("uint32_t", "position"), Member("uint32_t", "n_read")]
        return [
            *members,
            *(() if self.model.contexts is None else c_contexts.members(self.model.contexts)),
            self.rows_member,
            Member("uint32_t", "latency", 4 * n_words(n)),
            Member("uint32_t", "logit", 4 * n_words(self.n_tokens)),
            Member("uint32_t", "random", 4),
        ]

    def _steps(self) -> str:
        lines, n = [], self.n_neurons
        for at, layer in enumerate(self.layers):
            is_readout = at == len(self.layers) - 1
            kept = n * longest_delay(layer)
            if kept:
                place = f"state->history_{at} + state->at_{at}"
                lines.append(f"keep(state->latency, {place}, {place} + {kept + n});")
                latencies = f"(const unsigned char *)({place} + {n})"
            else:
                lines.append("keep(state->latency, state->latencies, state->latencies);")
                latencies = "(const unsigned char *)state->latencies"
            if is_readout:
                lines.append(f"for (k = 0; k < {4 * n_words(self.n_tokens)}; ++k) state->logit[k] = 0;")
            attention = "" if layer.code is None else f"state->position, state->n_read, state->keys_{at}, "
            totals = "state->logit" if is_readout else "state->latency"
            lines.append(f"layer_{at}({self.argument}{latencies}, {attention}state->rows, {totals});")
            if kept:
                lines.append(f"state->at_{at} = state->at_{at} == {kept} ? 0 : state->at_{at} + {n};")
        if any(layer.code is not None for layer in self.layers):
            lines += ["++state->position;", "if (state->n_read < UINT32_MAX) ++state->n_read;"]
        if self.model.contexts is not None:
            lines += c_contexts.steps(self.model.contexts, self.argument)
        return "\n".join(f"  {line}" for line in lines)
