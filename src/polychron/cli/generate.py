"""``polychron generate``: continue a prompt."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from polychron.cli.console import ByteStream, print_json
from polychron.runtime import Stream
from polychron.runtime.sampling import Sampler, generate
from polychron.training.checkpoint import open_checkpoint


def run_generate(
    directory: Path,
    prompt: bytes,
    *,
    n_bytes: int,
    temperature: float,
    top_p: float,
    seed: int,
    threads: int | None,
    json: bool,
) -> None:
    """Write the prompt and ``n_bytes`` bytes after it to standard output, each as soon as it is drawn."""
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = open_checkpoint(directory)
    vocabulary = checkpoint.vocabulary
    sampler = Sampler(temperature=temperature, top_p=top_p, seed=seed, excluded=[vocabulary.unseen_id])
    model = checkpoint.load_model()

    began = time.perf_counter()
    pieces = generate(Stream(model), vocabulary, prompt, n_bytes, sampler)
    if json:
        text = b"".join(pieces)
        seconds = time.perf_counter() - began
        print_json(
            {
                "prompt": prompt.decode("utf-8", errors="replace"),
                "text": text.decode("utf-8", errors="replace"),
                "bytes": len(text),
                "bytes_per_second": len(text) / max(seconds, 1e-9),
            }
        )
        return
    output = ByteStream(sys.stdout)
    output.write(prompt)
    for piece in pieces:
        output.write(piece)
    output.close()
