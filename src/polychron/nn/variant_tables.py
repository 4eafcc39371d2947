"""The layer with another hash, reading or gradient, one argument each; and the readout made of it."""

# B sequence, T position, I table, R comparison, K output, D delay

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from polychron.anchors import draw_delays
from polychron.limits import require_memory
from polychron.nn.row_layer import choose_anchors
from polychron.ops import RowUpdate
from polychron.ops.checks import check_target_range
from polychron.ops.row_update import apply_merged
from polychron.ops.variants import (
    GRADIENTS,
    HASHES,
    READINGS,
    Address,
    bins_hash,
    hyperplane_hash,
    order_hash,
    read,
    steadied,
    zero_hash,
)


class VariantLayer(nn.Module):
    """Base of the layers of variants: tables, their hash, and how they learn.

    ``synaptic_vectors`` S (n_tables, n_rows, n_outputs) start at 0. Their gradient is ``"dense"``, for any torch
    optimizer, or ``"fused"``: when it is complete, ``update`` changes the rows as it does in
    :class:`polychron.nn.RowLayer`, and nothing is left in ``.grad``. Under the confidence reading the gradient is
    :func:`polychron.ops.variants.steadied` before, and beta and gamma, which all tables share, learn at the rate's
    n_tables-th part: without either, rows, distances and factors drive each other up.
    """

    def __init__(
        self,
        n_tables: int,
        n_rows: int,
        n_outputs: int,
        *,
        hash: str = "order",
        reading: str = "hard",
        gradient: str = "nearest",
        n_bins: int = 3,
        bin_width: float = 1.0,
        temperature: float = 1.0,
        table_gradient: str = "dense",
        update: RowUpdate | None = None,
    ):
        super().__init__()
        for name, value, choices in (("hash", hash, HASHES), ("reading", reading, READINGS),
                                     ("gradient", gradient, GRADIENTS)):  # fmt: skip
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
        if reading != "hard" and gradient != "nearest":
            raise ValueError(f"gradient is the hard reading's: the {reading} one is differentiated as it is")
        if hash == "bins" and gradient == "softmax":
            raise ValueError("gradient softmax needs rows whose index is made of bits: take another hash than bins")
        require_memory(4 * n_tables * n_rows * n_outputs, "the tables", "take fewer comparisons or bins")
        self.hash, self.reading, self.gradient = hash, reading, gradient
        self.n_bins, self.bin_width, self.temperature = n_bins, bin_width, temperature
        self.synaptic_vectors = nn.Parameter(torch.zeros(n_tables, n_rows, n_outputs))
        if reading == "confidence":
            self.beta, self.gamma = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(1.0))
        self._visits: Tensor | None = None
        self._squares: Tensor | None = None
        self._hook: tuple[RemovableHandle, weakref.ref[Tensor]] | None = None  # and the parameter that it is on
        self.use_gradient(table_gradient, update)

    def use_gradient(self, gradient: str, update: RowUpdate | None = None) -> None:
        """Chooses what becomes of the tables' gradient from now on.

        Raises:
            ValueError: neither "dense" nor "fused", "fused" without ``update``, or an online one.
        """
        if gradient not in ("dense", "fused"):
            raise ValueError(f"gradient of a variant's tables must be dense or fused; got {gradient!r}")
        if (gradient == "fused") != (update is not None):
            raise ValueError(f"update must be given for gradient='fused' and only then; got {update} with {gradient!r}")
        if update is not None and update.kind == "online_sgd":
            raise ValueError("update must not be online_sgd: it is defined for the paper's layer alone")
        if self._hook is not None:
            self._hook[0].remove()
        self.update, self._hook, self._visits, self._squares = update, None, None, None

    def _prepare(self) -> None:
        """The hook that ends a step, which copies lack, and what a step counts, where the tables are."""
        tables = self.synaptic_vectors
        if self._hook is not None and self._hook[1]() is not tables:  # load_state_dict(assign=True) brings others
            self._hook[0].remove()
            self._hook = None
        if self._hook is None:
            self._hook = tables.register_post_accumulate_grad_hook(self._change_rows), weakref.ref(tables)
        if self._visits is None or self._visits.device != tables.device:
            with torch.inference_mode(False):  # what is made in inference mode could not count in training
                self._visits = torch.zeros(tables.shape[:2], dtype=torch.int64, device=tables.device)
                if self.reading == "confidence":
                    self._squares = torch.zeros(self._visits.shape, dtype=torch.float64, device=tables.device)

    def __getstate__(self) -> dict[str, object]:
        """Everything but the hook, which is this layer's tables'."""
        return {**self.__dict__, "_hook": None}

    @torch.no_grad()
    def _change_rows(self, tables: Tensor) -> None:
        """The update of a whole backward pass, once: all readings of a row are merged."""
        self.update.prepare(tables)
        gradient = tables.grad
        if self._squares is not None:
            gradient = steadied(gradient, self._visits, self._squares)
            self._squares.zero_()
        apply_merged(tables, gradient, self._visits, self.update)
        tables.grad = None
        self._visits.zero_()

    def _trained(self, parameter: Tensor, n_positions: int, n_tables: int = 1) -> Tensor:
        """A parameter that every position reads in so many tables; under a cap it learns as a row so often read would.

        A dense gradient, for other optimizers, is left as it is.
        """
        if self.update is None or not torch.is_grad_enabled():
            return parameter
        cap = self.update.visit_cap
        share = (1.0 if cap is None else min(1.0, cap / n_positions)) / n_tables
        return parameter if share == 1 else _ScaleGradient.apply(parameter, share)

    def _hashed(self, x: Tensor, anchors: Tensor, directions: Tensor | None, delays: Tensor | None) -> Address:
        """x (P, n), or with delays (P, (D + 1) n), as the layer's hash addresses it."""
        if self.hash == "hyperplane":
            return hyperplane_hash(x, directions, None if delays is None else delays[..., 0])
        if delays is not None:
            n = x.shape[1] // (self.max_delay + 1)
            anchors = anchors + n * delays
        if self.hash == "order":
            return order_hash(x, anchors)
        if self.hash == "zero":
            return zero_hash(x, anchors)
        return bins_hash(x, anchors, self.n_bins, self.bin_width)

    def _read(self, address: Address, n_positions: int, which: Tensor | None = None) -> Tensor:
        # Frozen tables end no step that would use what is counted.
        counts = self.update is not None and self.synaptic_vectors.requires_grad
        if counts:
            self._prepare()
        trained = {}
        if self.reading == "confidence":
            factors = {"beta": self.beta, "gamma": self.gamma}
            trained = {name: self._trained(value, n_positions, self.n_tables) for name, value in factors.items()}
        return read(
            address, self.synaptic_vectors, self.reading, self.gradient, temperature=self.temperature, which=which,
            visits=self._visits if counts else None, squares=self._squares if counts else None, **trained,
        )  # fmt: skip

    @property
    def n_tables(self) -> int:
        """Tables in the layer."""
        return self.synaptic_vectors.shape[0]

    @property
    def n_outputs(self) -> int:
        """Neurons that the layer drives."""
        return self.synaptic_vectors.shape[2]

    def extra_repr(self) -> str:
        """Sizes and variant, for print(module)."""
        n_tables, n_rows, n_outputs = self.synaptic_vectors.shape
        return (
            f"n_inputs={self.n_inputs}, n_outputs={n_outputs}, n_tables={n_tables}, n_rows={n_rows}, "
            f"hash={self.hash}, reading={self.reading}, gradient={self.gradient}, residual={self.residual}"
        )


class VariantTables(VariantLayer):
    r"""Look-up tables as in :class:`polychron.nn.LookupTables`, in plain PyTorch, with every step exchangeable.

    .. math:: y = [x +] \mathrm{read}(\mathrm{hash}(x), S)

    With the defaults it is the paper's layer: the same output and gradients, slower. For comparing ideas, on any
    device; the tables' gradient is dense, any torch optimizer takes it, or :func:`polychron.optim.attach`.

    Args:
        n_inputs: neurons in the latency vector.
        n_outputs: neurons driven.
        n_tables: tables.
        n_comparisons: comparisons a table.
        max_delay: longest conduction delay in positions; then x must be (B, T, n_inputs).
        delay_distribution: ``"geometric"`` or ``"uniform"``.
        hash: ``"order"``, ``"zero"``, ``"hyperplane"`` (trained directions, which start as the order of the anchor
            pairs; with delays a direction cuts the latencies of its pair's first delay) or ``"bins"``; see
            :mod:`polychron.ops.variants.hashes`.
        reading: ``"hard"``, ``"soft"`` or ``"confidence"`` (with trained beta and gamma); see
            :mod:`polychron.ops.variants.readings`.
        gradient: of the hard reading: ``"nearest"``, ``"all"``, ``"softmax"`` or ``"scalar"``.
        n_bins: m of ``"bins"``, which has m^n_comparisons rows a table.
        bin_width: distance of two thresholds of ``"bins"``.
        temperature: of ``"softmax"``.
        anchors: ``"random"``, ``"covering"``, ``"independent"``, or the pairs themselves, (n_tables,
            n_comparisons, 2) int32.
        residual: adds the input; needs n_outputs == n_inputs.
        seed: of anchors and delays: as in LookupTables, the same for the same seed.

    Shapes: x (..., n_inputs), y (..., n_outputs).

    Raises:
        ValueError: an unknown name, or arguments that do not fit together.
        InputError: more comparisons than there are pairs, or tables larger than memory.

    Example:
        >>> layer = VariantTables(n_inputs=16, n_outputs=5, n_tables=4, n_comparisons=3, hash="bins", n_bins=3)
        >>> layer(torch.randn(2, 7, 16)).shape, layer.synaptic_vectors.shape
        (torch.Size([2, 7, 5]), torch.Size([4, 27, 5]))
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        n_tables: int,
        n_comparisons: int,
        max_delay: int = 0,
        *,
        delay_distribution: str = "geometric",
        hash: str = "order",
        reading: str = "hard",
        gradient: str = "nearest",
        n_bins: int = 3,
        bin_width: float = 1.0,
        temperature: float = 1.0,
        anchors: str | Tensor = "random",
        residual: bool = False,
        seed: int = 0,
    ):
        if residual and n_inputs != n_outputs:
            raise ValueError(f"residual needs n_outputs == n_inputs; got {n_outputs} and {n_inputs}")
        pairs = choose_anchors(anchors, n_inputs, n_tables, n_comparisons, seed)
        n_rows = n_bins**n_comparisons if hash == "bins" else 1 << n_comparisons
        super().__init__(
            n_tables, n_rows, n_outputs, hash=hash, reading=reading, gradient=gradient, n_bins=n_bins,
            bin_width=bin_width, temperature=temperature,
        )  # fmt: skip
        self.n_inputs, self.n_comparisons = n_inputs, n_comparisons
        self.max_delay, self.residual = max_delay, residual
        self.register_buffer("anchors", pairs)
        self.register_buffer("delays", draw_delays(delay_distribution, n_tables, n_comparisons, max_delay, seed + 1))
        self.directions = order_directions(pairs, n_inputs) if hash == "hyperplane" else None

    def forward(self, x: Tensor, history: Tensor | None = None) -> Tensor:
        """y of the latencies x; ``history`` (B, D, n_inputs) stands before them."""
        if x.shape[-1] != self.n_inputs or not x.is_floating_point():
            raise ValueError(f"x must hold latencies of shape (..., {self.n_inputs}); got {x.dtype} {tuple(x.shape)}")
        flat = x.reshape(-1, self.n_inputs)
        if self.delays is not None:
            if x.dim() != 3:
                raise ValueError(f"delays need x of shape (B, T, {self.n_inputs}); got {tuple(x.shape)}")
            flat = with_delays(x, history, self.max_delay)
        kept = self.update.draw_kept(self.n_tables) if self.training and self.update is not None else None
        y = self.sum_rows(flat, len(flat), None if kept is None else kept.long())
        if kept is not None:
            y = self.n_tables / len(kept) * y
        y = y.view(*x.shape[:-1], self.n_outputs)
        return x + y if self.residual else y

    def sum_rows(self, x: Tensor, n_positions: int, which: Tensor | None = None) -> Tensor:
        """Rows added for positions (P, n), or (P, (D + 1) n) with delays, where a step reads ``n_positions``.

        ``which`` tables (m,) int64; None: all.
        """
        directions = None if self.directions is None else self._trained(self.directions, n_positions)
        some = [None if part is None else part if which is None else part[which]
                for part in (self.anchors, directions, self.delays)]  # fmt: skip
        return self._read(self._hashed(x, *some), n_positions, which)


class VariantReadout(VariantTables):
    """The last layer of a network of variants: its outputs are logits of classes.

    Example:
        >>> readout = VariantReadout(n_inputs=32, n_outputs=10, n_tables=8, n_comparisons=6, reading="soft")
        >>> readout.loss(torch.randn(2, 5, 32), torch.zeros(2, 5, dtype=torch.int64)).shape
        torch.Size([2, 5])
    """

    def loss(self, x: Tensor, targets: Tensor, history: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats of each position: x (B, T, n_inputs), targets (B, T) int64; (B, T)."""
        check_target_range(targets, self.n_outputs)
        logits = self(x, history)
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


class VariantRecurrentTables(VariantTables):
    r"""Variants in the recurrent network: :class:`polychron.nn.RecurrentTables`, position by position in PyTorch.

    .. math:: h_t = z_t + \mathrm{read}(\mathrm{hash}(h_{t-1}), S)

    Args:
        n_neurons: of the input and of the output.
        n_tables: tables.
        n_comparisons: comparisons a table.
        truncation: backpropagation through time ends after so many positions; None: at the sequence's start.
        variant: as of :class:`VariantTables`, with anchors and seed.

    Shapes: z (B, T, n_neurons), start (B, n_neurons), h (B, T, n_neurons).

    Example:
        >>> VariantRecurrentTables(16, n_tables=4, n_comparisons=3, reading="soft")(torch.randn(2, 5, 16)).shape
        torch.Size([2, 5, 16])
    """

    def __init__(
        self, n_neurons: int, n_tables: int, n_comparisons: int, *, truncation: int | None = None, **variant: object
    ):
        super().__init__(n_neurons, n_neurons, n_tables, n_comparisons, **variant)
        self.truncation = truncation

    def forward(self, z: Tensor, start: Tensor | None = None) -> Tensor:
        """h of the inputs z, going on from ``start``; no table is dropped here."""
        check_sequences(z, self.n_inputs, "z")
        B, T, n = z.shape
        h = z.new_zeros(B, n) if start is None else start.detach()
        passed = []
        for t in range(T):
            if self.truncation is not None and t % self.truncation == 0:
                h = h.detach()
            h = z[:, t] + self.sum_rows(h, B * T)
            passed.append(h)
        return torch.stack(passed, dim=1) if passed else torch.empty_like(z)


def check_sequences(x: Tensor, n_inputs: int, name: str = "x") -> None:
    """Latencies of sequences: floating and (B, T, n_inputs).

    Raises:
        ValueError: of another type or shape.
    """
    if x.dim() != 3 or x.shape[2] != n_inputs or not x.is_floating_point():
        raise ValueError(f"{name} must hold latencies of shape (B, T, {n_inputs}); got {x.dtype} {tuple(x.shape)}")


def order_directions(anchors: Tensor, n_inputs: int) -> nn.Parameter:
    """The directions e_a - e_b, (I, R, n), whose hyperplanes are the order of the anchor pairs."""
    one = nn.functional.one_hot(anchors.long(), n_inputs).float()
    return nn.Parameter(one[:, :, 0] - one[:, :, 1])


def with_delays(x: Tensor, history: Tensor | None, max_delay: int) -> Tensor:
    """x (B, T, n) with what came before: (B T, (D + 1) n), delay 0 first; before the history latencies are 0.

    A transposed view: neurons lie in memory one after another, for what copies whole neurons.

    Example:
        >>> with_delays(torch.tensor([[[1.0], [2.0], [3.0]]]), None, max_delay=1)
        tensor([[1., 0.],
                [2., 1.],
                [3., 2.]])
    """
    B, T, n = x.shape
    past = x.new_zeros(B, max_delay, n)
    if history is not None and max_delay:
        known = history[:, -max_delay:].detach()
        past[:, max_delay - known.shape[1] :] = known
    whole = torch.cat([past, x], dim=1).permute(2, 0, 1)
    shifted = [whole[:, :, max_delay - d : max_delay - d + T] for d in range(max_delay + 1)]
    return torch.cat(shifted).reshape((max_delay + 1) * n, B * T).t()


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is a share of what arrives."""

    @staticmethod
    def forward(ctx, parameter, share):
        """The parameter."""
        ctx.share = share
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx, v):
        """The share of v."""
        return ctx.share * v, None
