"""The C of a classifier: one example, one class."""

from __future__ import annotations

import re

from polychron.export.c_arrays import fill
from polychron.export.c_layers import n_words
from polychron.export.c_model_text import Member, ModelText
from polychron.export.integer_classifier import IntegerClassifier


class ClassifierText(ModelText):
    """Source, header and file of tables.

    Args:
        model: its numbers.
        name: of the source.
        in_file: arrays stand in a file.

    Attributes:
        source: the .c file.
        header: the .h file.
        file: the file of tables.
        ram_bytes: of the state.
    """

    def __init__(self, model: IntegerClassifier, name: str, in_file: bool) -> None:
        super().__init__(model.layers, name, model.n_neurons, in_file)
        self.model = model
        self.members = self._members()
        self.ram_bytes = sum(member.n_bytes for member in self.members)
        if len(model.references):
            self.add("uint16_t", "references", model.references, "references[k] > 32767")
        functions = self.add_layers()
        values = {
            "NAME": name,
            "N_CLASSES": len(model.class_names),
            "LOCAL": self.local,
            "FIRST": self._first(),
            "STEPS": self._steps(),
        }
        fixed = functions + "".join(str(value) for key, value in values.items() if key != "NAME")
        self.source = fill("classifier.c.in", TABLES_CODE=self.tables_code(functions), **values, **self.opening(fixed))
        self.file = self.arrays.file(fixed) if in_file else b""
        self.header = fill(
            "classifier.h.in",
            NAME=name,
            GUARD=name.upper() + "_H",
            N_INPUTS=model.n_pixels,
            N_CLASSES=len(model.class_names),
            CLASS_NAMES=_comment(model.class_names),
            LOGIT_BITS=model.logit_bits,
            **self.header_opening(self.members),
        )

    @property
    def needs_keep(self) -> bool:
        """Of the readout alone, comparisons look at the inputs as they are."""
        return len(self.layers) > 1

    def _members(self) -> list[Member]:
        members = [Member("int16_t", "latencies", self.n_neurons), self.rows_member]
        if self.needs_keep:
            members.append(Member("uint32_t", "latency", 4 * n_words(self.n_neurons)))
        return [*members, Member("uint32_t", "logit", 4 * n_words(len(self.model.class_names)))]

    def _first(self) -> str:
        model, bits = self.model, self.model.latency_bits
        if self.needs_keep:
            target, input_type, reference_type = "state->latency", "(uint32_t)", ""
        else:
            target, input_type, reference_type = "state->latencies", "(int16_t)", "(int16_t)"
        lines = [f"  for (k = 0; k < {model.n_pixels}; ++k) {target}[k] = {input_type}((255 - input[k]) << {bits});"]
        if len(model.references):
            lines.append(
                f"  for (k = 0; k < {len(model.references)}; ++k) "
                f"{target}[{model.n_pixels} + k] = {reference_type}references[k];"
            )
        return "\n".join(lines)

    def _steps(self) -> str:
        lines = []
        for at in range(len(self.layers)):
            is_readout = at == len(self.layers) - 1
            if self.needs_keep:
                lines.append("keep(state->latency, state->latencies, state->latencies);")
            if is_readout:
                n_logits = 4 * n_words(len(self.model.class_names))
                lines.append(f"for (k = 0; k < {n_logits}; ++k) state->logit[k] = 0;")
            totals = "state->logit" if is_readout else "state->latency"
            lines.append(f"layer_{at}({self.argument}(const unsigned char *)state->latencies, state->rows, {totals});")
        return "\n".join(f"  {line}" for line in lines)


def _comment(names: tuple[str, ...]) -> str:
    """Class names as a comment of C; what could end it, or is no ASCII, is left out."""
    plain = [re.sub(r"[^A-Za-z0-9 _.+-]", "", name) for name in names]
    text = ", ".join(f"{number} {name}" for number, name in enumerate(plain))
    return f"/* {text if len(text) < 2000 else text[:2000] + ' ...'} */"
