"""Tables in place of a dense network's perceptron: they imitate the old one, then the whole goes on learning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polychron.nn import LookupTables, VariantTables

WIDTH = 16


def put_in_place(block: nn.TransformerEncoderLayer, tables: nn.Module) -> None:
    block.linear1, block.linear2 = tables, nn.Identity()
    block.activation, block.activation_relu_or_gelu = nn.Identity(), 0  # 0: torch must not fuse what is not there


@pytest.mark.parametrize(
    "make",
    [
        lambda: LookupTables(WIDTH, WIDTH, n_tables=64, n_comparisons=5),
        lambda: VariantTables(WIDTH, WIDTH, n_tables=64, n_comparisons=5, hash="hyperplane"),
    ],
    ids=["order", "hyperplane"],
)
def test_tables_learn_what_a_perceptron_did_and_train_in_its_place(make):
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(
        WIDTH, nhead=2, dim_feedforward=64, dropout=0.0, batch_first=True, norm_first=True
    )
    x = torch.randn(64, 8, WIDTH)
    with torch.no_grad():
        block.linear2.weight.mul_(3)
        stream = torch.nn.functional.layer_norm(x, (WIDTH,))
        wanted = block.linear2(block.activation(block.linear1(stream)))
        whole = block(x)
    tables = make()
    optimizer = torch.optim.Adam(tables.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        error = (tables(stream) - wanted).square().mean()
        error.backward()
        optimizer.step()
    assert error < 0.1 * wanted.var()

    put_in_place(block, tables)
    block.eval()
    changed = block(x)
    assert changed.shape == whole.shape
    assert (changed - whole).square().mean() < 0.9 * wanted.square().mean()  # nearer than without any perceptron
    changed.square().mean().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    assert block.self_attn.in_proj_weight.grad.abs().max() > 0
