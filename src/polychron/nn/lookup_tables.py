"""A layer of look-up tables as a module, and the readout."""

# B sequence, T position, I table, K output, D delay

from __future__ import annotations

import torch
from torch import Tensor

from polychron.anchors import draw_delays
from polychron.nn.row_layer import RowLayer, check_width, choose_anchors
from polychron.ops import RowUpdate, checks, lookup, readout_cross_entropy
from polychron.ops.dispatch import arithmetic, runs_triton
from polychron.ops.lookup import direct


class LookupTables(RowLayer):
    r"""Compares pairs of spike latencies, reads one row per table and adds the rows: :func:`polychron.ops.lookup`.

    .. math:: y_t = [x_t +] \sum_i S_{i, j_i(x_t, x_{t-1}, \dots, x_{t-D})}

    Args:
        n_inputs: neurons in the latency vector.
        n_outputs: neurons driven.
        n_tables: tables.
        n_comparisons: anchor pairs a table; it has 2^n_comparisons rows.
        max_delay: longest conduction delay in positions. 0: none, the paper's layer.
        delay_distribution: ``"geometric"`` (P(d) ~ 2^-d) or ``"uniform"``.
        anchors: ``"random"``, ``"covering"`` (all pairs occur before any repeats), ``"independent"``, or the
            pairs themselves, (n_tables, n_comparisons, 2) int32.
        residual: adds the input, x + S_x; needs n_outputs == n_inputs.
        gradient: of the tables: ``"dense"``, ``"sparse"`` or ``"fused"``.
        update: for ``"fused"``. In training mode its ``drop`` leaves tables out: y = [x +] I / m times the sum over m
            of the I tables, drawn anew in each call.
        dtype: of the tables: torch.float32, or torch.bfloat16, whose rows a fused update rounds stochastically.
        seed: of anchors and delays.

    Shapes: x (B, n_inputs) or, always with delays, (B, T, n_inputs); y the same with n_outputs.

    Raises:
        InputError: more comparisons than there are pairs of neurons.
        ValueError: sizes that do not fit together.

    Source: Spiking Manifesto, equations 1 to 10.

    Example:
        >>> import torch
        >>> layer = LookupTables(n_inputs=32, n_outputs=10, n_tables=8, n_comparisons=6)
        >>> layer(torch.randn(5, 32)).shape
        torch.Size([5, 10])
    """

    drops_tables = True

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        n_tables: int,
        n_comparisons: int,
        max_delay: int = 0,
        *,
        delay_distribution: str = "geometric",
        anchors: str | Tensor = "random",
        residual: bool = False,
        gradient: str = "dense",
        update: RowUpdate | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        if residual and n_inputs != n_outputs:
            raise ValueError(f"residual needs n_outputs == n_inputs; got {n_outputs} and {n_inputs}")
        pairs = choose_anchors(anchors, n_inputs, n_tables, n_comparisons, seed)
        super().__init__(n_tables, n_comparisons, n_outputs, gradient, update, dtype)
        self.n_inputs = n_inputs
        self.n_comparisons = n_comparisons
        self.max_delay = max_delay
        self.residual = residual
        self.register_buffer("anchors", pairs)
        self.register_buffer("delays", draw_delays(delay_distribution, n_tables, n_comparisons, max_delay, seed + 1))

    def forward(self, x: Tensor, history: Tensor | None = None) -> Tensor:
        """y of the latencies x; ``history`` (B, D, n_inputs) stands before them."""
        check_width(x, self.n_inputs)  # before anything is drawn: a call that is refused leaves the generator alone
        kept = self.draw_step()
        if kept is not None:
            return self._read_some(x, history, kept)
        held, tables = self._buffers, self._tables()  # attributes that a module holds this way take a search each
        anchors, delays, residual, gradient, update = (
            held["anchors"], held["delays"], self.residual, self.gradient, self.update
        )  # fmt: skip
        reader = direct.find_reader(x, tables, anchors, delays, history, residual, gradient, update)
        if reader is not None:
            return direct.read(reader, x, tables, residual, gradient, update)
        return lookup(
            x, tables, anchors, delays, history=history, residual=residual, gradient=gradient, update=update
        )  # fmt: skip

    def _read_some(self, x: Tensor, history: Tensor | None, kept: Tensor) -> Tensor:
        r"""[x +] n_tables / m times the sum over the m kept tables: table by table, so that each updates in place.

        The definition; a :class:`polychron.nn.Chain` does the same at full speed, and so does a GPU.
        """
        self.update.prepare(self.synaptic_vectors)
        y = 0
        at_once = runs_triton(x) and self.update.kind != "online_sgd"
        if at_once:
            run, whole = arithmetic(x, "lookup"), checks.as_sequences(x, self.delays, history)
            y = run.read_some(whole, self.synaptic_vectors, self.anchors, self.delays, history, kept, self.update)
            y = y if whole is x else y[0]
        for i in [] if at_once else kept.tolist():
            one = slice(i, i + 1)
            delays = None if self.delays is None else self.delays[one]
            y = y + lookup(
                x, self.synaptic_vectors[one], self.anchors[one], delays, history=history, gradient="fused",
                update=self.update.of_table(i),
            )  # fmt: skip
        y = self.n_tables / len(kept) * y
        return x + y if self.residual else y

    def extra_repr(self) -> str:
        """Sizes, for print(module)."""
        return (
            f"n_inputs={self.n_inputs}, n_outputs={self.n_outputs}, n_tables={self.n_tables}, "
            f"n_comparisons={self.n_comparisons}, max_delay={self.max_delay}, residual={self.residual}, "
            f"gradient={self.gradient}"
        )


class Readout(LookupTables):
    """The last layer: its outputs are logits of classes, and its loss is computed without keeping them.

    Example:
        >>> import torch
        >>> readout = Readout(n_inputs=32, n_outputs=10, n_tables=8, n_comparisons=6)
        >>> readout.loss(torch.randn(2, 5, 32), torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 5])
    """

    def loss(self, x: Tensor, targets: Tensor, history: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats of each position: x (B, T, n_inputs), targets (B, T) int64; (B, T)."""
        check_width(x, self.n_inputs)
        kept = self.draw_step()
        if kept is not None:
            checks.check_latencies(x)
            checks.check_targets(targets, x)
            checks.check_target_range(targets, self.n_outputs)
            logits = self._read_some(x, history, kept)
            return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        return readout_cross_entropy(
            x, self.synaptic_vectors, self.anchors, targets, self.delays, history=history, **self._options()
        )
