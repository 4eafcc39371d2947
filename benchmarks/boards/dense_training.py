"""Trains the dense peers: a perceptron for the classifier, one over the last bytes for text. Then they are bytes."""

# B example, n input, H unit, W bytes of context, E numbers of an embedding

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from boards.dense_int8 import DenseInt8, even, quantize_dense
from polychron.data.labelled import LabelledSet

_MIDDLE = 128


def train_perceptron(labelled: LabelledSet, n_hidden: int, steps: int, seed: int) -> DenseInt8:
    """Inputs, rectified units (0: none), classes: AdamW with one cycle of rates; inputs around 0."""
    torch.manual_seed(seed)
    n, k = labelled.n_inputs, len(labelled.class_names)
    hidden = [nn.Linear(n, n_hidden), nn.ReLU(), nn.Dropout(0.1)] if n_hidden else []
    model = nn.Sequential(*hidden, nn.Linear(n_hidden or n, k))
    inputs = (torch.from_numpy(labelled.train_inputs).float() - _MIDDLE) / _MIDDLE
    labels = torch.from_numpy(labelled.train_labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    return _in_bytes(linear, 1 / _MIDDLE, labelled.train_inputs[:2000])


class WindowPerceptron(nn.Module):
    """Embeddings of the last W bytes side by side, rectified units, the next byte.

    Args:
        n_tokens: of the vocabulary.
        context: W.
        width: E.
        n_hidden: H.
    """

    def __init__(self, n_tokens: int, context: int, width: int, n_hidden: int):
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(n_tokens, width)
        self.first = nn.Linear(context * width, n_hidden)
        self.second = nn.Linear(n_hidden, n_tokens)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows (B, W) to logits (B, V); embeddings within what int8 holds."""
        x = self.embedding(windows).clamp(-1, 127 / 128).flatten(1)
        return self.second(torch.relu(self.first(x)))


def train_window(tokens: np.ndarray, n_tokens: int, n_hidden: int, steps: int, seed: int) -> WindowPerceptron:
    """Windows from anywhere in the text, 512 a step; AdamW with one cycle of rates."""
    torch.manual_seed(seed)
    model = WindowPerceptron(n_tokens, context=8, width=16, n_hidden=n_hidden)
    nn.init.uniform_(model.embedding.weight, -0.5, 0.5)
    text = torch.from_numpy(tokens.astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    back = torch.arange(model.context)
    for _ in range(steps):
        at = torch.randint(len(text) - model.context - 1, (512, 1)) + back
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(text[at]), text[at[:, -1] + 1]).backward()
        optimizer.step()
        schedule.step()
    return model


def kept_window(
    path: Path | None, tokens: np.ndarray, n_tokens: int, n_hidden: int, steps: int, seed: int
) -> WindowPerceptron:
    """The perceptron in a safetensors file, whatever its size; or trained, and written there where a path is given."""
    if path is not None and path.exists():
        tensors = load_file(path)
        width = tensors["embedding.weight"].shape[1]
        model = WindowPerceptron(n_tokens, tensors["first.weight"].shape[1] // width, width, len(tensors["first.bias"]))
        model.load_state_dict(tensors)
        return model
    model = train_window(tokens, n_tokens, n_hidden, steps, seed)
    if path is not None:
        save_file(model.state_dict(), path)
    return model


def window_in_bytes(model: WindowPerceptron, tokens: np.ndarray) -> tuple[DenseInt8, np.ndarray]:
    """The network on bytes, and the embedding (V, E) uint8 that it reads."""
    embedding = model.embedding.weight.detach().clamp(-1, 127 / 128).numpy()
    embedding = (np.rint(embedding * 128) + _MIDDLE).astype(np.uint8)
    examples = embedding[windows(tokens[:4000], model.context)].reshape(-1, model.first.in_features)
    return _in_bytes([model.first, model.second], 1 / _MIDDLE, examples), embedding


def windows(tokens: np.ndarray, context: int) -> np.ndarray:
    """Every position's last ``context`` tokens, from the first that has so many: (N, W)."""
    return np.lib.stride_tricks.sliding_window_view(tokens, context)


def _in_bytes(layers: list[nn.Linear], unit: float, examples: np.ndarray) -> DenseInt8:
    """What was trained on (byte - 128) / 128 reads bytes: the shift goes into the bias."""
    arrays = []
    for at, layer in enumerate(layers):
        weights, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        if at == 0:
            bias = bias - weights.sum(axis=1)
        if at > 0:  # a unit of zeros more where the layer before was padded
            weights = np.pad(weights, ((0, 0), (0, len(arrays[-1][1]) - weights.shape[1])))
        arrays.append(even(weights, bias))
    return quantize_dense(arrays, unit, examples)
