"""One layer of look-up tables, by polychron and by the best that others allow: the same numbers, to be timed.

Each contestant holds tables and anchors of its own and gives

    forward(x)     y (equation 3), nothing kept
    step(x, v)     y and dL/dx (equation 8) for v = dL/dy, and its tables changed by SGD: S_j <- S_j - rate * G_j

:class:`Composed` is what one writes with PyTorch alone. Where PyTorch has several ways to do a part, it has them all,
and :meth:`Composed.choose` keeps the fastest for a size. It is one autograd function, its backward pass written out:
autograd around each operation would only add to it, and so would an optimizer that reads the gradient a second time.
"""

# B position, I table, R comparison, J row, K output

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from polychron.nn import LookupTables
from polychron.ops import RowUpdate

# Comparisons that are worked on at a time, so that what lies between two operations stays in a cache.
_AT_A_TIME = 1 << 19


class _Contestant:
    """Holds x as a tensor that asks for its gradient, made once."""

    _given = _x = None

    def _leaf(self, x: Tensor) -> Tensor:
        if x is not self._given:
            self._given, self._x = x, x.clone().requires_grad_()
        self._x.grad = None
        return self._x


class Polychron(_Contestant):
    """The layer as a user has it: a module, autograd, the update fused into the backward pass."""

    name = "polychron"

    def __init__(self, layer: LookupTables, rate: float):
        self.layer = layer
        layer.use_gradient("fused", RowUpdate("sgd", rate=rate))

    def forward(self, x: Tensor) -> Tensor:
        """Y."""
        with torch.no_grad():
            return self.layer(x)

    def step(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Y and dL/dx; the tables change."""
        x = self._leaf(x)
        y = self.layer(x)
        y.backward(v)
        return y, x.grad

    def tables(self) -> Tensor:
        """S (I, J, K)."""
        return self.layer.synaptic_vectors.detach()


class Composed(_Contestant):
    """The layer out of PyTorch's operations: gathered comparisons, ``F.embedding_bag``, its own backward pass."""

    name = "eager"
    # The ways to do each part, and the methods that do.
    WAYS: ClassVar[dict[str, dict[str, str]]] = {
        "hash": {"dot product": "_hash_dot", "neurons first": "_hash_neurons_first"},
        "gain": {"weights' gradient": "_gain_bag", "rows": "_gain_rows", "table by table": "_gain_by_table"},
        "update": {
            "sparse": "_update_sparse",
            "index_add_": "_update_index_add",
            "scatter_add_": "_update_scatter",
            "table by table": "_update_by_table",
            "dense": "_update_dense",
        },
    }

    def __init__(self, layer: LookupTables, rate: float):
        self.I, self.R = layer.anchors.shape[:2]
        self.J, self.K = layer.synaptic_vectors.shape[1:]
        self.n = layer.n_inputs
        self.rate = rate
        self.weight = layer.synaptic_vectors.detach().clone(memory_format=torch.contiguous_format).flatten(0, 1)
        self.ends = layer.anchors.long()  # (I, R, 2)
        self.a, self.b = (self.ends[..., end].flatten().contiguous() for end in (0, 1))
        self.bit = 1 << torch.arange(self.R)
        self.first_row = torch.arange(self.I) * self.J
        self.first_pair = torch.arange(self.I) * self.R
        self.chosen = {part: next(iter(ways)) for part, ways in self.WAYS.items()}

    def choose(self, x: Tensor, v: Tensor, seconds: Callable[[Callable[[], object]], float]) -> dict[str, str]:
        """Keeps the fastest way of each part for inputs like these; ``seconds`` times a call. Returns the choice."""
        x, v = x[: self._chunk()], v[: self._chunk()]
        _, row, pair = self._hash_dot(x, True)
        arguments = {"hash": (x, True), "gain": (row, row ^ (1 << pair), v), "update": (row, v, None)}
        for part, ways in self.WAYS.items():
            if len(ways) > 1:
                times = {name: seconds(partial(getattr(self, way), *arguments[part])) for name, way in ways.items()}
                self.chosen[part] = min(times, key=times.get)
        return dict(self.chosen)

    def _chunk(self) -> int:
        return max(1, _AT_A_TIME // (self.I * self.R))

    def forward(self, x: Tensor) -> Tensor:
        """Y."""
        hash_rows = getattr(self, self.WAYS["hash"][self.chosen["hash"]])
        with torch.no_grad():
            ys = [self._bag(hash_rows(part, False)[1]) for part in x.split(self._chunk())]
        return ys[0] if len(ys) == 1 else torch.cat(ys)

    def step(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Y and dL/dx; the tables change."""
        x = self._leaf(x)
        y = _ComposedLayer.apply(x, self)
        y.backward(v)
        return y, x.grad

    def read(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Y, and of each part of the batch what :meth:`differentiate` needs."""
        hash_rows = getattr(self, self.WAYS["hash"][self.chosen["hash"]])
        kept = []
        for part in x.split(self._chunk()):
            u, row, pair = hash_rows(part, True)
            kept.append((self._bag(row), u, row, pair))
        return kept[0][0].detach() if len(kept) == 1 else torch.cat([y.detach() for y, *_ in kept]), kept

    def differentiate(self, kept: list[tuple[Tensor, ...]], v: Tensor) -> Tensor:
        """DL/dx; then the tables change: all gains come from them as they were."""
        gain, update = (getattr(self, self.WAYS[part][self.chosen[part]]) for part in ("gain", "update"))
        vs, dxs = v.split(self._chunk()), []
        for (_, u, row, pair), v_part in zip(kept, vs, strict=True):
            slope = torch.where(u > 0, -0.5, 0.5) / (1 + u.abs()).square() * gain(row, row ^ (1 << pair), v_part)
            which = pair + self.first_pair
            dx = torch.zeros(len(row), self.n)
            dxs.append(dx.scatter_add_(1, self.a[which], slope).scatter_add_(1, self.b[which], -slope))
        for (y, _, row, _), v_part in zip(kept, vs, strict=True):
            update(row, v_part, y)
        return dxs[0] if len(dxs) == 1 else torch.cat(dxs)

    def tables(self) -> Tensor:
        """S (I, J, K)."""
        return self.weight.view(self.I, self.J, self.K)

    def _bag(self, row: Tensor) -> Tensor:
        return F.embedding_bag(row, self.weight, mode="sum")

    # Each: (u of the pair nearest to flipping, row in the flat tables, that pair), (B, I); without `nearest` only rows.

    def _hash_dot(self, x: Tensor, nearest: bool) -> tuple[Tensor | None, Tensor, Tensor | None]:
        u = (x.index_select(1, self.a) - x.index_select(1, self.b)).view(len(x), self.I, self.R)
        row = ((u > 0) * self.bit).sum(-1) + self.first_row
        if not nearest:
            return None, row, None
        pair = u.abs().argmin(-1)
        return u.gather(-1, pair[..., None])[..., 0], row, pair

    def _hash_neurons_first(self, x: Tensor, nearest: bool) -> tuple[Tensor | None, Tensor, Tensor | None]:
        xt = x.t().contiguous()
        u = (xt.index_select(0, self.a) - xt.index_select(0, self.b)).view(self.I, self.R, len(x))
        bits = u > 0
        row = self.first_row[:, None] + bits[:, 0]
        for r in range(1, self.R):
            row.add_(bits[:, r], alpha=1 << r)
        row = row.t().contiguous()
        if not nearest:
            return None, row, None
        pair = u.abs().argmin(1)
        return u.gather(1, pair[:, None])[:, 0].t(), row, pair.t()

    # Each: v . (S_jbar - S_j), (B, I).

    def _gain_bag(self, row: Tensor, flipped: Tensor, v: Tensor) -> Tensor:
        offsets = torch.arange(0, row.numel(), self.I)
        bag = torch.arange(len(v)).repeat_interleave(self.I)

        def dot(j: Tensor) -> Tensor:
            return torch.ops.aten._embedding_bag_per_sample_weights_backward(v, self.weight, j, offsets, bag, 0, -1)

        return (dot(flipped.flatten()) - dot(row.flatten())).view(row.shape)

    def _gain_rows(self, row: Tensor, flipped: Tensor, v: Tensor) -> Tensor:
        between = self.weight.index_select(0, flipped.flatten()).sub_(self.weight.index_select(0, row.flatten()))
        return torch.bmm(between.view(*row.shape, self.K), v[:, :, None])[..., 0]

    def _gain_by_table(self, row: Tensor, flipped: Tensor, v: Tensor) -> Tensor:
        gain = torch.empty(row.shape[::-1])
        for i, (j, j_flipped) in enumerate(zip(row.t().contiguous(), flipped.t().contiguous(), strict=True)):
            between = self.weight.index_select(0, j_flipped).sub_(self.weight.index_select(0, j))
            torch.linalg.vecdot(between, v, out=gain[i])
        return gain.t()

    # Each: S_j <- S_j - rate v for all that read it; y is what was read.

    def _update_sparse(self, row: Tensor, v: Tensor, _: object) -> None:
        each = v.repeat_interleave(self.I, 0)
        gradient = torch.sparse_coo_tensor(row.view(1, -1), each, self.weight.shape, check_invariants=False)
        self.weight.add_(gradient, alpha=-self.rate)

    def _update_index_add(self, row: Tensor, v: Tensor, _: object) -> None:
        self.weight.index_add_(0, row.flatten(), v.repeat_interleave(self.I, 0), alpha=-self.rate)

    def _update_scatter(self, row: Tensor, v: Tensor, _: object) -> None:
        each = (v * -self.rate).repeat_interleave(self.I, 0)
        self.weight.scatter_add_(0, row.view(-1, 1).expand_as(each), each)

    def _update_by_table(self, row: Tensor, v: Tensor, _: object) -> None:
        change = v * -self.rate
        tables = self.tables()
        for i, j in enumerate((row - self.first_row).t().contiguous()):
            tables[i].scatter_add_(0, j[:, None].expand_as(change), change)

    def _update_dense(self, row: Tensor, v: Tensor, _: object) -> None:
        bag = torch.arange(len(v)).repeat_interleave(self.I)
        size = torch.full((len(v),), self.I)
        gradient = torch.ops.aten._embedding_bag_dense_backward(
            v, row.flatten(), bag, size, row.new_empty(0), len(self.weight), False, 0, None, -1
        )
        self.weight.add_(gradient, alpha=-self.rate)


class _ComposedLayer(torch.autograd.Function):
    """What makes it a layer: v comes when the layers after it are done."""

    @staticmethod
    def forward(ctx, x, peer):
        y, ctx.kept = peer.read(x)
        ctx.peer = peer
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v):
        return ctx.peer.differentiate(ctx.kept, v), None


class Compiled(Composed):
    """The same by ``torch.compile``: one graph for the forward pass, one for the step, for one size of batch.

    What lies between the operations is never made: comparisons, index and gains are single loops.
    """

    name = "compiled"
    OPTIONS: ClassVar[dict[str, object]] = {"fullgraph": True, "dynamic": False}

    def __init__(self, layer: LookupTables, rate: float, backend: str = "inductor"):
        super().__init__(layer, rate)
        torch.compiler.reset()
        self._forward = torch.compile(self._one_forward, backend=backend, **self.OPTIONS)
        self._step = torch.compile(self._one_step, backend=backend, **self.OPTIONS)

    def choose(self, x: Tensor, v: Tensor, seconds: Callable[[Callable[[], object]], float]) -> dict[str, str]:
        """There is nothing to choose: the compiler does."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        """Y."""
        with torch.no_grad():
            return self._forward(x, self.weight)

    def step(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Y and dL/dx; the tables change."""
        with torch.no_grad():
            return self._step(x, v, self.weight)

    def _differences(self, x: Tensor) -> Tensor:
        return x[:, self.ends[..., 0]] - x[:, self.ends[..., 1]]

    def _one_forward(self, x: Tensor, weight: Tensor) -> Tensor:
        row = ((self._differences(x) > 0) * self.bit).sum(-1) + self.first_row
        return F.embedding_bag(row, weight, mode="sum")

    def _one_step(self, x: Tensor, v: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        u = self._differences(x)
        row = ((u > 0) * self.bit).sum(-1) + self.first_row
        y = F.embedding_bag(row, weight, mode="sum")
        pair = u.abs().argmin(-1)
        nearest = u.gather(-1, pair[..., None])[..., 0]
        gain = ((weight[row ^ (1 << pair)] - weight[row]) * v[:, None]).sum(-1)
        slope = torch.where(nearest > 0, -0.5, 0.5) / (1 + nearest.abs()).square() * gain
        which = pair + self.first_pair
        dx = torch.zeros_like(x).scatter_add(1, self.a[which], slope).scatter_add(1, self.b[which], -slope)
        change = (v * -self.rate)[:, None].expand(-1, self.I, -1)
        weight.index_put_((row,), change, accumulate=True)
        return y, dx


class Fbgemm(Composed):
    """FBGEMM's table-batched embedding for rows, sum and fused SGD; comparisons and gains are :class:`Composed`'s.

    One table of I * J rows and bags of I, so that rows are summed as they are read; FBGEMM's other form, a feature for
    each table, writes I outputs per position that have to be summed after it.
    """

    name = "fbgemm"
    WAYS: ClassVar[dict[str, dict[str, str]]] = Composed.WAYS | {"update": {"fbgemm": "_update_fused"}}

    def __init__(self, layer: LookupTables, rate: float):
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        super().__init__(layer, rate)
        self.embedding = SplitTableBatchedEmbeddingBagsCodegen(
            embedding_specs=[(self.I * self.J, self.K, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType.EXACT_SGD,
            learning_rate=rate,
            pooling_mode=PoolingMode.SUM,
        )
        (held,) = self.embedding.split_embedding_weights()
        held.copy_(self.weight)
        self.weight = held

    def read(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Y, and what was kept: its own graph, whose backward pass is the update."""
        with torch.enable_grad():
            return super().read(x.detach())

    def _bag(self, row: Tensor) -> Tensor:
        return self.embedding(row.flatten(), torch.arange(0, row.numel() + 1, self.I))

    def _update_fused(self, row: Tensor, v: Tensor, y: Tensor) -> None:
        y.backward(v)


PEERS = {kind.name: kind for kind in (Composed, Compiled, Fbgemm)}


def missing(name: str) -> str | None:
    """Why a peer cannot take part here; None: it can."""
    if name != Fbgemm.name:
        return None
    try:
        import fbgemm_gpu  # noqa: F401
    except (ImportError, OSError) as error:  # not installed, or built for another torch
        return str(error).splitlines()[0]
    return None
