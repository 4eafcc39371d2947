"""A dense transformer that reads and writes a byte at a time and remembers keys and values: as fast as PyTorch lets it.

Memory is taken once, nothing is recorded for a gradient, the convolution over embeddings is four rows of tables (it is
linear in what each byte brings), and a draw is an argmax of logits plus noise that was drawn beforehand, so that one
call does all that a byte needs and torch.compile sees no Python in between.
"""

# L block, H head, T position in the window, D width, K vocabulary, N position in the text

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polychron.twins.transformer import MIXED_BYTES, Transformer, rotate, rotation

NEVER = float("-inf")


class CachedTransformer(nn.Module):
    """`Transformer.read`, byte after byte, for one text.

    Args:
        twin: trained; its weights are shared, not copied.
        temperature: of draws, above 0.
        compiled: whether torch.compile makes `write_next`, at its first call.
    """

    def __init__(self, twin: Transformer, temperature: float = 1.0, *, compiled: bool = False):
        super().__init__()
        self.twin, self.temperature = twin, temperature
        size, n_classes = twin.size, twin.embedding.num_embeddings
        part = size.width // size.n_heads
        with torch.no_grad():
            embedding = twin.embedding.weight
            earlier = [embedding @ matrix.T for matrix in twin.mix.weight.split(size.width, dim=1)]
            rows = torch.stack([*earlier, embedding])
        # Row K of each table is that of a place before the text.
        self.register_buffer("rows", F.pad(rows, (0, 0, 0, 1)).flatten(0, 1))
        self.register_buffer("places", torch.arange(MIXED_BYTES + 1) * (n_classes + 1))
        self.register_buffer("tokens", torch.zeros(MIXED_BYTES + 1, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(size.window))
        self.register_buffer("at", torch.zeros(1, dtype=torch.int64))
        for layer in range(size.n_layers):
            self.register_buffer(f"remembered_{layer}", torch.zeros(2, size.n_heads, size.window, part))
        self._next = torch.compile(self.write_next, dynamic=False) if compiled else self.write_next
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.tokens.fill_(self.twin.embedding.num_embeddings)
        self.seen.fill_(NEVER)
        self.at.zero_()
        for layer in range(self.twin.size.n_layers):
            getattr(self, f"remembered_{layer}").zero_()

    def angles(self, n: int) -> list[Tensor]:
        """Cosines and sines (2, D / 2H) by which each of the n bytes after `reset` turns a head."""
        return list(torch.stack(rotation(torch.arange(n), self.twin.cosine.shape[1]), dim=1))

    @torch.no_grad()
    def read(self, tokens: Tensor) -> Tensor:
        """Logits (N, K) after each byte of a text (N,) int64, which begins here."""
        self.reset()
        pairs = zip(tokens.split(1), self.angles(len(tokens)), strict=True)
        return torch.stack([self._read_next(token, angle) for token, angle in pairs])

    def _read_next(self, token: Tensor, angle: Tensor) -> Tensor:
        twin, size = self.twin, self.twin.size
        self.tokens.copy_(torch.cat([self.tokens[1:], token]))
        place = self.at % size.window
        cosine, sine = angle
        self.seen[place] = 0.0
        x = self.rows[self.places + self.tokens].sum(dim=0)
        for layer, block in enumerate(twin.blocks):
            heads = block.query_key_value(block.attention_norm(x)).view(3, size.n_heads, 1, -1)
            turned = rotate(heads[:2], cosine, sine)
            remembered = getattr(self, f"remembered_{layer}")
            remembered[0].index_copy_(1, place, turned[1])
            remembered[1].index_copy_(1, place, heads[2])
            near = torch.baddbmm(self.seen, turned[0], remembered[0].transpose(1, 2), alpha=heads.shape[-1] ** -0.5)
            mixed = torch.bmm(torch.softmax(near, dim=-1), remembered[1])
            x = block.perceptron(x + block.attention_out(mixed.view(-1)))
        self.at.add_(1)
        return twin.readout(twin.norm(x))

    def write_next(self, token: Tensor, angle: Tensor, noise: Tensor) -> Tensor:
        """Reads a byte (1,) and draws the one after it, (1,), with Gumbel noise (K - 1,): never the unseen one."""
        logits = self._read_next(token, angle)
        return (logits[:-1] / self.temperature + noise).argmax(dim=0, keepdim=True)

    @torch.no_grad()
    def write(self, prompt: Tensor, n: int, seed: int) -> list[int]:
        """The n ids drawn behind a prompt (N,) int64 of at least one."""
        generator = torch.Generator().manual_seed(seed)
        chances = torch.empty(n, self.twin.embedding.num_embeddings - 1).exponential_(generator=generator)
        angles = self.angles(len(prompt) - 1 + n)
        self.reset()
        for token, angle in zip(prompt[:-1].split(1), angles, strict=False):
            self._read_next(token, angle)
        token, written = prompt[-1:], []
        for angle, noise in zip(angles[len(prompt) - 1 :], -chances.log(), strict=True):
            token = self._next(token, angle, noise)
            written.append(token)
        return torch.cat(written).tolist()


@torch.no_grad()
def stream_nats(twin: Transformer, tokens: Tensor, piece: int = 1024, batch: int = 8) -> Tensor:
    """Nats of tokens[1:] when the text is read byte after byte as `CachedTransformer` does: (N,) int64 to (N - 1,).

    A position's logits depend on a window's length of text before it in every block, and on the bytes of the
    convolution; pieces begin so much earlier, which makes them exact.
    """
    before = twin.size.n_layers * (twin.size.window - 1) + MIXED_BYTES
    n = len(tokens) - 1
    first = F.cross_entropy(twin.read(tokens[None, : min(n, before)])[0], tokens[1 : before + 1], reduction="none")
    parts = [first]
    starts = range(before, n, piece)
    n_whole = sum(start + piece <= n for start in starts)
    groups = [starts[at : min(at + batch, n_whole)] for at in range(0, n_whole, batch)]
    for group in (*groups, *([start] for start in starts[n_whole:])):
        begin = torch.tensor(group)
        length = min(piece, n - group[-1])
        at = begin[:, None] + torch.arange(-before, length)
        logits = twin.read(tokens[at])[:, before:]
        nats = F.cross_entropy(logits.transpose(1, 2), tokens[at + 1][:, before:], reduction="none")
        parts.append(nats.flatten())
    return torch.cat(parts)
