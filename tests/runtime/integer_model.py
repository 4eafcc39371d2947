"""An int8 model in plain Python integers and numpy, equation by equation of docs/runtime.md: the slow definition."""

from __future__ import annotations

import numpy as np

from polychron.ops.contexts import LISTS, advance_reference, context_of, start_state
from polychron.ops.recent import PLACE_BITS, RECENT_CONTEXTS, ends_in_run, key_of, run_class, write_reference
from polychron.storage import TensorFile

# t position, i table, r comparison, d distance


class IntegerModel:
    """Units of the logits after every byte of a text, all of it recomputed for each: no state to get wrong."""

    def __init__(self, tensors: TensorFile) -> None:
        self.tensors = {
            name.removeprefix("model."): np.asarray(tensors.view(name)).astype(np.int64)
            if entry.dtype != "F32"
            else np.asarray(tensors.view(name))
            for name, entry in tensors.entries.items()
            if 0 not in entry.shape
        }
        self.shapes = {name.removeprefix("model."): entry.shape for name, entry in tensors.entries.items()}

    def units(self, ids: bytes) -> np.ndarray:
        """(T, K) int64."""
        z = self.tensors["embedding.latencies"][list(ids)]
        if "recurrent.synaptic_vectors" in self.tensors:
            z = self.recur("recurrent.", z)
        layer = 0
        while any(name.startswith(f"layers.{layer}.") for name in self.tensors):
            prefix = f"layers.{layer}."
            if prefix + "synaptic_vectors" in self.tensors:
                z = saturate(z + self.lookup(prefix, z))
            else:
                z = saturate(z + self.attention(prefix + "attention.", z))
                if prefix + "ffn.synaptic_vectors" in self.tensors:
                    z = saturate(z + self.lookup(prefix + "ffn.", z))
            layer += 1
        units = self.lookup("readout.", z)
        if "contexts.byte" in self.tensors:
            [state], byte = start_state(1).tolist(), self.tensors["contexts.byte"].tolist()
            for t, token in enumerate(ids):
                state = advance_reference(state, byte[token])
                for kind in LISTS:
                    self.add_contexts(kind, context_of(state, kind), units[t])
        if "contexts.recent" in self.tensors:
            self.add_recent(ids, units)
        return units

    def add_recent(self, ids: bytes, units: np.ndarray) -> None:
        """What followed the contexts of each position when they were met before, as a dictionary knows it."""
        cells = self.tensors["contexts.recent"]
        [state], byte = start_state(1).tolist(), self.tensors["contexts.byte"].tolist()
        places: list[dict[int, tuple]] = [{} for _ in RECENT_CONTEXTS]
        keys: list[int] = []
        for t, token in enumerate(ids):
            for place, key in () if ends_in_run(state) else zip(places, keys, strict=True):
                at = key >> (32 - PLACE_BITS)
                place[at] = write_reference(place.get(at, (0, 0, 0, 0, 0)), key, token)
            state = advance_reference(state, byte[token])
            keys = [key_of(context_of(state, kind)[:depth]) for kind, depth in RECENT_CONTEXTS]
            for i, key in enumerate(() if ends_in_run(state) else keys):
                known, before, run_before, latest, run = places[i].get(key >> (32 - PLACE_BITS), (0, 0, 0, 0, 0))
                if run and known == key:
                    units[t, latest] += cells[i, 0, run_class(run)]
                    if run_before:
                        units[t, before] += cells[i, 1, run_class(run_before)]

    def add_contexts(self, kind: str, known: tuple[int, ...], units: np.ndarray) -> None:
        """Rows of the contexts that the text ends with, from the empty one to the deepest that is there."""
        symbol, child, first, entry, value = (
            self.tensors[f"contexts.{kind}.{name}"]
            for name in ("symbol", "first_child", "first_entry", "entry_symbol", "value")
        )
        context = 0
        for byte in [*known, None]:
            row = slice(first[context], first[context + 1])
            np.add.at(units, entry[row], value[row])
            children = [c for c in range(child[context], child[context + 1]) if symbol[c] == byte]
            if not children:
                return
            context = children[0]

    def bits(self, z: np.ndarray, anchors: np.ndarray, delays: np.ndarray | None) -> np.ndarray:
        """(T, I): a latency before the first position is 0; a tie gives bit 0."""
        T = len(z)
        before = np.concatenate([np.zeros((400, z.shape[1]), dtype=z.dtype), z])
        at = 400 + np.arange(T)[:, None, None]
        lag = np.zeros_like(anchors) if delays is None else delays
        u = before[at - lag[..., 0], anchors[..., 0]] - before[at - lag[..., 1], anchors[..., 1]]
        return ((u > 0) << np.arange(anchors.shape[1])).sum(axis=2)

    def lookup(self, prefix: str, z: np.ndarray) -> np.ndarray:
        S, shifts = self.tensors[prefix + "synaptic_vectors"], self.tensors[prefix + "shifts"]
        rows = self.bits(z, self.tensors[prefix + "anchors"], self.tensors.get(prefix + "delays"))
        return sum(S[i, rows[:, i]] << shifts[i] for i in range(len(S)))

    def recur(self, prefix: str, z: np.ndarray) -> np.ndarray:
        """The rows of every position are those of the latencies of the one before."""
        h = np.zeros((1, z.shape[1]), dtype=z.dtype)
        out = []
        for now in z:
            h = saturate(now + self.lookup(prefix, h))
            out.append(h[0])
        return np.stack(out)

    def attention(self, prefix: str, z: np.ndarray) -> np.ndarray:
        V, shifts = self.tensors[prefix + "synaptic_vectors"], self.tensors[prefix + "shifts"]
        anchors = self.tensors[prefix + "anchors"]
        keys = self.tensors.get(prefix + "key_anchors", anchors)
        _, n_distances, n_code = self.shapes[prefix + "position_code"]
        code = np.zeros((len(V), n_distances), dtype=np.int64)
        if n_code:
            code = ((self.tensors[prefix + "position_code"] > 0) << np.arange(n_code)).sum(axis=2)
        query, key = self.bits(z, anchors, None), self.bits(z, keys, None)
        y = np.zeros_like(z)
        for t in range(len(z)):
            for d in range(1, min(t, n_distances - 1) + 1):
                for i in range(len(V)):
                    row = (query[t, i] << (keys.shape[1] + n_code)) | (key[t - d, i] << n_code) | code[i, d]
                    y[t] += V[i, row] << shifts[i]
        return y


def saturate(z: np.ndarray) -> np.ndarray:
    return np.clip(z, -32767, 32767)
