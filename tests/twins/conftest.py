"""A text of a few kilobytes, divided, and twins so small that they train in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from polychron.twins import Recipe
from polychron.twins.gru import GRU
from polychron.twins.split import Split
from polychron.twins.transformer import Transformer, TransformerSize
from polychron.twins.window_mlp import WindowMLP

SIZE = TransformerSize(width=16, n_layers=2, n_heads=2, window=12)
TINY = {
    "transformer": Recipe("transformer", lambda k, dropout: Transformer(k, SIZE, dropout), 8, 1e-2, compiles=False),
    "gru": Recipe("gru", lambda k, dropout: GRU(k, 24, 8, length=12, dropout=dropout), 8, 1e-2, compiles=False),
    "window-mlp": Recipe(
        "window-mlp", lambda k, dropout: WindowMLP(k, 5, 8, 24, 1, length=12, dropout=dropout), 8, 1e-2, compiles=False
    ),
}


@pytest.fixture(scope="session")
def text_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "sheep.txt"
    path.write_bytes(b"".join(b"The %d sheep of field %d eat grass. " % (n * n, n) for n in range(400)))
    return path


@pytest.fixture(scope="session")
def split(text_path: Path) -> Split:
    return Split.of(text_path)


@pytest.fixture(params=TINY)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return TINY[request.param]
