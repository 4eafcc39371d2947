"""What one token costs a model: comparisons, additions, rows and bytes, counted from its configuration alone.

Counted is incremental inference: the next token of a text of which everything before is remembered, with as much
context as the model can use. Nothing is measured here.
"""

# I table, R comparison, J row, K output

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from polychron.analysis.published import Bandwidth
from polychron.errors import InputError
from polychron.models import DelayConfig, ModelConfig, RecurrentConfig, TransformerConfig
from polychron.models.config import TableConfig
from polychron.models.deep import DeepConfig
from polychron.ops.contexts import LISTS
from polychron.ops.recent import N_CELLS, N_PLACES, N_RECENT

ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}  # of a number in the tables
LATENCY_BYTES = {"float32": 4, "float16": 2, "bfloat16": 4, "int8": 2}  # of a latency between such tables
_INDEX_BYTES = 4  # a row's index in the cache of keys
_CONTEXT_BYTES = 1 + 2 * _INDEX_BYTES  # a context's symbol, and where its children and its row begin
_LINE_BYTES = 64  # of the cache: what the runtime reads to learn a context's place
_TAKEN_BYTES = 8  # of a line's room that a context takes up at least: four share 32 bytes
_ROOM_TAKEN = 32 * 3 / 5  # of each line, in the mean: three fifths
_SPARE_LINES = 129  # of an index, beyond these
_RECENT_PLACE_BYTES = 8  # a key, two symbols and how often each followed


@dataclass(frozen=True)
class LayerCost:
    """What a layer of tables does for one token.

    Attributes:
        name: of the layer.
        n_tables: tables, those of all heads together.
        n_row_bits: a table has 2^n_row_bits rows.
        n_outputs: numbers in a row.
        n_hashed: comparisons of latencies a table.
        n_readings: rows read a table: 1, or one for every position attended to.
        from_cache: every reading joins an index that was remembered.
        n_bins: outcomes of a comparison of latencies; the position's always have two.
        n_latencies: that a comparison reads: 2, one of the hash zero, all of a hyperplane.
        n_direction: numbers that a comparison is multiplied by: of a hyperplane, the neurons; 0: none.
        n_mixed: rows that a reading mixes, each number multiplied by a weight: 2 of soft and confidence; 0: one row,
            as it is.
        n_position_bits: of ``n_row_bits`` those of the relative position.
    """

    name: str
    n_tables: int
    n_row_bits: int
    n_outputs: int
    n_hashed: int
    n_readings: int = 1
    from_cache: bool = False
    n_bins: int = 2
    n_latencies: int = 2
    n_direction: int = 0
    n_mixed: int = 0
    n_position_bits: int = 0

    @property
    def synapses(self) -> int:
        """Numbers in the tables."""
        n_rows = self.n_bins ** (self.n_row_bits - self.n_position_bits) * 2**self.n_position_bits
        return self.n_tables * n_rows * self.n_outputs

    @property
    def n_rows(self) -> int:
        """Rows of all tables."""
        return self.synapses // self.n_outputs

    def table_bytes(self, element_bytes: int) -> int:
        """Bytes of the tables."""
        return self.synapses * element_bytes

    @property
    def comparisons(self) -> int:
        """Latencies, or weighted sums of them, compared; with more bins each with every threshold."""
        return self.n_tables * self.n_hashed * (self.n_bins - 1)

    @property
    def multiplications(self) -> int:
        """None of the paper's layer: of hyperplanes their sums', of mixed readings every number's read."""
        return self.n_tables * self.n_hashed * self.n_direction + (self.additions if self.n_mixed else 0)

    @property
    def rows(self) -> int:
        """Rows read."""
        return self.n_tables * self.n_readings * max(1, self.n_mixed)

    @property
    def additions(self) -> int:
        """Numbers added: every number of every row."""
        return self.rows * self.n_outputs

    @property
    def numbers_read(self) -> int:
        """Latencies and numbers of rows, as the paper's Table I counts: 2 n_t n_c + n_t n."""
        return self.n_tables * self.n_hashed * (self.n_latencies + self.n_direction) + self.additions

    def latency_bytes(self, number_bytes: int) -> int:
        """Bytes of the latencies compared, of a hyperplane's numbers, and of indices remembered."""
        compared = self.n_tables * self.n_hashed * self.n_latencies
        return compared * number_bytes + self.direction_bytes(number_bytes) + self.key_bytes

    def direction_bytes(self, number_bytes: int) -> int:
        """Of these bytes those of the numbers that hyperplanes multiply by, which are trained as the tables are."""
        return self.n_tables * self.n_hashed * self.n_direction * number_bytes

    @property
    def key_bytes(self) -> int:
        """Of these bytes those of the indices that attention remembered: all that it remembers are read."""
        return _INDEX_BYTES * self.n_tables * self.n_readings if self.from_cache else 0

    @property
    def place_bytes(self) -> int:
        """Bytes read to find the rows where no comparison of latencies says where they are."""
        return 0

    @property
    def place_memory_bytes(self) -> int:
        """Bytes of all that these are part of."""
        return 0

    def row_bytes(self, element_bytes: int) -> int:
        """Bytes of the rows read."""
        return self.additions * element_bytes


@dataclass(frozen=True)
class ContextCost(LayerCost):
    """What counted contexts, a table for each number of bytes, do for one token: at most, for it depends on the text.

    A row holds only what followed, each number with its symbol, and contexts that were never met have none: additions
    and bytes are those of rows of all symbols; rows are as many as predicted wherever the text's contexts were all met.

    Attributes:
        n_contexts: rows that are stored.
        n_entries: numbers in them.
    """

    n_contexts: int = 1
    n_entries: int = 1

    @property
    def synapses(self) -> int:
        """Numbers that are stored."""
        return self.n_entries

    @property
    def n_rows(self) -> int:
        """Rows that are stored."""
        return self.n_contexts

    def table_bytes(self, element_bytes: int) -> int:
        """Bytes of numbers and symbols, and of the places that lead to them."""
        return self.n_entries * _entry_bytes(element_bytes) + self.n_contexts * _CONTEXT_BYTES

    @property
    def place_bytes(self) -> int:
        """Bytes read to find the rows, a line of the runtime's index each: the shortest need none, others a few."""
        return (self.n_tables - 1) * _LINE_BYTES

    @property
    def place_memory_bytes(self) -> int:
        """Bytes of the runtime's index, about: a row that lies in its line may take up more of it than a share."""
        return int(self.n_contexts * _TAKEN_BYTES / _ROOM_TAKEN + _SPARE_LINES) * _LINE_BYTES

    def row_bytes(self, element_bytes: int) -> int:
        """Bytes of the numbers and symbols of full rows."""
        return self.additions * _entry_bytes(element_bytes)


@dataclass(frozen=True)
class RecentCost(LayerCost):
    """What tables that are written while a text is read do for one token, at most: a place of each holds two symbols.

    To each symbol's logit one number is added. A token is also written to a place of each table; that is not counted.
    """

    @property
    def synapses(self) -> int:
        """Numbers that are stored; what a text writes is its state."""
        return N_CELLS

    @property
    def n_rows(self) -> int:
        """The same: a row is one number."""
        return N_CELLS

    @property
    def place_bytes(self) -> int:
        """Bytes read to find the symbols: a line of the cache a table."""
        return N_RECENT * _LINE_BYTES

    @property
    def place_memory_bytes(self) -> int:
        """Bytes of all places, a text's state."""
        return N_RECENT * N_PLACES * _RECENT_PLACE_BYTES

    def row_bytes(self, element_bytes: int) -> int:
        """Bytes of the numbers that are added."""
        return self.additions * 4


def _entry_bytes(element_bytes: int) -> int:
    """Of a number of a context and its symbol: int16 in a model of int8 tables, float32 in all others."""
    return 1 + (2 if element_bytes == 1 else 4)


@dataclass(frozen=True)
class ModelCost:
    """The layers of a model, in the order in which data flows; sums over them by the names of :class:`LayerCost`."""

    layers: tuple[LayerCost, ...]

    @property
    def synapses(self) -> int:
        """Numbers in all tables; the paper's count has the tokens' latencies as well: :func:`published_synapses`."""
        return sum(layer.synapses for layer in self.layers)

    @property
    def comparisons(self) -> int:
        """Pairs of latencies compared."""
        return sum(layer.comparisons for layer in self.layers)

    @property
    def multiplications(self) -> int:
        """Multiplications of the hash and of mixing rows."""
        return sum(layer.multiplications for layer in self.layers)

    @property
    def rows(self) -> int:
        """Rows read."""
        return sum(layer.rows for layer in self.layers)

    @property
    def additions(self) -> int:
        """Numbers added."""
        return sum(layer.additions for layer in self.layers)

    @property
    def synapses_touched(self) -> int:
        """Synapses that act in one token: the numbers in the rows read.

        The 5.4 K that the paper's Table I calls touched hold latencies, too: see :attr:`LayerCost.numbers_read`.
        """
        return self.additions

    @property
    def has_attention(self) -> bool:
        """Whether a layer joins indices that were remembered."""
        return any(layer.from_cache for layer in self.layers)

    def latency_bytes(self, number_bytes: int) -> int:
        """Bytes of latencies, of hyperplanes' numbers and of remembered indices."""
        return sum(layer.latency_bytes(number_bytes) for layer in self.layers)

    def direction_bytes(self, number_bytes: int) -> int:
        """Of these bytes those of hyperplanes' numbers."""
        return sum(layer.direction_bytes(number_bytes) for layer in self.layers)

    @property
    def key_bytes(self) -> int:
        """Of these bytes those of remembered indices, which are all that the model remembers."""
        return sum(layer.key_bytes for layer in self.layers)

    @property
    def place_bytes(self) -> int:
        """Bytes read of the contexts' index and of the recent tables' places."""
        return sum(layer.place_bytes for layer in self.layers)

    @property
    def place_memory_bytes(self) -> int:
        """Bytes of that index and of those places: what decides which memory they lie in."""
        return sum(layer.place_memory_bytes for layer in self.layers)

    def row_bytes(self, element_bytes: int) -> int:
        """Bytes of rows."""
        return sum(layer.row_bytes(element_bytes) for layer in self.layers)

    def table_bytes(self, element_bytes: int) -> int:
        """Bytes of all tables: what decides which memory they lie in."""
        return sum(layer.table_bytes(element_bytes) for layer in self.layers)


def _delay(config: DelayConfig) -> list[LayerCost]:
    layers = [
        LayerCost(f"layer {k}", config.n_tables, config.n_comparisons, config.n_neurons, config.n_comparisons)
        for k in range(config.n_layers)
    ]
    bits, K = config.readout_n_comparisons, config.vocabulary_size
    layers.append(LayerCost("readout", config.readout_n_tables, bits, K, bits))
    if config.context_depth:
        for (kind, length), *sizes in zip(LISTS.items(), config.n_contexts, config.n_context_entries, strict=True):
            n_tables = min(config.context_depth, length) + 1
            layers.append(ContextCost(f"contexts: {kind}", n_tables, 0, K, 0, n_contexts=sizes[0], n_entries=sizes[1]))
    if config.recent:
        layers.append(RecentCost("contexts: recent", 2 * N_RECENT, 0, 1, 0))
    return layers


def _transformer(config: TransformerConfig) -> list[LayerCost]:
    bits = config.n_comparisons
    heads, row_bits = config.n_heads * config.n_tables, 2 * bits + config.n_position_bits
    n_hashed = bits if config.share_anchors else 2 * bits
    layers = []
    for k in range(config.n_layers):
        name = f"attention {k}"
        layers.append(
            LayerCost(
                name, heads, row_bits, config.n_neurons, n_hashed, config.reach, from_cache=True,
                n_position_bits=config.n_position_bits,
            )
        )  # fmt: skip
        if config.ffn is not None:
            layers.append(LayerCost(f"FFN {k}", config.n_tables, bits, config.n_neurons, bits))
    return [*layers, LayerCost("readout", config.n_tables, bits, config.vocabulary_size, bits)]


def _recurrent(config: RecurrentConfig) -> list[LayerCost]:
    bits = config.n_comparisons
    recurrent = LayerCost("recurrent", config.n_tables, bits, config.n_neurons, bits)
    bits = config.readout_n_comparisons
    return [recurrent, LayerCost("readout", config.readout_n_tables, bits, config.vocabulary_size, bits)]


def _deep(config: DeepConfig) -> list[LayerCost]:
    bits = config.n_comparisons
    layers = [LayerCost(f"layer {k}", config.n_tables, bits, config.n_neurons, bits) for k in range(config.n_layers)]
    bits = config.readout_n_comparisons
    return [*layers, LayerCost("readout", config.readout_n_tables, bits, config.n_classes, bits)]


_COUNTERS: dict[str, Callable[..., list[LayerCost]]] = {
    "delay": _delay,
    "transformer": _transformer,
    "recurrent": _recurrent,
    "deep": _deep,
}


def count_cost(config: TableConfig) -> ModelCost:
    """What a token, or an example, costs a model of this configuration.

    Raises:
        InputError: a kind of model that has no count.

    Example:
        >>> cost = count_cost(TransformerConfig(vocabulary_size=256))   # the paper's transformer
        >>> cost.synapses, cost.rows, cost.synapses_touched
        (805765120, 12016, 388096)
        >>> count_cost(RecurrentConfig(vocabulary_size=256)).layers[0].numbers_read   # the "5.4 K" of its S, Table I
        5376
    """
    if config.kind not in _COUNTERS:
        raise InputError(f"cost is counted for {', '.join(_COUNTERS)}; got a model of kind {config.kind!r}")
    n_bins = config.n_bins if config.hash == "bins" else 2
    n_latencies = {"zero": 1, "hyperplane": config.n_neurons}.get(config.hash, 2)
    n_direction = config.n_neurons if config.hash == "hyperplane" else 0
    n_mixed = 0 if config.reading == "hard" else 2
    variant = {"n_bins": n_bins, "n_latencies": n_latencies, "n_direction": n_direction, "n_mixed": n_mixed}
    layers = _COUNTERS[config.kind](config)
    untrained = (ContextCost, RecentCost)  # a variant is of the tables that are trained
    return ModelCost(tuple(x if isinstance(x, untrained) else replace(x, **variant) for x in layers))


def published_synapses(config: ModelConfig) -> int:
    """The paper's count of a model's synapses: all tables, and the latencies of the tokens.

    Example:
        >>> published_synapses(TransformerConfig(vocabulary_size=256))
        805773312
    """
    return count_cost(config).synapses + config.vocabulary_size * config.n_neurons


def published_operations(config: TableConfig, n_positions: int) -> int:
    """Additions and comparisons of a whole context, as Table IV counts them: every pair of positions is read.

    Example:
        >>> one_head = TransformerConfig(vocabulary_size=1, n_neurons=16, n_layers=1, n_heads=1, n_tables=10)
        >>> published_operations(one_head, 32)   # the published 172,800 and a readout of one output
        175040
    """
    total = 0
    for layer in count_cost(config).layers:
        pairs = n_positions if layer.from_cache else 1
        total += n_positions * (layer.comparisons + layer.n_tables * layer.n_outputs * pairs)
    return total


def published_bandwidth(config: TableConfig) -> Bandwidth:
    """Numbers read for a token, as the paper counts them, which it does in two ways.

    With attention as in Table IV: a number a comparison of each layer, three indices a table and position, no rows.
    Without as in Table I: the latencies compared, two a comparison, and the rows.

    Example:
        >>> one_head = TransformerConfig(vocabulary_size=1, n_neurons=16, n_layers=1, n_heads=1, n_tables=10)
        >>> published_bandwidth(one_head)   # the published 120 + 30 n, and 60 comparisons of the readout
        Bandwidth(constant=180, slope=30)
        >>> published_bandwidth(RecurrentConfig(vocabulary_size=256))   # the published 5,376, and the readout
        Bandwidth(constant=9728, slope=0)
    """
    cost = count_cost(config)
    if not cost.has_attention:
        return Bandwidth(constant=sum(layer.numbers_read for layer in cost.layers), slope=0)
    return Bandwidth(
        constant=sum(layer.comparisons for layer in cost.layers),
        slope=sum(3 * layer.n_tables for layer in cost.layers if layer.from_cache),
    )
