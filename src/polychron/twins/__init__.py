"""Dense networks trained beside the look-up tables: each as strong as it can be made on a few cores."""

from __future__ import annotations

from polychron.twins.gru import GRU
from polychron.twins.transformer import Transformer, TransformerSize
from polychron.twins.twin import Recipe, Twin
from polychron.twins.window_mlp import WindowMLP

__all__ = ["ATTENTION_ONLY", "PUBLISHED", "PUBLISHED_SIZE", "RECIPES", "Recipe", "Twin"]


def _transformer(name: str, size: TransformerSize, batch: int, rate: float) -> Recipe:
    perceptrons = "" if size.perceptron else ", no perceptrons"
    sizes = f"{size.n_layers} layers of width {size.width}, {size.n_heads} heads, window {size.window}{perceptrons}"
    return Recipe(name, lambda k, dropout: Transformer(k, size, dropout), batch, rate, sizes=sizes)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _transformer("transformer-small", TransformerSize(width=64, n_layers=2, n_heads=2, window=64), 8, 8e-3),
        _transformer("transformer-medium", TransformerSize(width=96, n_layers=3, n_heads=3, window=64), 8, 6e-3),
        _transformer("transformer-large", TransformerSize(width=128, n_layers=4, n_heads=4, window=128), 8, 4e-3),
        Recipe("gru", lambda k, dropout: GRU(k, 256, 64, length=32, dropout=dropout), 32, 8e-3, compiles=False,
               sizes="256 units"),
        Recipe("window-mlp", lambda k, dropout: WindowMLP(k, 12, 24, 512, 1, length=64, dropout=dropout), 8, 6e-3,
               sizes="12 bytes, hidden 512"),
    )
}  # fmt: skip

# `transformer-small` without its perceptrons: what leaving out the FFN does to a dense network.
ATTENTION_ONLY = _transformer(
    "transformer-attention", TransformerSize(width=64, n_layers=2, n_heads=2, window=64, perceptron=False), 8, 8e-3
)

# The dense transformer that the paper compares with, in the form of the other twins: d_ff = 2048, d_k = 64. On a CPU a
# run of it takes hours, so that no benchmark has it among its twins.
PUBLISHED_SIZE = TransformerSize(width=512, n_layers=6, n_heads=8, window=32)
PUBLISHED = _transformer("transformer-published", PUBLISHED_SIZE, 16, 1e-3)
